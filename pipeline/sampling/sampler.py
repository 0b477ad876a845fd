"""What `generate` and `sample` share: pictures by seed, painted in pieces wherever there is room, and counted."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.core.devices import current_device
from methods.core.guidance import guided
from methods.core.rng import TILE, ImageRng, SeededRng, sample_tiles
from methods.core.types import At, Denoiser, Diffusion, Prediction, Trainable, Wrap, unwrapped
from pipeline.config.build import Block, build, build_method
from pipeline.data.artifacts import Artifact
from pipeline.errors import ConfigError, TrilemmaError
from pipeline.sampling.counting import counting
from pipeline.training.networks import data_spec, load_networks

TASKS_PER_WORKER = 4
MOST_TILES = 8  # of a task: what a kill may cost


@dataclass(frozen=True)
class Guidance:
    """One guide of a guided entry: the guide's method, and how it is used here."""

    guide: str
    method: str
    model: Block
    use: Block
    trunk: str | None  # the classifier whose features it reads


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample: a run's method and settings, and who guides it."""

    method: str
    model: Block
    sample: Block
    guides: list[Guidance]


@dataclass(frozen=True)
class SamplerSpec:
    """Everything a guided_sampler needs, small enough to send anywhere and hashable."""

    settings: str  # JSON: a SamplerConfig, the run's facts, the digests of what it was trained on
    run: Path
    guides: tuple[Path, ...]
    trunks: tuple[Path | None, ...]  # of the guides, where they have one


class GuidedSampler:
    """Networks in memory, and how to sample from them."""

    def __init__(self, recipe: SamplerSpec) -> None:
        settings: dict[str, Any] = json.loads(recipe.settings)
        self.device = current_device()
        self.data = data_spec(settings["facts"])
        self.method = build_method(settings["method"], settings["model"])
        self.sampling = build(self.method.Sampling, settings["sample"], f"{settings['method']}: sample")
        self.nets = load_networks(recipe.run, self.method, self.data, self.device)
        self._loaded: dict[Path, dict[str, nn.Module]] = {}
        places = zip(settings["guides"], recipe.guides, recipe.trunks)
        self.guides = [self._adviser(block, folder, trunk) for block, folder, trunk in places]
        if self.guides and not isinstance(self.method, Diffusion):
            raise ConfigError(f"{settings['method']} does not sample through a denoiser: it cannot be guided")
        self._check_windows()

    def paint(self, seeds: range, wrap: Wrap = unwrapped) -> Iterator[Tensor]:
        """Tile by tile. Classes are asked in turn, so that every set has as many of each."""
        classes = self.data.classes
        label_of = (lambda seed: seed % classes) if classes else None

        def sample(labels: Tensor | None, rng: ImageRng) -> Tensor:
            if not isinstance(self.method, Diffusion):
                return self.method.sample(self.nets, self.sampling, labels, rng)
            guides = [adviser.method.guide(adviser.nets, labels, adviser.use) for adviser in self.guides]

            def wrapped(denoise: Denoiser) -> Denoiser:
                denoise = finite(denoise, rng, "the network")
                return wrap(finite(guided(denoise, *guides), rng, "a guide") if guides else denoise)

            return self.method.sample(self.nets, self.sampling, labels, rng, wrap=wrapped)

        return sample_tiles(sample, seeds, label_of, self.device)

    def counting(self) -> AbstractContextManager[dict[str, int]]:
        """Counts rows through the generator's networks as `nfe`, through the guides' as `guide_calls`.

        A head and its trunk are two networks; a trunk that guides share is one, called once.
        """
        guides = dict.fromkeys(net for adviser in self.guides for net in adviser.nets.values())
        return counting({"nfe": list(self.nets.values()), "guide_calls": list(guides)})

    def _check_windows(self) -> None:
        """One line for a guide that the sampler never hears, found on a walk of one image that asks no network."""
        if not self.guides:
            return
        asked: list[At] = []

        def walk(_: Denoiser) -> Denoiser:
            def silent(x: Tensor, at: At) -> Prediction:
                asked.append(at)
                return Prediction(torch.zeros_like(x), variance_share=torch.zeros_like(x))

            return silent

        labels = torch.zeros(1, dtype=torch.int64, device=self.device) if self.data.classes else None
        self.method.sample(self.nets, self.sampling, labels, SeededRng([0], self.device), wrap=walk)
        for adviser in self.guides:
            guide = adviser.method.guide(adviser.nets, labels, adviser.use)
            if guide.orders and not any(guide.inside(at).any() for at in asked if at.order in guide.orders):
                sigmas = [float(at.sigma[0]) for at in asked]
                raise ConfigError(
                    f"{adviser.name}: it speaks at sigma {guide.sigma_min:.3g} to {guide.sigma_max:.3g} in evaluations "
                    f"of order {', '.join(map(str, guide.orders))}, but this sampler, whose {len(asked)} evaluations "
                    f"go from sigma {max(sigmas):.3g} to {min(sigmas):.3g}, never asks there: widen the guide's window"
                )

    def _adviser(self, block: Block, folder: Path, trunk: Path | None) -> "TrainedGuide":
        method = build_method(block["method"], block["model"])
        use = build(method.Use, block["use"], f"{block['guide']}: use")
        given = {} if trunk is None else {"trunk": self._networks(trunk, method.trunk, {})["classifier"]}
        return TrainedGuide(block["guide"], method, use, self._networks(folder, method, given))

    def _networks(self, folder: Path, method: Trainable, given: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """Of a guide, in memory once."""
        if folder not in self._loaded:
            self._loaded[folder] = load_networks(folder, method, self.data, self.device, given)
        return self._loaded[folder]


def finite(denoise: Denoiser, rng: ImageRng, who: str) -> Denoiser:
    """As it was, but NaN and infinity are told where they first appear."""

    def watched(x: Tensor, at: At) -> Prediction:
        said = denoise(x, at)
        parts = [part.flatten(1) for part in (said.x0, said.guidance_score) if part is not None]
        bad = ~torch.cat(parts, 1).isfinite().all(1)
        if bad.any():
            row = int(bad.int().argmax())
            seed = rng.generators[row].initial_seed() if isinstance(rng, SeededRng) else f"of row {row}"
            where = f"step {at.step} (sigma {float(at.sigma[row]):.4g}), seed {seed}"
            raise TrilemmaError(
                f"sampling: {who} gave NaN or infinity in {where}: "
                "its weights are broken, or the steps too few for these settings"
            )
        return said

    return watched


class TrainedGuide(NamedTuple):
    """A trained guide, and how it is used."""

    name: str
    method: Any
    use: Any
    nets: dict[str, nn.Module]


def sampler_spec(inputs: Mapping[str, Artifact], sampler: SamplerConfig) -> SamplerSpec:
    """inputs: the run, and its guides by name."""
    settings = asdict(sampler) | {"facts": inputs["run"].manifest.facts}
    settings["digests"] = [inputs[role].digest for role in sorted(inputs)]  # other weights, other guided_sampler
    guides = tuple(inputs[guide.guide].path for guide in sampler.guides)
    trunks = tuple(None if guide.trunk is None else inputs[guide.trunk].path for guide in sampler.guides)
    return SamplerSpec(json.dumps(settings), inputs["run"].path, guides, trunks)


def images_per_task(images: int, workers: int) -> int:
    """A multiple of TILE, on which no result depends: some tasks for each worker, and for what a kill may cost."""
    share = images // (max(workers, 1) * TASKS_PER_WORKER)
    return TILE * min(max(share // TILE, 1), MOST_TILES)


@lru_cache(maxsize=2)
def guided_sampler(recipe: SamplerSpec) -> GuidedSampler:
    return GuidedSampler(recipe)
