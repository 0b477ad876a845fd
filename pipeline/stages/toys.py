"""toys: discriminator guidance and DDGAN's argument, where everything is known exactly; for the report to draw."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from methods.core.density.exact import Estimate, Levels, gain, score_error
from methods.core.density.mixtures import Mixture, log_ratio
from methods.core.guidance import Guide, constant, guided
from methods.core.loop import TrainState, train_steps
from methods.core.process.noise import LinearVP
from methods.core.rng import StepRng
from methods.core.types import At, Batch, DataSpec, Denoiser
from methods.discriminator_guidance import Discriminator, Ratio
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft

ARRAYS, NUMBERS = "toys.npz", "toys.json"
LEVELS = Levels(0.05, 40.0)  # of the gains: the discriminator's own window begins at 0.045
POINTS = 4000  # behind each gain
SIDE, REACH = 17, 2.0  # of the drawn fields: arrows per side, and how far from the middle
FIELD_SIGMA = 0.3
CURVE_CHECKS = 12  # gains along a training
CHAIN = 5  # equal steps between the data and the noisy point whose denoising is drawn
LAST = 0.4  # VP time of that point, sigma = 2
DRAWN = 0.3  # and where it lies, in VP coordinates


@dataclass(frozen=True)
class Config:
    """An entry of `toys`: how the discriminators are trained. The paper's have 4 layers of 256 units."""

    steps: int = 600
    batch: int = 256
    width: int = 64
    depth: int = 2
    lr: float = 2e-3
    seed: int = 0


class World(NamedTuple):
    """The data, and the law whose score stands in for a badly trained one; both two-dimensional."""

    data: Mixture
    model: Mixture

    @property
    def correction(self) -> Denoiser:
        """The model, guided by the optimal discriminator."""
        return guided(self.model.denoise, Guide(log_ratio(self.data, self.model), constant(1.0)))


def _mixture(means: list[list[float]], std: float, weights: list[float]) -> Mixture:
    return Mixture(torch.tensor(means, dtype=torch.float64), std, torch.tensor(weights, dtype=torch.float64))


DATA = _mixture([[1.0, 0.0], [-1.0, 0.0]], 0.3, [0.5, 0.5])
WORLDS = {
    "blind": World(DATA, _mixture([[0.0, 0.0]], 1.0, [1.0])),
    "misplaced": World(DATA, _mixture([[0.7, 0.7], [-0.7, -0.7]], 0.3, [0.3, 0.7])),
}
LINE = _mixture([[-1.0], [0.2], [1.0]], 0.1, [0.4, 0.2, 0.4])


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, around: RunContext) -> None:
    arrays: dict[str, np.ndarray] = {}
    rows, curves = [], {}
    methods = _methods(config)
    for name, world in WORLDS.items():
        arrays[f"{name} optimal"] = _field(world.correction)
        rows += [_row(name, "none", world, world.model.denoise), _row(name, "optimal", world, world.correction)]
        for loss, method in methods.items():
            curve = []
            for step, corrected in _training(world, method, config):
                if step == 0 and loss == "bce":
                    rows.append(_row(name, "untrained", world, corrected))
                curve.append((step, *_gain(world, corrected)))
                if step == config.steps:
                    rows.append(_row(name, loss, world, corrected))
                    arrays[f"{name} {loss}"] = _field(corrected)
            curves[f"{name} {loss}"] = curve
            around.watch.progress(len(curves), len(WORLDS) * len(methods))
    laws, modes = _denoising_laws()
    np.savez(out.path / ARRAYS, allow_pickle=False, laws=laws, **arrays)
    content = {"gains": rows, "curves": curves, "modes": modes}
    (out.path / NUMBERS).write_text(json.dumps(content, indent=1) + "\n")
    out.facts.update(worlds=len(WORLDS), steps=config.steps)
    out.seeds.update(train=config.seed)
    around.watch.results({f"gain {row['world']} {row['guide']}": row["gain"] for row in rows})


def _methods(config: Config) -> dict[str, Discriminator]:
    """By the loss that they estimate the density ratio by."""
    mlp = Discriminator(body="mlp", width=config.width, depth=config.depth, lr=config.lr)
    return {ratio: replace(mlp, density_ratio=ratio) for ratio in get_args(Ratio)}


def _training(world: World, method: Discriminator, config: Config) -> Iterator[tuple[int, Denoiser]]:
    """(step, the model as the discriminator guides it just then), untrained first."""
    state = TrainState.fresh(method, DataSpec((2,), 0, 1.0), config.seed)

    def pairs(step: int) -> Batch:
        rng = StepRng(config.seed, step, "pairs")
        return Batch(world.data.sample(config.batch, rng).float(), None, world.model.sample(config.batch, rng).float())

    def corrected() -> Denoiser:
        return guided(world.model.denoise, method.guide(state.nets, None, method.Use(1.0)))

    yield 0, corrected()
    every = max(config.steps // CURVE_CHECKS, 1)
    for _ in train_steps(method, state, pairs, seed=config.seed, batch=config.batch, steps=config.steps):
        if state.step % every == 0 or state.step == config.steps:
            yield state.step, corrected()


def _field(corrected: Denoiser) -> np.ndarray:
    """[SIDE, SIDE, 2] what guidance adds to the score, along x then y."""
    line = torch.linspace(-REACH, REACH, SIDE, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    guidance_score = corrected(x, At(torch.full((len(x),), FIELD_SIGMA, dtype=torch.float64), 0)).guidance_score
    assert guidance_score is not None
    return guidance_score.reshape(SIDE, SIDE, 2).numpy()


def _row(name: str, guide: str, world: World, corrected: Denoiser) -> dict[str, str | float]:
    """The score's error before and after, and the gain as one would estimate it from data alone; nats."""
    before, after = (
        score_error(world.data, denoise, StepRng(0, 0, "score error"), LEVELS, POINTS)
        for denoise in (world.model.denoise, corrected)
    )
    won = _gain(world, corrected)
    return {
        "world": name, "guide": guide, "score_error": before.value, "adjusted_error": after.value,
        "gain": won.value, "gain_error": won.error,
    }  # fmt: skip


def _gain(world: World, corrected: Denoiser) -> Estimate:
    x0 = world.data.sample(POINTS, StepRng(0, 0, "gain"))
    return gain(world.model.denoise, corrected, x0, StepRng(0, 1, "gain"), LEVELS)


def _denoising_laws() -> tuple[np.ndarray, list[dict[str, float]]]:
    """DDGAN, figure 2: places [N] in VP coordinates, the marginals at the chain's times from the data on, and the laws
    of x_s given the noisy point for s one, two, ... steps before it; and their modes, over many such points."""
    vp, places = LinearVP(), torch.linspace(-3.0, 3.0, 1501, dtype=torch.float64)
    times = torch.linspace(0.0, LAST, CHAIN + 1, dtype=torch.float64)
    sigmas, scales = vp.sigma(times), 1 / vp.mean(times)
    marginals = [
        (LINE.log_density(places[:, None] * scale, sigma.expand(len(places))) + scale.log()).exp()
        for sigma, scale in zip(sigmas, scales)
    ]
    rng = StepRng(0, 0, "noisy points")
    x0 = LINE.sample(400, rng)
    noisy = x0 + sigmas[-1] * rng.normal(*x0.shape)

    def law(x: Tensor, s: int) -> Tensor:
        """[len(x), N] densities of x_s given x_u = x [n, 1], in VE coordinates."""
        grid, many = (places * scales[s]).repeat(len(x))[:, None], x.repeat_interleave(len(places), 0)
        levels = (level.expand(len(many)) for level in (sigmas[s], sigmas[-1]))
        return (LINE.log_reverse(grid, many, *levels) + scales[s].log()).exp().view(len(x), -1)

    before = range(CHAIN - 1, -1, -1)
    laws = [law(torch.full((1, 1), DRAWN, dtype=torch.float64) * scales[-1], s)[0] for s in before]
    modes = [_modes(law(noisy, s)).double() for s in before]
    counted = [
        {"steps": CHAIN - s, "modes": of.mean().item(), "multimodal": (of > 1).double().mean().item()}
        for s, of in zip(before, modes)
    ]
    return torch.stack([places, *marginals, *laws]).numpy(), counted


def _modes(densities: Tensor) -> Tensor:
    """[n] local maxima of densities [n, N], of those that would be seen in a drawing."""
    inner = densities[:, 1:-1]
    is_mode = (inner > densities[:, :-2]) & (inner >= densities[:, 2:])
    return (is_mode & (inner > 0.01 * densities.amax(1, keepdim=True))).sum(1)
