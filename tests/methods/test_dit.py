"""The diffusion transformer: sizes of the paper, zero at initialisation, guidance of some channels, wrong settings."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from methods.core.rng import SeededRng
from methods.core.types import DataSpec
from methods.edm import EDM
from methods.iddpm import IDDPM
from methods.nets.dit import DiT

LATENTS = DataSpec((4, 8, 8), 3, 1.0)
SMALL: dict[str, Any] = {"net": "dit", "width": 16, "depth": 1, "heads": 2, "label_dropout": 0.1, "conditional": True}


@pytest.mark.parametrize(
    ("width", "depth", "heads", "parameters"),
    [(384, 12, 6, 32_963_360), (1152, 28, 16, 675_129_632)],
    ids=["S/2", "XL/2"],
)
def test_sizes_are_the_papers(width: int, depth: int, heads: int, parameters: int) -> None:
    """33M and 675M, positions included; the second is the released file's to the last parameter."""
    with torch.device("meta"):
        net = DiT((4, 32, 32), 8, width=width, depth=depth, heads=heads, classes=1001)
    assert sum(value.numel() for value in net.state_dict().values()) == parameters


def test_a_fresh_network_returns_zeros() -> None:
    net = DiT((4, 8, 8), 8, width=16, depth=2, heads=2, classes=4)
    assert net(torch.randn(2, 4, 8, 8), torch.tensor([0.0, 999.0]), torch.tensor([0, 3])).eq(0).all()


@pytest.mark.parametrize("method", [EDM(**SMALL), IDDPM(**SMALL, steps=50)], ids=["edm", "iddpm"])
def test_guidance_of_three_channels_leaves_the_fourth(method: EDM | IDDPM) -> None:
    """In one deterministic step, where channels do not mix."""
    nets = method.build(LATENTS)
    for value in nets["denoiser"].parameters():
        torch.nn.init.normal_(value, std=0.2)
    one_step: Any = {"steps": 1} if isinstance(method, EDM) else {"spacing": "1", "eta": 0.0, "clip": False}

    def sampled(**guidance: Any) -> torch.Tensor:
        options: Any = method.Sampling(**one_step, **guidance)
        return method.sample(nets, options, torch.arange(3), SeededRng(range(3)))

    plain, some, every = sampled(), sampled(cfg_weight=2.0, cfg_channels=3), sampled(cfg_weight=2.0)
    assert_close(some[:, :3], every[:, :3])
    assert torch.equal(some[:, 3], plain[:, 3])
    assert not torch.allclose(every[:, 3], plain[:, 3])
    with pytest.raises(ValueError, match=r"cfg_channels: 3 came, none without cfg_weight"):
        method.Sampling(cfg_channels=3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"patch": 3}, r"patch: 3 came, a divisor of the 8 pixels of a side"),
        ({"heads": 3}, r"heads: 3 came, a divisor of the width, 16"),
        ({"width": 18, "heads": 2}, r"width: 18 came, a multiple of 4"),
    ],
)
def test_wrong_sizes_are_named(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IDDPM(**SMALL | model).build(LATENTS)
    with pytest.raises(ValueError, match="is for square images"):
        EDM(**SMALL).build(DataSpec((2,), 0, 1.0))
