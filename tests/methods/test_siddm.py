"""SIDDM: the loss of each player, the cross entropies, the discriminator's input, sampling."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.process.continuous import pair_of_times
from methods.core.process.posterior import diffuse
from methods.core.rng import SeededRng, StepRng
from methods.core.types import Batch
from methods.nets.discriminator_output import DiscriminatorOutput
from methods.nets.small.mixture_mlp import MixtureGenerator
from methods.siddm import SIDDM, CrossEntropy, Sampling, StepTensors
from tests.methods.toy import COLLAPSE_STATISTICS, POINTS, X, trained

METHOD = SIDDM(afd="exact")
BATCH = Batch(X)


def game(method: SIDDM) -> tuple[dict, dict[str, Tensor]]:
    torch.manual_seed(0)
    return method.build(POINTS), method.draw("generator", BATCH, StepRng(0, 0, "generator"))


def test_c_minimises_its_regression_and_the_generator_maximises_it() -> None:
    nets, draws = game(METHOD)
    loss, metrics = METHOD.loss("discriminator", nets, BATCH, draws, 0)
    without, _ = replace(METHOD, c_target=None).loss("discriminator", nets, BATCH, draws, 0)
    assert metrics["regression"] > 0
    assert_close(loss - without, metrics["regression"])
    loss, _ = METHOD.loss("generator", nets, BATCH, draws, 0)
    without, _ = replace(METHOD, c_target=None).loss("generator", nets, BATCH, draws, 0)
    assert_close(without - loss, metrics["regression"])


def test_without_afd_only_the_adversarial_loss_is_left() -> None:
    nets, draws = game(METHOD)
    loss, metrics = replace(METHOD, afd_weight=0.0).loss("generator", nets, BATCH, draws, 0)
    assert_close(loss.detach(), metrics["generator_adversarial"])


def test_without_an_adversarial_loss_there_are_no_collapse_statistics() -> None:
    nets, draws = game(METHOD)
    for weight in (1.0, 0.0):
        _, metrics = replace(METHOD, adversarial_weight=weight).loss("discriminator", nets, BATCH, draws, 0)
        assert (metrics.keys() >= COLLAPSE_STATISTICS) == (weight > 0)


def test_each_head_learns_from_its_own_side() -> None:
    """C from fakes, R from reals."""
    for method, learns, idle in (
        (replace(METHOD, clean_weight=None), "noisier", "clean"),
        (replace(METHOD, c_target=None), "clean", "noisier"),
    ):
        nets, draws = game(METHOD)
        loss, _ = method.loss("discriminator", nets, BATCH, draws, 0)
        loss.backward()
        heads = dict(nets["discriminator"].named_parameters())
        assert heads[f"{learns}.weight"].grad is not None
        assert heads[f"{idle}.weight"].grad is None


def test_c_is_trained_on_fakes_and_r_on_reals() -> None:
    nets, draws = game(METHOD)
    seen: list[tuple[Tensor, DiscriminatorOutput]] = []
    nets["discriminator"].register_forward_hook(lambda net, given, output: seen.append((given[0], output)))
    _, metrics = METHOD.loss("discriminator", nets, BATCH, draws, 0)
    made = METHOD.step_tensors(nets["generator"], X, draws)
    (on_fake, verdict), (on_real, _) = seen
    assert torch.equal(on_fake, made.fake)
    assert torch.equal(on_real, made.x_s)
    assert verdict.noisier is not None
    weight = (1 / (2 * made.times.beta)).clamp(max=10.0)
    assert_close(metrics["regression"], (weight * (verdict.noisier - made.x_u).square().mean(1)).mean())


def test_the_regulariser_can_be_added_to_ddgans_losses() -> None:
    """SIDDM on pairs without the forward terms is DDGAN in continuous time."""
    ddgan = replace(METHOD, sees_pair=True, afd_weight=0.0, c_target=None)
    nets, draws = game(ddgan)
    made = ddgan.step_tensors(nets["generator"], X, draws)
    loss, _ = ddgan.loss("discriminator", nets, BATCH, draws, 0)
    without, _ = replace(ddgan, clean_weight=None).loss("discriminator", nets, BATCH, draws, 0)
    guess = ddgan.discriminate(nets["discriminator"], made, made.x_s).clean
    assert guess is not None
    assert_close(loss - without, (guess - X).square().mean())


@pytest.mark.parametrize("c_target", ["renoised", None])
def test_without_the_adversarial_loss_the_regulariser_reaches_the_generator_through_c_alone(
    c_target: Literal["renoised"] | None,
) -> None:
    """So the two cells of table 5 at infinity are two trainings with C, and one without."""
    by_weight = [
        trained(replace(METHOD, afd="paper", adversarial_weight=0.0, c_target=c_target, clean_weight=weight))[0]
        for weight in (1.0, None)
    ]
    first, second = (torch.cat([p.flatten() for p in state.nets["generator"].parameters()]) for state in by_weight)
    assert torch.equal(first, second) == (c_target is None)


def test_the_discriminator_step_does_not_change_the_generator() -> None:
    nets, draws = game(METHOD)
    loss, _ = METHOD.loss("discriminator", nets, BATCH, draws, 0)
    loss.backward()
    assert all(p.grad is None for p in nets["generator"].parameters())


def step_tensors(count: int, beta_s_to_u: tuple[float, float]) -> StepTensors:
    """x'_s far from x_s, and many noises of the forward step."""
    s, u = (torch.full((count,), time).double() for time in beta_s_to_u)
    times, generator = pair_of_times(s, u), torch.Generator().manual_seed(0)
    x_s, fake = (
        torch.tensor([[1.0, -1.0]]).double().expand(count, 2),
        torch.tensor([[0.5, 0.0]]).double().expand(count, 2),
    )
    noises = torch.randn(2, count, 2, generator=generator, dtype=torch.float64)
    x_u, renoised = (diffuse(x, 1 - times.beta, noise) for x, noise in zip((x_s, fake), noises))
    return StepTensors(times, x_s, x_u, fake, fake, renoised)


@pytest.mark.parametrize(
    ("afd", "c_target", "at_truth", "at_mean"),
    [
        ("paper", "renoised", 0.083, -0.120),
        ("exact", "condition", 0.0, 0.083),
        ("renoise", "condition", 0.417, 0.417 + 0.070),  # exact's times 2 beta, plus beta
    ],
)
def test_only_with_x_u_as_cs_target_is_the_auxiliary_term_least_at_the_truth(
    afd: Literal["paper", "exact", "renoise"],
    c_target: Literal["renoised", "condition"],
    at_truth: float,
    at_mean: float,
) -> None:
    """x_0 ~ N(0, 1), so that x_s given x_u is N(keep x_u, beta), and C's optimum is known."""
    method = SIDDM(afd=afd, c_target=c_target)
    columns = torch.randn(64, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_0, *noises = (8 * torch.linalg.qr(columns).Q).T[..., None]  # uncorrelated with variance 1: all moments are exact
    times = pair_of_times(*(torch.full((64,), time).double() for time in (0.25, 0.5)))
    keep = (1 - times.beta[0]).sqrt()
    x_s = diffuse(x_0, times.alpha_bar_s, noises[0])
    x_u = diffuse(x_s, 1 - times.beta, noises[1])
    mean = times.alpha_bar_u[0].sqrt() * x_u  # of x_0 given x_u
    fakes = keep * x_u + times.beta[0].sqrt() * noises[2], method.posterior(times).sample(mean, x_u, noises[2])
    for fake, expected in zip(fakes, (at_truth, at_mean)):
        tensors = StepTensors(times, x_s, x_u, mean, fake, diffuse(fake, 1 - times.beta, noises[3]))
        target = tensors.renoised if c_target == "renoised" else x_u
        optimum = fake * (fake * target).mean() / fake.square().mean()
        value = (method.cross_entropy(tensors) - method.regression(optimum, tensors)).mean()
        assert value.item() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("c_target", "kind"), [("condition", "renoise"), ("renoised", "paper"), (None, "paper")])
def test_the_cross_entropy_goes_with_cs_target(
    c_target: Literal["renoised", "condition"] | None, kind: CrossEntropy
) -> None:
    assert SIDDM(c_target=c_target).cross_entropy_kind == kind


def test_the_three_cross_entropies_agree_in_expectation_when_the_fake_ignores_x_u() -> None:
    recorded = step_tensors(200_000, (0.25, 0.5))
    beta = recorded.times.beta[0]
    paper, exact, renoise = (
        SIDDM(afd=afd, afd_clip=None).cross_entropy(recorded).mean() for afd in ("paper", "exact", "renoise")
    )
    assert_close(exact, paper + 0.5, atol=0.01, rtol=0.0)
    assert_close(renoise, 2 * beta * exact + beta, atol=0.01, rtol=0.0)


def test_the_weight_of_a_step_of_almost_no_noise_is_clipped() -> None:
    recorded = step_tensors(10, (0.0, 1e-4))
    clipped, free = (SIDDM(afd="exact", afd_clip=clip).cross_entropy(recorded) for clip in (10.0, None))
    assert (free > 1000 * clipped).all()


def test_the_discriminators_input_is_the_marginal_by_default() -> None:
    for method, sees in ((METHOD, False), (replace(METHOD, sees_pair=True), True)):
        nets, draws = game(method)
        made = method.step_tensors(nets["generator"], X, draws)
        other = made._replace(x_u=made.x_u + 1)
        logits = [method.discriminate(nets["discriminator"], p, made.fake).logits for p in (made, other)]
        assert torch.equal(*logits) != sees


def test_training_times_reach_every_point_and_stay_in_order() -> None:
    times = METHOD.times(torch.tensor([0.0, 0.1, 0.25, 0.7, 1.0]))
    assert_close(times.u, torch.tensor([1e-4, 0.1, 0.25, 0.7, 1.0]))
    assert_close(times.s, torch.tensor([0.0, 0.0, 0.0, 0.45, 0.75]))
    assert (times.beta > 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_any_number_of_steps_can_be_sampled_from_one_model(steps: int) -> None:
    nets, _ = game(METHOD)
    calls: list[float] = []
    assert isinstance(nets["generator"], MixtureGenerator)
    nets["generator"].register_forward_hook(lambda net, given, out: calls.append(float(given[1][0])))
    for noise in ("fresh", "kept"):
        out = METHOD.sample(nets, Sampling(steps, noise), None, SeededRng(range(4)))
        assert out.isfinite().all()
    assert_close(calls, 2 * [1000.0 * (i + 1) / steps for i in reversed(range(steps))])


def test_siddm_trains_through_the_one_loop() -> None:
    state, metrics = trained(METHOD)
    assert all(value.isfinite() for step in metrics for value in step.values())
    assert METHOD.sample(state.nets, Sampling(), None, SeededRng(range(5))).shape == (5, 2)
