"""Classifier-free guidance: its score, labels hidden in training, and invalid input."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.density.mixtures import Mixture
from methods.core.guidance import classifier_free, constant, switched
from methods.core.labels import drop_labels
from methods.core.rng import SeededRng, StepRng
from methods.core.types import At, Batch, DataSpec, Denoiser, Prediction
from methods.ddpm import DDPM
from methods.edm import EDM
from methods.iddpm import IDDPM
from tests.methods.toy import LABELS, POINTS, X, trained

SMALL = {"net": "mlp", "width": 16, "depth": 1, "conditional": True, "label_dropout": 0.5}
METHODS = {
    "edm": EDM(**SMALL, lr_rampup_images=100),
    "ddpm": DDPM(**SMALL, steps=40),
    "iddpm": IDDPM(**SMALL, steps=40),
}
SAMPLING = {"edm": {"steps": 4}, "ddpm": {"spacing": "5"}, "iddpm": {"spacing": "5"}}
every_method = pytest.mark.parametrize("name", METHODS)
ONE = Mixture(torch.tensor([[1.0, 0.0]]).double(), 0.3, torch.ones(1).double())
ALL = Mixture(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(), 0.3, torch.tensor([0.5, 0.5]).double())


def at(count: int, sigma: float = 0.8) -> At:
    return At(torch.full((count,), sigma, dtype=torch.float64), 0)


def test_the_score_is_extrapolated_from_all_classes_through_the_label() -> None:
    x, sigma = torch.randn(8, 2).double(), at(8).sigma
    prediction = classifier_free(ONE.denoise, ALL.denoise, constant(1.5))(x, at(8)).x0
    score = 2.5 * ONE.score(x, sigma) - 1.5 * ALL.score(x, sigma)
    assert_close((prediction - x) / 0.8**2, score)


def test_a_weight_of_zero_calls_no_second_network() -> None:
    def never(x: Tensor, at: At):
        raise AssertionError("called")

    law = switched(constant(0.0), constant(2.0), 0.5)
    assert classifier_free(ONE.denoise, never, law)(torch.zeros(2, 2).double(), at(2)).x0.isfinite().all()
    with pytest.raises(AssertionError, match="called"):
        classifier_free(ONE.denoise, never, law)(torch.zeros(2, 2).double(), at(2, 0.4))


@every_method
def test_a_hidden_class_is_the_one_of_images_without_labels(name: str) -> None:
    net = trained(METHODS[name])[0].nets["denoiser"]
    sigma = torch.full((8,), 0.8)
    where = sigma if name == "edm" else torch.full((8,), 7)
    hidden = net(X[:8], where, torch.full((8,), -1))
    assert torch.equal(hidden, net(X[:8], where, None))
    assert not torch.equal(hidden, net(X[:8], where, LABELS[:8]))


@every_method
def test_it_moves_samples_only_where_it_has_weight(name: str) -> None:
    method, (state, _) = METHODS[name], trained(METHODS[name])
    images = {
        weight: method.sample(
            state.nets, method.Sampling(**SAMPLING[name], cfg_weight=weight), LABELS[:8], SeededRng(range(8))
        )
        for weight in (0.0, 2.0)
    }
    assert images[2.0].isfinite().all()
    assert not torch.equal(images[0.0], images[2.0])
    without_dropout = dataclasses.replace(method, label_dropout=0.0)
    if name == "edm":  # the same network, trained with every label
        same = without_dropout.sample(state.nets, EDM.Sampling(steps=4), LABELS[:8], SeededRng(range(8)))
        assert torch.equal(same, images[0.0])


@every_method
def test_labels_are_hidden_for_the_share_of_images_that_label_dropout_gives(name: str) -> None:
    draws = METHODS[name].draw("denoiser", Batch(torch.zeros(4000, 2)), StepRng(0, 0, "denoiser"))
    share = float((drop_labels(torch.zeros(4000, dtype=torch.int64), draws["hide"], 0.5) < 0).double().mean())
    assert abs(share - 0.5) < 0.04
    without = dataclasses.replace(METHODS[name], label_dropout=0.0)
    assert "hide" not in without.draw("denoiser", Batch(X), StepRng(0, 0, "denoiser"))


@every_method
def test_impossible_settings_raise_an_error_before_sampling(name: str) -> None:
    method = METHODS[name]
    nets, guide = method.build(POINTS), method.Sampling(**SAMPLING[name], cfg_weight=1.0)
    without_dropout = dataclasses.replace(method, label_dropout=0.0)
    for model, weights, labels in ((without_dropout, without_dropout.build(POINTS), LABELS[:4]), (method, nets, None)):
        with pytest.raises(ValueError, match=r"cfg_weight: 1\.0 came, .*label_dropout"):
            model.sample(weights, guide, labels, SeededRng(range(4)))
    for wrong in (torch.tensor([0, 3]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match=r"labels: .* came, a class, 0 to 2, was wanted"):
            method.sample(nets, method.Sampling(**SAMPLING[name]), wrong, SeededRng(range(2)))
    with pytest.raises(ValueError, match=r"label_dropout: .* unconditional"):
        dataclasses.replace(method, conditional=False)
    unlabelled, batch = method.build(DataSpec((2,), 0, 1.0)), Batch(X[:8])
    draws = method.draw("denoiser", batch, StepRng(0, 0, "denoiser"))
    with pytest.raises(ValueError, match="no labels to drop"):
        method.loss("denoiser", unlabelled, batch, draws, 0)


def test_other_guides_add_to_it() -> None:
    """A prediction's guidance score is unchanged, and the image is extrapolated as without one."""
    x = torch.zeros(2, 2).double()

    def with_score(x: Tensor, at: At) -> Prediction:
        return ONE.denoise(x, at)._replace(guidance_score=torch.ones_like(x))

    prediction = classifier_free(with_score, ALL.denoise, constant(1.0))(x, at(2))
    assert prediction.guidance_score is not None
    assert prediction.guidance_score.eq(1).all()
    assert torch.equal(prediction.x0, classifier_free(ONE.denoise, ALL.denoise, constant(1.0))(x, at(2)).x0)


@every_method
def test_steps_outside_the_interval_are_not_guided(name: str) -> None:
    method, levels = METHODS[name], []
    net = trained(method)[0].nets["denoiser"].eval()

    def sampled(**guidance) -> Tensor:
        sampling = method.Sampling(**SAMPLING[name], **guidance)
        return method.sample({"denoiser": net}, sampling, LABELS[:8], SeededRng(range(8)), wrap=recorded)

    def recorded(denoise: Denoiser) -> Denoiser:
        def recording(x: Tensor, at: At) -> Prediction:
            levels.append(at.begins)
            return denoise(x, at)

        return recording

    plain = sampled()
    assert None not in levels
    lowest = min(levels)
    assert torch.equal(sampled(cfg_weight=2.0, cfg_interval=(0.0, lowest / 2)), plain)
    assert torch.equal(sampled(cfg_weight=2.0, cfg_interval=(0.0, 1e9)), sampled(cfg_weight=2.0))
    partly = sampled(cfg_weight=2.0, cfg_interval=(lowest, max(levels)))
    assert not torch.equal(partly, plain)
    assert not torch.equal(partly, sampled(cfg_weight=2.0))
    for weight, interval, message in (
        (0.0, (0.0, 1.0), "none without cfg_weight"),
        (1.0, (2.0, 1.0), "the lower first"),
    ):
        with pytest.raises(ValueError, match=message):
            method.Sampling(**SAMPLING[name], cfg_weight=weight, cfg_interval=interval)
