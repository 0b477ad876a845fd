"""Classifier guidance: the exact posterior as a classifier, entropy-driven scales, training, bad input."""

import math

import pytest
import torch
from torch.testing import assert_close

from methods.classifier_guidance import Classifier, Use, entropy, entropy_scale
from methods.core.guidance import guided
from methods.core.rng import SeededRng
from methods.core.types import At, Batch, DataSpec
from methods.ddpm import DDPM, Sampling
from tests.methods.toy import LABELS, POINTS, X, trained

METHOD = Classifier(net="mlp", width=16, depth=1)


def test_uniform_predictions_have_scale_one_and_confident_ones_a_larger() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    assert_close(entropy(logits)[0], torch.tensor(math.log(3)))
    scales = entropy_scale(logits)
    assert_close(scales[0], torch.tensor(1.0))
    assert scales[1] > 5


def test_the_guides_score_points_towards_its_label_in_its_own_rows_only() -> None:
    torch.manual_seed(0)
    nets = METHOD.build(POINTS)
    model = DDPM(net="mlp", steps=40, width=16, depth=1)
    denoise = model.denoiser(model.build(POINTS)["denoiser"], None)
    scores = []
    for labels in (torch.tensor([0, 1]), torch.tensor([0, 2])):
        steered = guided(denoise, METHOD.guide(nets, labels, Use(scale=2.0)))
        scores.append(steered(X[:2], at(2)).guidance_score)
    assert torch.equal(scores[0][0], scores[1][0])
    assert not torch.equal(scores[0][1], scores[1][1])


def at(count: int) -> At:
    return At(torch.full((count,), 0.5), 0)


def test_the_classifier_trains_through_the_one_loop_and_steers_a_sampler() -> None:
    state, metrics = trained(METHOD)
    assert metrics[0].keys() == {"loss", "accuracy"}
    model = DDPM(net="mlp", steps=40, width=16, depth=1)
    nets, labels = model.build(POINTS), LABELS[:4]
    for use in (Use(), Use(entropy_driven=True, entropy_cap=3.0)):
        guide = METHOD.guide(state.nets, labels, use)
        out = model.sample(nets, Sampling(spacing="4"), None, SeededRng(range(4)), lambda d, g=guide: guided(d, g))
        assert out.isfinite().all()


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="labelled"):
        METHOD.build(DataSpec((2,), 0, 1.0))
    nets = METHOD.build(POINTS)
    with pytest.raises(ValueError, match="labels"):
        METHOD.guide(nets, None, Use())
    with pytest.raises(ValueError, match="labels"):
        METHOD.loss("classifier", nets, Batch(X), {"index": LABELS, "noise": X}, 0)
    with pytest.raises(ValueError, match="entropy_cap"):
        Use(entropy_cap=2.0)
