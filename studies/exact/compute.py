"""Guidance and denoising of known Gaussian mixtures, for which scores, density ratios and errors are exact.

    python studies/exact/compute.py [FOLDER]        # about one CPU minute; FOLDER is reports/measured by default

Discriminator guidance (Kim et al. 2023, arXiv:2211.17091): table 2, the score error and the gain of a guide; figure 4,
the gain during training of the discriminator; figure 6, the vectors that guidance adds to the score.
DDGAN (Xiao et al. 2022, arXiv:2112.07804): figure 2, the denoising distribution of a large step has several modes.
Writes exact.csv, exact-fields.png, exact-gains.png and exact-denoising.png. Errors and gains are in nats.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from draw import Curve, draw_curves, draw_vectors, save
from matplotlib.figure import Figure
from score_errors import Estimate, Levels, gain, score_error
from torch import Tensor

from methods.core.density.mixtures import Mixture, log_ratio
from methods.core.guidance import Guide, constant, guided
from methods.core.loop import TrainState, train_steps
from methods.core.process.noise import LinearVP
from methods.core.rng import StepRng
from methods.core.types import At, Batch, DataSpec, Denoiser
from methods.discriminator_guidance import Discriminator, Ratio


@dataclass(frozen=True)
class Training:
    """Of the discriminators. The paper's have 4 layers of 256 units."""

    steps: int = 600
    batch: int = 256
    width: int = 64
    depth: int = 2
    lr: float = 2e-3
    seed: int = 0
    gains: int = 12  # estimated during one training


LEVELS = Levels(0.05, 40.0)  # noise levels of errors and gains; the discriminator's own window begins at 0.045
POINTS = 4000  # Monte Carlo points of an error or a gain
Z95 = 1.96  # half-width of a 95 % interval in standard errors
GRID, GRID_REACH = 17, 2.0  # of the drawn vectors: points per side, and distance from the centre to an edge
FIELD_SIGMA = 0.3  # noise level of the drawn vectors
CHAIN_STEPS = 5  # equal steps of VP time between the data and the noisy point
LAST_TIME, NOISY_X = 0.4, 0.3  # of the noisy point: its VP time (sigma = 2), and where it lies in the figure
NOISY_POINTS = 400  # over which modes are counted
VISIBLE = 0.01  # a mode counts if its density is above this share of the largest
COLUMNS = ["entry", "case", "metric", "value", "ci_low", "ci_high"]


class World(NamedTuple):
    """Two-dimensional data, and the distribution whose score stands in for a badly trained one."""

    data: Mixture
    model: Mixture

    @property
    def optimal(self) -> Denoiser:
        """The model, guided by the exact density ratio."""
        return guided(self.model.denoise, Guide(log_ratio(self.data, self.model), constant(1.0)))


def mixture(means: list[list[float]], std: float, weights: list[float]) -> Mixture:
    return Mixture(torch.tensor(means, dtype=torch.float64), std, torch.tensor(weights, dtype=torch.float64))


TWO_MODES = mixture([[1.0, 0.0], [-1.0, 0.0]], 0.3, [0.5, 0.5])
WORLDS = {
    "blind": World(TWO_MODES, mixture([[0.0, 0.0]], 1.0, [1.0])),
    "misplaced": World(TWO_MODES, mixture([[0.7, 0.7], [-0.7, -0.7]], 0.3, [0.3, 0.7])),
}
LINE = mixture([[-1.0], [0.2], [1.0]], 0.1, [0.4, 0.2, 0.4])  # one-dimensional data of the denoising distributions


def main(folder: Path, training: Training) -> None:
    rows: list[tuple[Any, ...]] = []
    vectors: dict[str, np.ndarray] = {}
    gains: dict[str, list[Curve]] = {}
    for name, world in WORLDS.items():
        rows += [*measure(name, "none", world, world.model.denoise), *measure(name, "optimal", world, world.optimal)]
        vectors[f"{name} optimal"] = added_vectors(world.optimal)
        gains[name] = []
        for ratio in get_args(Ratio):  # the losses that estimate the density ratio
            curve = []
            for step, denoise in train_discriminator(world, ratio, training):
                estimate = estimate_gain(world, denoise)
                curve.append((step, estimate.value, Z95 * estimate.error))
                if step == 0 and ratio == "bce":
                    rows += measure(name, "untrained", world, denoise)
                if step == training.steps:
                    rows += measure(name, ratio, world, denoise)
                    vectors[f"{name} {ratio}"] = added_vectors(denoise)
            gains[name].append(Curve(ratio, *np.array(curve).T))
    x, marginals, reverse, modes = denoising_distributions()
    rows += [("denoising-law", f"{steps} steps", "modes", count, None, None) for steps, count in modes.items()]
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(folder / "exact.csv", index=False, float_format="%.6g", lineterminator="\n")
    marks = TWO_MODES.means.numpy()
    save(draw_vectors(vectors, GRID_REACH, marks, len(vectors) // len(WORLDS)), folder / "exact-fields.png")
    save(draw_gains(gains, rows), folder / "exact-gains.png")
    save(draw_denoising(x, marginals, reverse), folder / "exact-denoising.png")


def train_discriminator(world: World, ratio: Ratio, training: Training) -> Iterator[tuple[int, Denoiser]]:
    """(step, the model guided by the discriminator at this step), from the untrained one on."""
    method = Discriminator(body="mlp", width=training.width, depth=training.depth, lr=training.lr, density_ratio=ratio)
    state = TrainState.fresh(method, DataSpec((2,), 0, 1.0), training.seed)

    def pairs(step: int) -> Batch:
        rng = StepRng(training.seed, step, "pairs")
        real, fake = world.data.sample(training.batch, rng), world.model.sample(training.batch, rng)
        return Batch(real.float(), None, fake.float())

    def guided_model() -> Denoiser:
        return guided(world.model.denoise, method.guide(state.nets, None, method.Use(1.0)))

    yield 0, guided_model()
    every = max(training.steps // training.gains, 1)
    for _ in train_steps(method, state, pairs, seed=training.seed, batch=training.batch, steps=training.steps):
        if state.step % every == 0 or state.step == training.steps:
            yield state.step, guided_model()


def measure(name: str, guide: str, world: World, denoise: Denoiser) -> list[tuple[Any, ...]]:
    """Rows of the exact score errors without and with the guide, and of the gain as estimated from samples alone."""
    before, after = (
        score_error(world.data, one, StepRng(0, 0, "score error"), LEVELS, POINTS).value
        for one in (world.model.denoise, denoise)
    )
    won, error = estimate_gain(world, denoise)
    interval = (won - Z95 * error, won + Z95 * error)
    return [
        (name, guide, "score_error", before, None, None),
        (name, guide, "adjusted_error", after, None, None),
        (name, guide, "gain", won, *interval),
    ]


def estimate_gain(world: World, denoise: Denoiser) -> Estimate:
    x0 = world.data.sample(POINTS, StepRng(0, 0, "gain"))
    return gain(world.model.denoise, denoise, x0, StepRng(0, 1, "gain"), LEVELS)


def added_vectors(denoise: Denoiser) -> np.ndarray:
    """[GRID, GRID, 2] what guidance adds to the score, along x then y."""
    line = torch.linspace(-GRID_REACH, GRID_REACH, GRID, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    guidance_score = denoise(x, At(torch.full((len(x),), FIELD_SIGMA, dtype=torch.float64), 0)).guidance_score
    assert guidance_score is not None
    return guidance_score.reshape(GRID, GRID, 2).numpy()


def denoising_distributions() -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, float]]:
    """x [N] in VP coordinates; the marginal densities [CHAIN_STEPS + 1, N] at the times of the chain, data first; the
    densities [CHAIN_STEPS, N] of x_s given NOISY_X at LAST_TIME, for s one, two, ... steps before it; and their mean
    number of modes over NOISY_POINTS noisy points, by the number of steps."""
    vp, x = LinearVP(), torch.linspace(-3.0, 3.0, 1501, dtype=torch.float64)
    times = torch.linspace(0.0, LAST_TIME, CHAIN_STEPS + 1, dtype=torch.float64)
    sigmas, scales = vp.sigma(times), 1 / vp.mean(times)
    marginals = [
        (LINE.log_density(x[:, None] * scale, sigma.expand(len(x))) + scale.log()).exp()
        for sigma, scale in zip(sigmas, scales)
    ]
    rng = StepRng(0, 0, "noisy points")
    x0 = LINE.sample(NOISY_POINTS, rng)
    noisy = x0 + sigmas[-1] * rng.normal(*x0.shape)

    def reverse(x_t: Tensor, s: int) -> Tensor:
        """[n, N] densities of x_s given x_t [n, 1], which is in variance-exploding coordinates."""
        grid, repeated = (x * scales[s]).repeat(len(x_t))[:, None], x_t.repeat_interleave(len(x), 0)
        levels = (level.expand(len(repeated)) for level in (sigmas[s], sigmas[-1]))
        return (LINE.log_reverse(grid, repeated, *levels) + scales[s].log()).exp().view(len(x_t), -1)

    earlier = range(CHAIN_STEPS - 1, -1, -1)
    drawn = torch.full((1, 1), NOISY_X, dtype=torch.float64) * scales[-1]
    densities = [reverse(drawn, s)[0] for s in earlier]
    modes = {CHAIN_STEPS - s: count_modes(reverse(noisy, s)).double().mean().item() for s in earlier}
    return x.numpy(), torch.stack(marginals).numpy(), torch.stack(densities).numpy(), modes


def count_modes(densities: Tensor) -> Tensor:
    """[n] visible local maxima of densities [n, N]."""
    inner = densities[:, 1:-1]
    is_mode = (inner > densities[:, :-2]) & (inner >= densities[:, 2:])
    return (is_mode & (inner > VISIBLE * densities.amax(1, keepdim=True))).sum(1)


def draw_gains(gains: Mapping[str, Sequence[Curve]], rows: Sequence[tuple[Any, ...]]) -> Figure:
    """The estimated gain during training, a panel per world; the optimal guide's is dashed."""
    optimal = {row[0]: row[3] for row in rows if row[1:3] == ("optimal", "gain")}
    panels = {}
    for name, trained in gains.items():
        ends = [trained[0].x[0], trained[0].x[-1]]
        panels[name] = [*trained, Curve("optimal", ends, [optimal[name]] * 2, line="--")]
    figure = draw_curves(panels, ["step"] * len(panels))
    for most, axes in zip(optimal.values(), figure.axes):
        axes.set_ylim(-most, 1.2 * most)
    return figure


def draw_denoising(x: np.ndarray, marginals: np.ndarray, reverse: np.ndarray) -> Figure:
    times = np.linspace(0, LAST_TIME, CHAIN_STEPS + 1)
    given = f"q(x_s | x = {NOISY_X}, t = {LAST_TIME})"
    panels = {
        "q(x)": [Curve(f"t = {time:.2f}", x, density) for time, density in zip(times, marginals)],
        given: [Curve(f"s = {time:.2f}", x, density) for time, density in zip(times[-2::-1], reverse)],
    }
    return draw_curves(panels, ["x", "x_s"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    main(Path(*sys.argv[1:2]) if sys.argv[1:] else Path(__file__).parents[2] / "reports" / "measured", Training())
