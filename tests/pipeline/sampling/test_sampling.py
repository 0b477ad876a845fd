"""Sizes of sampling tasks, and errors of sampling and loading."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.classifier_guidance import Classifier
from methods.classifier_guidance import Use as ClassifierUse
from methods.core.rng import SeededRng
from methods.core.types import At, DataSpec, Prediction
from methods.discriminator_guidance import Discriminator
from methods.edm import EDM
from pipeline.errors import ConfigError, TrilemmaError
from pipeline.sampling.sampler import Guidance, GuidedSampler, SamplerConfig, SamplerSpec, finite, images_per_task
from pipeline.training.networks import load_networks, save_weights

POINTS, CPU = DataSpec((2,), 3, 0.7), torch.device("cpu")
SMALL = EDM(net="mlp", width=16, depth=1)


@pytest.mark.parametrize(
    ("images", "workers", "size"), [(1, 0, 64), (200, 0, 64), (1000, 0, 192), (50_000, 0, 512), (10_000, 8, 256)]
)
def test_a_task_is_a_multiple_of_a_tile_and_every_worker_has_several(images: int, workers: int, size: int) -> None:
    assert images_per_task(images, workers) == size


@pytest.mark.parametrize("part", ["x0", "guidance_score"])
def test_the_error_for_a_nan_names_its_first_step_noise_level_and_seed(part: str) -> None:
    def broken(x: Tensor, at: At) -> Prediction:
        bad = torch.zeros_like(x)
        bad[2, 1] = float("nan") if at.step == 3 else 0.0
        return Prediction(**{"x0": x, part: bad})

    rng = SeededRng(range(70, 74))
    with pytest.raises(TrilemmaError, match=r"the network gave NaN or infinity in step 3 \(sigma [\d.]+\), seed 72"):
        SMALL.sample(
            SMALL.build(POINTS), EDM.Sampling(steps=5), None, rng, lambda _: finite(broken, rng, "the network")
        )


def test_the_error_for_weights_of_another_shape_names_them(tmp_path: Path) -> None:
    save_weights(tmp_path, {"denoiser": SMALL.build(POINTS)["denoiser"].state_dict()})
    assert load_networks(tmp_path, SMALL, POINTS, CPU)["denoiser"].training is False
    wider = EDM(net="mlp", width=32, depth=1)
    with pytest.raises(TrilemmaError, match=r"denoiser: body\.last\.weight is \[2, 16\], \[2, 32\] was wanted"):
        load_networks(tmp_path, wider, POINTS, CPU)
    deeper = EDM(net="mlp", width=16, depth=2)
    with pytest.raises(TrilemmaError, match=r"body\.trunk\.blocks\.1\.\S+ is nothing, \[.*\] was wanted"):
        load_networks(tmp_path, deeper, POINTS, CPU)


@pytest.mark.parametrize(
    ("use", "sample"),
    [
        ({"time_min": 0.5, "time_max": 0.6}, {"steps": 2}),  # its levels: 80 and 0.002
        ({"weight": 0.0, "second_weight": 2.0}, {"steps": 4, "solver": "euler"}),
    ],
)
def test_a_guide_whose_window_holds_no_evaluation_is_refused_before_sampling(
    use: dict[str, Any], sample: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("run", "dg"):
        (tmp_path / name).mkdir()
    model = {"body": "mlp", "width": 8, "depth": 1}
    save_weights(tmp_path / "run", {"denoiser": SMALL.build(POINTS)["denoiser"].state_dict()})
    save_weights(tmp_path / "dg", {"discriminator": Discriminator(**model).build(POINTS)["discriminator"].state_dict()})
    guidance = Guidance("dg", "discriminator_guidance.Discriminator", model, use, None)
    sampler = SamplerConfig("edm.EDM", {"net": "mlp", "width": 16, "depth": 1}, sample, [guidance])
    facts = {"shape": list(POINTS.shape), "classes": POINTS.classes, "std": POINTS.std}
    settings = json.dumps(asdict(sampler) | {"facts": facts})
    with pytest.raises(ConfigError, match=r"dg: its window is sigma .* is inside: widen the guide's window"):
        GuidedSampler(SamplerSpec(settings, tmp_path / "run", (tmp_path / "dg",), (None,)))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_outside_those_of_the_classifier_is_refused_before_sampling(label: int) -> None:
    classifier = Classifier(net="mlp", width=8, depth=1)
    with pytest.raises(ValueError, match=rf"labels: {label} to {label} came, a class, 0 to 2, was wanted"):
        classifier.guide(classifier.build(POINTS), torch.tensor([label]), ClassifierUse())
