"""Later methods: post-hoc averages, guidance intervals, autoguidance, consistency training, relativistic GANs."""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from methods.autoguidance import Use, autoguided
from methods.consistency import (
    BoundaryScheme,
    Consistency,
    consistency_squares,
    earlier,
    few_calls,
    ict_intervals,
    ict_levels,
    ict_probabilities,
    pseudo_huber,
)
from methods.core.guidance import classifier_free, constant, within
from methods.core.posthoc import Profile, coefficients, gamma_of, inner_products, length_of, power_decay
from methods.core.process.denoise import EDMScheme, Preconditioned
from methods.core.process.noise import edm_grid
from methods.core.rng import InjectedRng
from methods.core.sampling.samplers import heun
from methods.core.training.adversarial import Game
from methods.core.types import At, Batch, Denoiser, Prediction
from methods.gan import GAN
from tests.methods.reference_cases.fixture import Fixture, case, close


@case("modern_phema")
def posthoc_averages(data: Fixture) -> None:
    for name in data.cases("/trajectory"):
        _posthoc(data, f"{name}/")


def _posthoc(data: Fixture, at: str) -> None:
    close(np.array([gamma_of(length) for length in data[f"{at}std_grid"]]), data[f"{at}gamma_of_std"], 1e-9)
    close(np.array([length_of(g) for g in data[f"{at}gamma_of_std"]]), data[f"{at}std_of_gamma"], 1e-9)
    trajectory, batch, lengths = data[f"{at}trajectory"], int(data[f"{at}batch"]), data[f"{at}stds"]
    steps = range(1, len(trajectory))
    betas = np.array([[power_decay(length, step * batch, batch) for length in lengths] for step in steps])
    close(betas, data[f"{at}betas"], 1e-9)
    times = data[f"{at}snapshot_images"].tolist()
    stored, at_times = tracked(trajectory, batch, lengths.tolist()), [time // batch - 1 for time in times]
    close(stored[at_times], data[f"{at}snapshots"], 1e-9)
    profiles = [Profile(int(t), float(s)) for t, s in zip(data[f"{at}in_images"], data[f"{at}in_stds"])]
    assert profiles == [Profile(time, length) for time in times for length in lengths.tolist()]
    gram = inner_products(profiles, profiles)
    close(gram, data[f"{at}gram"], 1e-9)
    close(np.linalg.cond(gram), data[f"{at}condition_number"], 0, rtol=1e-7)
    targets = data[f"{at}out_stds"].tolist()
    found = np.stack([coefficients(profiles, Profile(times[-1], length)) for length in targets], 1)
    close(found, data[f"{at}coefficients"], 1e-7)
    averages = data[f"{at}snapshots"].reshape(len(profiles), -1)
    close(found.T @ averages, data[f"{at}reconstructed"], 1e-7)
    direct = tracked(trajectory, batch, targets)[-1]
    close(direct, data[f"{at}direct_average"], 1e-9)
    middle = int(data[f"{at}mid_images"])
    early = [profile for profile in profiles if profile.images <= middle]
    halfway = np.stack([coefficients(profiles, Profile(middle, length)) for length in targets], 1)
    close(halfway[: len(early)], data[f"{at}mid_coefficients"], 1e-7)
    assert not halfway[len(early) :].any()
    end, points = float(data[f"{at}response_ofs"]), int(data[f"{at}response_len"])
    close(np.stack([response(length, end, points) for length in targets]), data[f"{at}response"], 1e-9)


def tracked(trajectory: np.ndarray, batch: int, lengths: list[float]) -> np.ndarray:
    """[steps, lengths, values]: the averages after every step."""
    average, after = np.zeros((len(lengths), trajectory.shape[1])), []
    for step, value in enumerate(trajectory[1:], 1):
        decay = np.array([[power_decay(length, step * batch, batch)] for length in lengths])
        average = decay * average + (1 - decay) * value
        after.append(average)
    return np.stack(after)


def response(length: float, end: float, points: int) -> np.ndarray:
    """The weights of an average that ends at point `end`, of points 0, 1, ..."""
    at = np.arange(points)
    weights = np.where(at <= end, (at / end) ** gamma_of(length), 0)
    return weights / weights.sum()


@case("modern_guidance")
def intervals_and_autoguidance(data: Fixture) -> None:
    for name in data.cases("/noise"):
        _guidance(data, f"{name}/")


def exact_denoiser(means: Tensor, stds: Tensor, weights: Tensor) -> Denoiser:
    """Of a mixture of isotropic Gaussians: [K, d], [K], [K]."""

    def denoise(x: Tensor, at: At) -> Prediction:
        total = stds**2 + at.sigma[:, None] ** 2
        squares = (x[:, None] - means).square().sum(2)
        share = (weights.log() - x.shape[1] * total.log() / 2 - squares / (2 * total)).softmax(1)
        pulled = ((stds**2)[:, None] * x[:, None] + (at.sigma**2)[:, None, None] * means) / total[:, :, None]
        return Prediction((share[:, :, None] * pulled).sum(1))

    return denoise


def _guidance(data: Fixture, at: str) -> None:
    conditional, unconditional, bad = (
        exact_denoiser(*(data.tensor(f"{at}{kind}_{part}") for part in ("means", "std", "weight")))
        for kind in ("conditional", "unconditional", "bad")
    )
    levels = edm_grid(int(data[f"{at}steps"]), float(data[f"{at}sigma_min"]), float(data[f"{at}sigma_max"]))
    close(levels[:-1], data[f"{at}levels"], 1e-9)
    noise, weight = data.tensor(f"{at}noise") * levels[0], constant(float(data[f"{at}weight"]) - 1)
    low, high = data[f"{at}interval_sigma"].tolist()
    first, last = data[f"{at}interval_steps"].tolist()
    assert [step for step, level in enumerate(levels[:-1].tolist()) if low < level <= high] == [*range(first, last + 1)]
    calls: dict[str, list[float]] = {"conditional": [], "unconditional": []}

    def counted(denoise: Denoiser, name: str) -> Denoiser:
        def counting(x: Tensor, state: At) -> Prediction:
            calls[name].append(state.sigma[0].item())
            return denoise(x, state)

        return counting

    both = counted(conditional, "conditional"), counted(unconditional, "unconditional")
    close(
        heun(classifier_free(*both, within(weight, (low, high))), noise, levels), data[f"{at}out_interval"], 1e-6, 1e-6
    )
    for name, sigmas in calls.items():
        close(np.array(sigmas), data[f"{at}{name}_calls"], 1e-6)
    full = classifier_free(conditional, unconditional, within(weight, None))
    close(heun(full, noise, levels), data[f"{at}out_full"], 1e-6, 1e-6)
    close(heun(conditional, noise, levels), data[f"{at}out_unguided"], 1e-6, 1e-6)
    away = autoguided(conditional, bad, Use(float(data[f"{at}auto_weight"]) - 1))
    close(heun(away, noise, levels), data[f"{at}out_autoguided"], 1e-9)
    x, state = data.tensor(f"{at}point"), At(data.tensor(f"{at}point_sigma"), 0)
    parts = {"conditional": conditional, "unconditional": unconditional, "bad": bad}
    for name, denoise in (parts | {"cfg": full, "auto": away}).items():
        close(denoise(x, state).x0, data[f"{at}point_{name}"], 1e-9)


class ToyBody(nn.Module):
    """The recorded body: a hidden layer of tanh, perhaps with a dropout mask [B, 8]."""

    def __init__(self, weights: dict[str, Tensor], mask: Tensor | None, dropout: float) -> None:
        super().__init__()
        self.parts = nn.ParameterDict(weights)
        self.scale = torch.ones(()) if mask is None else mask / (1 - dropout)

    def forward(self, x: Tensor, time: Tensor, labels: None = None, hints: None = None) -> Tensor:
        w = self.parts
        hidden = torch.tanh(x.flatten(1) @ w["W1"].T + time[:, None] * w["a"] + w["b1"]) * self.scale
        return (hidden @ w["W2"].T + w["b2"]).view_as(x)


@case("modern_consistency")
def consistency_training(data: Fixture) -> None:
    for name in data.cases("/images"):
        _consistency(data, f"{name}/")
        _ict(data, f"{name}/")


def _consistency(data: Fixture, at: str) -> None:
    q, stage, k, b, c = (float(data[f"{at}{name}"]) for name in ("q", "stage", "k", "b", "c"))
    method = Consistency(net="mlp", q=q, k=k, b=b, huber=c, stage_steps=1)
    images, noise, normal = (data.tensor(f"{at}{name}") for name in ("images", "noise", "normal"))
    t, r = method.levels(normal, int(stage))
    close(t, data[f"{at}t"], 1e-9)
    close(r, data[f"{at}r"], 1e-9)
    map_t = data.tensor(f"{at}map_t")
    close(torch.stack([earlier(map_t, s, q, k, b) for s in range(8)]), data[f"{at}map_r"], 1e-9)
    dropout, mask = float(data[f"{at}dropout"]), None
    if dropout:
        mask = data.tensor(f"{at}dropout_mask_t")
        assert torch.equal(mask, data.tensor(f"{at}dropout_mask_r"))
    names = ("W1", "a", "b1", "W2", "b2")
    net = Preconditioned(
        ToyBody({name: data.tensor(f"{at}{name}") for name in names}, mask, dropout), images.shape[1:], EDMScheme(0.5)
    )
    distance = pseudo_huber(consistency_squares(net, images, t, r, noise, None), c)
    close(distance / (t - r), data[f"{at}loss"], 1e-9)
    close(distance * EDMScheme(0.5).loss_weight(t), data[f"{at}loss_snr_weight"], 1e-9, 1e-9)
    loss, _ = method.loss("denoiser", {"denoiser": net}, Batch(images), {"level": normal, "noise": noise}, int(stage))
    close(loss, data[f"{at}loss_mean"], 1e-9)
    loss.backward()
    for name in names:
        close(cast(Tensor, net.get_parameter(f"body.parts.{name}").grad), data[f"{at}grad_{name}"], 1e-9)
    net.body.scale = torch.ones(())  # no dropout while sampling
    first, middle, fresh = (data.tensor(f"{at}sample_{name}") for name in ("noise", "mid", "fresh"))
    for levels, wanted in (([80.0], "one_step"), ([80.0, *middle.tolist()], "few_steps")):
        rng = InjectedRng(first, *fresh[: len(levels) - 1])
        with torch.no_grad():
            close(few_calls(net, levels, None, rng), data[f"{at}sample_{wanted}"], 1e-9)


def _ict(data: Fixture, at: str) -> None:
    total = int(data[f"{at}ict_total"])
    intervals = [ict_intervals(int(step), total) + 1 for step in data[f"{at}ict_steps"]]
    close(np.array(intervals), data[f"{at}ict_intervals_plus_one"], 0)
    sigmas = ict_levels(10)
    close(sigmas, data[f"{at}ict_sigmas"], 0, 1e-6)
    close(ict_probabilities(sigmas, -1.1, 2.0), data[f"{at}ict_pmf"], 1e-7)
    close(1 / sigmas.diff(), data[f"{at}ict_weights"], 1e-9, 1e-6)
    found = BoundaryScheme(0.5).coefficients(data.tensor(f"{at}ict_sigmas").double())
    close(found.skip, data[f"{at}boundary_skip"], 1e-6)
    close(found.out, data[f"{at}boundary_out"], 1e-6)
    squares = (data.tensor(f"{at}huber_a") - data.tensor(f"{at}huber_b")).flatten(1).square().sum(1)
    close(Consistency(net="mlp", pairs="ict")._huber(48), data[f"{at}huber_c"], 1e-9)
    close(pseudo_huber(squares, float(data[f"{at}huber_c"])), data[f"{at}huber"], 1e-9)


class ToyPlayer(nn.Module):
    """The recorded networks of two layers: z [B, latent] -> [B, *shape], or images -> [B]."""

    def __init__(self, data: Fixture, at: str, last: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.parts = nn.ParameterDict({name: data.tensor(f"{at}{name}") for name in ("W1", "b1", last, "b2")})
        self.last, self.shape = last, shape

    def forward(self, x: Tensor) -> Tensor:
        w = self.parts
        hidden = torch.tanh(x.flatten(1) @ w["W1"].T + w["b1"])
        return (hidden @ w[self.last].reshape(-1, hidden.shape[1]).T + w["b2"]).reshape(-1, *self.shape)


@case("modern_r3gan")
def relativistic_game(data: Fixture) -> None:
    for name in data.cases("/gamma"):
        _players(data, f"{name}/")
        _logits(data, f"{name}/")
        for law in ("nimg", "lr", "gamma", "beta2", "ema_nimg", "augment"):
            data[f"{name}/schedule_{law}"]  # schedules of 10 million images and more: no option of ours
        data[f"{name}/ema_decay_batch512"]


def _players(data: Fixture, at: str) -> None:
    real, gamma, batch = data.tensor(f"{at}real"), float(data[f"{at}gamma"]), len(data[f"{at}real"])
    generator = ToyPlayer(data, f"{at}G_", "W2", real.shape[1:])
    discriminator = ToyPlayer(data, f"{at}D_", "w2", ())
    nets, draws = {"generator": generator, "discriminator": discriminator}, {"z": data.tensor(f"{at}z")}
    close(generator(draws["z"]), data[f"{at}fake"], 1e-10)
    on_real, on_fake = discriminator(real), discriminator(data.tensor(f"{at}fake"))
    close(on_real, data[f"{at}real_logits"], 1e-10)
    close(on_fake, data[f"{at}fake_logits"], 1e-10)
    close(on_real - on_fake, data[f"{at}D_relativistic"], 1e-10)
    close(on_fake - on_real, data[f"{at}G_relativistic"], 1e-10)
    method = GAN(game="relativistic", r1_gamma=gamma)
    loss, metrics = method.loss("discriminator", nets, Batch(real), draws, step=1)
    close(loss, data[f"{at}D_loss"], 1e-10)
    close(metrics["discriminator_loss"], data[f"{at}D_adversarial"].mean(), 1e-10)
    for penalty in ("r1", "r2"):
        close(metrics[penalty], gamma / 2 * data[f"{at}{penalty}"].mean(), 1e-10)
    assert "real_logit" not in metrics  # defined up to a constant
    _same_gradients(loss, discriminator, data, f"{at}D_grad_")
    loss, _ = method.loss("generator", nets, Batch(real), draws, step=1)
    close(loss, data[f"{at}G_loss"], 1e-10)
    close(loss, data[f"{at}G_adversarial"].mean(), 1e-10)
    _same_gradients(loss, generator, data, f"{at}G_grad_")
    alone = [method.loss("generator", nets, Batch(real[[b]]), {"z": draws["z"][[b]]}, 1)[0] for b in range(batch)]
    close(torch.stack(alone), data[f"{at}G_adversarial"], 1e-10)


def _same_gradients(loss: Tensor, net: ToyPlayer, data: Fixture, at: str) -> None:
    gradients = torch.autograd.grad(loss, list(net.parts.values()))
    for name, gradient in zip(net.parts.keys(), gradients):
        close(gradient, data[f"{at}{name}"], 1e-10)


def _logits(data: Fixture, at: str) -> None:
    """Both losses and their gradients as functions of logits: a discriminator that returns its input."""
    game, names = Game("relativistic", 0.0), ("real", "fake")
    real, fake = (data.tensor(f"{at}logits_{name}").requires_grad_() for name in names)
    loss = game.adversarial_loss(real, fake)
    close(loss, data[f"{at}logits_D_loss"], 1e-10)
    for name, gradient in zip(names, torch.autograd.grad(loss, (real, fake))):
        close(gradient, data[f"{at}logits_D_grad_{name}"], 1e-10)
    loss = game.generator_loss(lambda x: x, real, fake)
    close(loss, data[f"{at}logits_G_loss"], 1e-10)
    (gradient,) = torch.autograd.grad(loss, fake)
    close(gradient, data[f"{at}logits_G_grad_fake"], 1e-10)
    close(-gradient, data[f"{at}logits_G_grad_real"], 1e-10)  # had the reals' logits not been constants
