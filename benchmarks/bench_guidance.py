"""Calls of guides at the published size (CIFAR-10's classifier and head), one image: CPU seconds, one thread.

Official: attention blocks are computed again on the way back, and weights that nobody trains have gradients there.
"""

import sys
from collections.abc import Callable
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from timing import timed
from torch import Tensor, nn

from methods.classifier_guidance import Classifier
from methods.core.guidance import Guide, guided
from methods.core.types import At, DataSpec, Prediction
from methods.discriminator_guidance import Discriminator
from methods.nets.adm.blocks import AttentionBlock

WIDTH = 32 if "--small" in sys.argv else 128
CLASSIFIER = Classifier(width=WIDTH, depth=4, channel_mult=(1, 2, 4), head_width=WIDTH // 2)
DISCRIMINATOR = Discriminator(body="head", trunk=CLASSIFIER, width=WIDTH)
DATA = DataSpec((3, 32, 32), 10, 0.5)
LABELS = torch.tensor([3])
X = torch.randn(1, *DATA.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
AT = At(torch.tensor([0.7], dtype=torch.float64), 0)
REPEATS = 7


def main() -> None:
    torch.set_num_threads(1)
    shared, other = networks(), networks()
    by_class, by_ratio = guides(shared)
    _, apart = guides(other)
    _, matching = guides(shared, match_norm=True)
    _, matching_apart = guides(other, match_norm=True)
    ways: dict[str, Callable[[], Tensor]] = {
        "discriminator": lambda: guidance_score(by_ratio),
        "discriminator, official": lambda: officially(shared, lambda: guidance_score(by_ratio)),
        "both, one trunk": lambda: guidance_score(by_class, by_ratio),
        "both, two trunks": lambda: guidance_score(by_class, apart),
        "both, one trunk, norms matched": lambda: guidance_score(by_class, matching),
        "both, two trunks, norms matched": lambda: guidance_score(by_class, matching_apart),
    }
    for pair in ("discriminator", "discriminator, official"), ("both, one trunk", "both, two trunks"):
        torch.testing.assert_close(ways[pair[0]](), ways[pair[1]](), rtol=1e-3, atol=1e-6)
    turns = [{way: timed(work) for way, work in ways.items()} for _ in range(REPEATS)]
    for ours, theirs in zip(list(ways)[::2], list(ways)[1::2]):
        ratios = [turn[ours] / turn[theirs] for turn in turns]
        ms = 1000 * median(turn[theirs] for turn in turns)
        print(f"{ours} / {theirs} ({ms:.0f} ms): {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def networks() -> dict[str, nn.Module]:
    """Alike each time; layers that begin with zeros are filled, or there would be no gradient."""
    torch.manual_seed(0)
    nets = DISCRIMINATOR.build(DATA)
    for net in nets.values():
        for parameter in net.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        net.eval().requires_grad_(False)
    return nets


def guides(nets: dict[str, nn.Module], **use: Any) -> tuple[Guide, Guide]:
    by_class = CLASSIFIER.guide({"classifier": nets["trunk"]}, LABELS, Classifier.Use())
    return by_class, DISCRIMINATOR.guide(nets, LABELS, Discriminator.Use(**use))


def guidance_score(*some: Guide) -> Tensor:
    score = guided(lambda x, at: Prediction(x), *some)(X, AT).guidance_score
    assert score is not None
    return score


def officially(nets: dict[str, nn.Module], call: Callable[[], Tensor]) -> Tensor:
    attended = AttentionBlock.forward
    for net in nets.values():
        net.requires_grad_(True)
    try:
        with patch.object(AttentionBlock, "forward", lambda block, x: Again.apply(attended, block, x)):
            return call()
    finally:
        for net in nets.values():
            net.requires_grad_(False)


class Again(torch.autograd.Function):
    """A block whose inside is forgotten and computed again on the way back, with its weights' gradients."""

    @staticmethod
    def forward(ctx: Any, work: Callable[..., Tensor], block: nn.Module, x: Tensor) -> Tensor:
        ctx.work, ctx.block = work, block
        ctx.save_for_backward(x)
        return work(block, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            made = ctx.work(ctx.block, x)
        found = torch.autograd.grad(made, [x, *ctx.block.parameters()], gradients[0])
        return None, None, found[0]


if __name__ == "__main__":
    main()
