"""What sampling and loading say when a network is not what it should be."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from methods.core.rng import SeededRng
from methods.core.types import At, DataSpec, Prediction
from methods.edm import EDM
from pipeline.errors import TrilemmaError
from pipeline.painting import finite
from pipeline.weights import load_networks, save_weights

POINTS, CPU = DataSpec((2,), 3, 0.7), torch.device("cpu")
SMALL = EDM(net="mlp", width=16, depth=1)


@pytest.mark.parametrize("part", ["x0", "push"])
def test_the_first_nan_is_told_with_its_step_level_and_seed(part: str) -> None:
    def broken(x: Tensor, at: At) -> Prediction:
        bad = torch.zeros_like(x)
        bad[2, 1] = float("nan") if at.step == 3 else 0.0
        return Prediction(**{"x0": x, part: bad})

    rng = SeededRng(range(70, 74))
    with pytest.raises(TrilemmaError, match=r"the network gave NaN or infinity in step 3 \(sigma [\d.]+\), seed 72"):
        SMALL.sample(
            SMALL.build(POINTS), EDM.Sampling(steps=5), None, rng, lambda _: finite(broken, rng, "the network")
        )


def test_weights_of_another_shape_are_told_by_name(tmp_path: Path) -> None:
    save_weights(tmp_path, {"denoiser": SMALL.build(POINTS)["denoiser"].state_dict()})
    assert load_networks(tmp_path, SMALL, POINTS, CPU)["denoiser"].training is False
    wider = EDM(net="mlp", width=32, depth=1)
    with pytest.raises(TrilemmaError, match=r"denoiser: body\.last\.weight is \[2, 16\], \[2, 32\] was wanted"):
        load_networks(tmp_path, wider, POINTS, CPU)
    deeper = EDM(net="mlp", width=16, depth=2)
    with pytest.raises(TrilemmaError, match=r"body\.trunk\.blocks\.1\.\S+ is nothing, \[.*\] was wanted"):
        load_networks(tmp_path, deeper, POINTS, CPU)
