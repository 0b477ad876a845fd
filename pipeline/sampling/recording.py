"""Recordings along a few denoising paths: the denoiser's predictions, and the discriminators' log density ratios."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from methods.core.guidance import LOG_RATIO_OUTSIDE
from methods.core.rng import TILE
from methods.core.types import At, Denoiser, Prediction, Wrap

if TYPE_CHECKING:
    from pipeline.sampling.sampler import GuidedSampler


RECORDED_PATHS = 8
LOG_RATIO = "log_ratio.parquet"


def denoising_path(sampler: "GuidedSampler", seed: int) -> Tensor:
    """Predictions of x_0 for the seeds from `seed` on, at every step: [steps, RECORDED_PATHS, *shape]."""
    states: list[Tensor] = []

    def recording(denoise: Denoiser) -> Denoiser:
        def recorded(x: Tensor, at: At) -> Prediction:
            prediction = denoise(x, at)
            if at.order == 1:
                x0 = prediction.x0[:RECORDED_PATHS]
                states.append(x0 if sampler.decode is None else sampler.decode(x0.float()))
            return prediction

        return recorded

    list(sampler.sample(range(seed, seed + RECORDED_PATHS), recording))
    return torch.stack(states).cpu()


def log_ratios(sampler: "GuidedSampler", seed: int) -> list[dict[str, float | str]]:
    """Mean log density ratio of a tile of images and its standard error, at every step; 0 is as real as the data.

    Path "guided": with the guidance applied; "unguided": the discriminators are evaluated, but have no effect.
    """
    rows: list[dict[str, float | str]] = []

    def recording(path: str) -> Wrap:
        def record(denoise: Denoiser) -> Denoiser:
            def recorded(x: Tensor, at: At) -> Prediction:
                prediction = denoise(x, at)
                ratio = prediction.log_ratio
                if at.order == 1 and ratio is not None and ratio.max() < LOG_RATIO_OUTSIDE:
                    mean, error = ratio.mean().item(), ratio.std().item() / len(x) ** 0.5
                    sigma = at.sigma.mean().item()
                    rows.append({"path": path, "step": at.step, "sigma": sigma, "mean": mean, "error": error})
                return prediction if path == "guided" else prediction._replace(guidance_score=None, log_ratio=None)

            return recorded

        return record

    for path in ("guided", "unguided"):
        list(sampler.sample(range(seed, seed + TILE), recording(path)))
    return rows


def write_log_ratios(sampler: "GuidedSampler", seed: int, folder: Path) -> None:
    """The file LOG_RATIO, where discriminators guide the sampler."""
    rows = log_ratios(sampler, seed) if sampler.guides else []
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), folder / LOG_RATIO)
