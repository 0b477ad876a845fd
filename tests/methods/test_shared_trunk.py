"""Guidance by a classifier and a discriminator that share one frozen trunk."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from methods.classifier_guidance import Classifier
from methods.core.guidance import Guide, guided
from methods.core.rng import SeededRng
from methods.core.types import At, DataSpec, Prediction
from methods.discriminator_guidance import Discriminator
from methods.edm import EDM

PICTURES = DataSpec((1, 8, 8), 10, 0.5)
UNET = Classifier(steps=50, width=32, depth=1, channel_mult=(1, 2), attention=(4,), head_width=16)
MLP = Classifier(steps=50, net="mlp", width=16, depth=1)
LABELS = torch.arange(6) % 10
X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
AT = At(torch.full((6,), 0.7, dtype=torch.float64), 0)


def plain(x: Tensor, at: At) -> Prediction:
    return Prediction(0.5 * x)


class Pair:
    """Both guides on one trunk; layers initialised to zeros are drawn at random, or the score would be zero."""

    def __init__(self, classifier: Classifier) -> None:
        torch.manual_seed(0)
        self.classifier = classifier
        self.trunk = filled(classifier.build(PICTURES)["classifier"])
        self.method = Discriminator(body="head", trunk=classifier, width=32, depth=1)
        self.discriminate = filled(self.method.build(PICTURES)["discriminator"])

    def by_class(self, scale: float = 1.5, rows: slice = slice(6)) -> Guide:
        return self.classifier.guide({"classifier": self.trunk}, LABELS[rows], Classifier.Use(scale))

    def by_ratio(self, weight: float = 2.0, rows: slice = slice(6), **use) -> Guide:
        nets = {"trunk": self.trunk, "discriminator": self.discriminate}
        return self.method.guide(nets, LABELS[rows], Discriminator.Use(weight, **use))


def filled(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net.eval().requires_grad_(False)


@pytest.fixture(params=[UNET, MLP], ids=["unet", "mlp"], scope="module")
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


def guidance_score(*guides: Guide) -> Tensor:
    score = guided(plain, *guides)(X, AT).guidance_score
    assert score is not None
    return score


@contextmanager
def passes(net: nn.Module) -> Iterator[dict[str, int]]:
    """Forward and backward ones of a network."""
    counts = {"forward": 0, "backward": 0}

    def noted(_net: nn.Module, _given: object, made: tuple[Tensor, Tensor]) -> None:
        counts["forward"] += 1
        made[1].register_hook(lambda gradient: counts.update(backward=counts["backward"] + 1))

    handle = net.register_forward_hook(noted)
    yield counts
    handle.remove()


def test_guides_of_one_trunk_share_one_pass_there_and_one_back(pair: Pair) -> None:
    with passes(pair.trunk) as counts:
        guidance_score(pair.by_class(), pair.by_ratio())
    assert counts == {"forward": 1, "backward": 1}
    with passes(pair.trunk) as counts:
        guidance_score(pair.by_class(), pair.by_ratio(norm_scaling=True))
    assert counts == {"forward": 1, "backward": 2}
    with passes(pair.trunk) as counts:
        guidance_score(pair.by_class(), Pair(pair.classifier).by_ratio())  # another network of the same kind
    assert counts == {"forward": 1, "backward": 1}


def test_the_score_of_two_guides_is_the_sum_of_their_scores(pair: Pair) -> None:
    alone = guidance_score(pair.by_class()) + guidance_score(pair.by_ratio())
    assert_close(
        guidance_score(pair.by_class(), pair.by_ratio()), alone, rtol=1e-4, atol=1e-6 * float(alone.abs().max())
    )
    assert_close(
        guidance_score(pair.by_ratio(), pair.by_class()), alone, rtol=1e-4, atol=1e-6 * float(alone.abs().max())
    )
    assert pair.by_class().trunk == pair.by_ratio().trunk


def test_scales_of_zero_change_no_bit(pair: Pair) -> None:
    torch.manual_seed(0)
    edm = EDM(net="mlp", width=16, depth=1)
    nets = edm.build(PICTURES)

    def images(*guides: Guide) -> Tensor:
        return edm.sample(nets, EDM.Sampling(steps=4), LABELS, SeededRng(range(6)), lambda d: guided(d, *guides))

    assert torch.equal(images(pair.by_class(0.0), pair.by_ratio(0.0)), images())
    assert not torch.equal(images(pair.by_class(), pair.by_ratio()), images())


def test_an_image_is_guided_the_same_in_any_batch(pair: Pair) -> None:
    rows = slice(2, 4)
    some = guided(plain, pair.by_class(rows=rows), pair.by_ratio(rows=rows))(
        X[rows], At(AT.sigma[rows], 0)
    ).guidance_score
    whole = guidance_score(pair.by_class(), pair.by_ratio())
    assert_close(some, whole[rows], rtol=1e-4, atol=1e-6 * float(whole.abs().max()))


def length(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def test_a_guide_with_norm_scaling_has_the_others_norm_times_its_weight(pair: Pair) -> None:
    by_class, both = (
        guidance_score(pair.by_class(3.0)),
        guidance_score(pair.by_class(3.0), pair.by_ratio(2.0, norm_scaling=True)),
    )
    assert_close(length(both - by_class), 2.0 * length(by_class / 3.0), rtol=1e-3, atol=0)
    cosine = torch.cosine_similarity((both - by_class).flatten(1), guidance_score(pair.by_ratio()).flatten(1))
    assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-4)


def test_a_head_wants_a_trunk_and_a_trunk_a_head() -> None:
    with pytest.raises(ValueError, match=r"trunk: None came, a classifier for the head, and for nothing else was"):
        Discriminator(body="head")
    with pytest.raises(ValueError, match=r"trunk: .* came"):
        Discriminator(body="mlp", trunk=MLP)
