"""Later methods: post-hoc averages, guidance intervals and autoguidance."""

import numpy as np
from torch import Tensor

from methods.autoguidance import Use, autoguided
from methods.core.guidance import classifier_free, constant, within
from methods.core.posthoc import Profile, coefficients, gamma_of, inner_products, length_of, power_decay
from methods.core.process.noise import edm_grid
from methods.core.sampling.samplers import heun
from methods.core.types import At, Denoiser, Prediction
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
