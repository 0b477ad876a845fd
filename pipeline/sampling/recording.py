"""What happens along a few denoising paths: what the denoiser makes of the pictures, and what discriminators say."""

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


PATHS = 8  # pictures whose denoising is kept
LOG_RATIO = "log_ratio.parquet"  # of guided entries: what their discriminators say along the path


def denoising_path(artist: "GuidedSampler", seed: int) -> Tensor:
    """What the denoiser makes of the first pictures at every step: [steps, n, *shape]."""
    states: list[Tensor] = []

    def recording(denoise: Denoiser) -> Denoiser:
        def recorded(x: Tensor, at: At) -> Prediction:
            prediction = denoise(x, at)
            if at.order == 1:
                states.append(prediction.x0[:PATHS])
            return prediction

        return recorded

    list(artist.paint(range(seed, seed + PATHS), recording))
    return torch.stack(states).cpu()


def log_ratios(artist: "GuidedSampler", seed: int) -> list[dict[str, float | str]]:
    """What the guiding discriminators say of a tile of pictures at every step, where they push it and where they only
    look on: mean log density ratio and its standard error. A guided sample should look as real as the data, 0.
    """
    rows: list[dict[str, float | str]] = []

    def watching(path: str) -> Wrap:
        def watch(denoise: Denoiser) -> Denoiser:
            def watched(x: Tensor, at: At) -> Prediction:
                said = denoise(x, at)
                if at.order == 1 and said.log_ratio is not None and said.log_ratio.max() < LOG_RATIO_OUTSIDE:
                    mean, error = said.log_ratio.mean().item(), said.log_ratio.std().item() / len(x) ** 0.5
                    sigma = at.sigma.mean().item()
                    rows.append({"path": path, "step": at.step, "sigma": sigma, "mean": mean, "error": error})
                return said if path == "guided" else said._replace(guidance_score=None, log_ratio=None)

            return watched

        return watch

    for path in ("guided", "unguided"):
        list(artist.paint(range(seed, seed + TILE), watching(path)))
    return rows


def write_log_ratios(artist: "GuidedSampler", seed: int, file: Path) -> None:
    rows = log_ratios(artist, seed) if artist.guides else []
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), file)
