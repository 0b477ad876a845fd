"""Sampling from a trained run, guided or not: networks in memory, one image per seed."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods import autoguidance
from methods.core.devices import current_device
from methods.core.guidance import Guide, constant, guided, within
from methods.core.numbers import Positive
from methods.core.rng import TILE, ImageRng, SeededRng, sample_tiles
from methods.core.types import At, DataSpec, Denoiser, Diffusion, Prediction, Trainable, Wrap, unwrapped
from pipeline.config.build import Block, build, build_method
from pipeline.data.artifacts import Artifact, facts_of
from pipeline.data.captions import Captions
from pipeline.errors import ConfigError, TrilemmaError
from pipeline.sampling.counting import counting
from pipeline.training.averages import load_average
from pipeline.training.latents import AUTOENCODER, Decoder, check_encoder
from pipeline.training.networks import data_spec, is_captioned, load_networks

LabelOf = Callable[[int], int | Sequence[int]]  # of a seed

CAPTIONS = "captions"  # the role of the prepared data whose captions a run takes
TASKS_PER_WORKER = 4
MAX_TILES_PER_TASK = 8  # a kill loses at most the tasks that are running


@dataclass(frozen=True)
class Guidance:
    """One guide of a guided entry: the guide's method, and its settings for this entry."""

    guide: str
    method: str
    model: Block
    use: Block
    trunk: str | None  # the classifier whose features it reads


@dataclass(frozen=True)
class Weaker:
    """The weaker run of an autoguided entry (`methods.autoguidance`), and its settings for this entry."""

    method: str
    model: Block
    use: Block
    ema: Positive | None  # as in SamplerConfig


@dataclass(frozen=True)
class AutoencoderOf:
    """The autoencoder of the latents that a run makes."""

    method: str
    model: Block


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample: a run's method and settings, and its guides."""

    method: str
    model: Block
    sample: Block
    guides: list[Guidance]
    ema: Positive | None = None  # relative length of the average of weights to sample with; None: the method's own
    weaker: Weaker | None = None
    decoder: AutoencoderOf | None = None  # None: what the run makes is what is wanted


@dataclass(frozen=True)
class SamplerSpec:
    """All that a GuidedSampler is built from: hashable, and small when pickled."""

    settings: str  # JSON: a SamplerConfig, the run's facts, the digests of what it was trained on
    run: Path
    guides: tuple[Path, ...]
    trunks: tuple[Path | None, ...]  # one per guide
    weaker: Path | None = None
    captions: Path | None = None  # prepared data, whose held-out captions the samples take
    decoder: Path | None = None


class TrainedGuide(NamedTuple):
    """A guide's method and networks, and the settings of its use."""

    name: str
    method: Any
    use: Any
    nets: dict[str, nn.Module]

    def guide(self, labels: Tensor | None) -> Guide:
        return self.method.guide(self.nets, condition(self.method, labels), self.use)


class WeakerRun(NamedTuple):
    """A run that the sampled one is guided away from."""

    method: Diffusion
    use: autoguidance.Use
    nets: dict[str, nn.Module]

    def wrap(self, labels: Tensor | None) -> Wrap:
        weaker = self.method.denoiser(self.nets["denoiser"], condition(self.method, labels))
        return lambda denoise: autoguidance.autoguided(denoise, weaker, self.use)


class GuidedSampler:
    """A run's networks in memory, those of its guides, and the settings to sample with."""

    def __init__(self, spec: SamplerSpec) -> None:
        """ConfigError for a guide that has no effect on this method or with these settings."""
        settings: dict[str, Any] = json.loads(spec.settings)
        self.device = current_device()
        self.data = data_spec(settings["facts"])
        self.method = build_method(settings["method"], settings["model"])
        self.sampling = build(self.method.Sampling, settings["sample"], f"{settings['method']}: sample")
        self.captions = None if spec.captions is None else Captions.of(spec.captions)
        self.nets = load_networks(spec.run, self.method, self.data, self.device)
        if settings["ema"] is not None:
            load_average(self.nets, spec.run, settings["facts"], settings["ema"])
        self._loaded: dict[Path, dict[str, nn.Module]] = {}
        guides = zip(settings["guides"], spec.guides, spec.trunks)
        self.guides = [self._load_guide(block, folder, trunk) for block, folder, trunk in guides]
        self.weaker = None if spec.weaker is None else self._load_weaker(settings["weaker"], spec.weaker)
        self.decode = None if spec.decoder is None else self._load_decoder(settings["decoder"], spec.decoder)
        if (self.guides or self.weaker) and not isinstance(self.method, Diffusion):
            raise ConfigError(f"{settings['method']} does not sample through a denoiser: it cannot be guided")
        self._check_windows()

    def sample(self, seeds: range, wrap: Wrap = unwrapped, label_of: LabelOf | None = None) -> Iterator[Tensor]:
        """Samples [n, *shape], tile by tile; images, where there is a decoder.

        label_of: the class of a seed, or class and tokens for a run with captions. None: seed s has class s modulo the
        number of classes, or class and caption of held-out picture s modulo their number.
        """

        def sample_tile(labels: Tensor | None, rng: ImageRng) -> Tensor:
            samples = sample_undecoded(labels, rng)
            return samples if self.decode is None else self.decode(samples)

        def sample_undecoded(labels: Tensor | None, rng: ImageRng) -> Tensor:
            own = condition(self.method, labels)
            if not isinstance(self.method, Diffusion):
                return self.method.sample(self.nets, self.sampling, own, rng)
            guidance = self.guidance(labels, rng)

            def wrapped(denoise: Denoiser) -> Denoiser:
                return wrap(guidance(finite(denoise, rng, "the network")))

            return self.method.sample(self.nets, self.sampling, own, rng, wrap=wrapped)

        return sample_tiles(sample_tile, seeds, label_of or self._label_of, self.device)

    def guidance(self, labels: Tensor | None, rng: ImageRng) -> Wrap:
        """The weaker run and the guides, for images of these labels, see `condition`; nothing without any."""
        guides = [trained.guide(labels) for trained in self.guides]
        apart = unwrapped if self.weaker is None else self.weaker.wrap(labels)
        if not guides and self.weaker is None:
            return unwrapped
        return lambda denoise: finite(guided(apart(denoise), *guides), rng, "a guide")

    def counting(self) -> AbstractContextManager[dict[str, int]]:
        """Counts rows through the generator's networks as `nfe`, through the guides' as `guide_calls`.

        A head and its trunk are two networks; a trunk that guides share is one, called once.
        """
        parts = [*self.guides, *([] if self.weaker is None else [self.weaker])]
        guides = dict.fromkeys(net for part in parts for net in part.nets.values())
        return counting({"nfe": list(self.nets.values()), "guide_calls": list(guides)})

    @property
    def _label_of(self) -> LabelOf | None:
        classes = self.data.classes
        if self.captions is not None:
            return self.captions.row
        return (lambda seed: seed % classes) if classes else None

    def _check_windows(self) -> None:
        """ConfigError for a guide that is outside its window at every evaluation of the sampler.

        The evaluations are those of one image, with a denoiser that returns zeros.
        """
        if not self.guides and self.weaker is None:
            return
        evaluations: list[At] = []

        def recording(_: Denoiser) -> Denoiser:
            def zeros(x: Tensor, at: At) -> Prediction:
                evaluations.append(at)
                return Prediction(torch.zeros_like(x), variance_share=torch.zeros_like(x))

            return zeros

        labels = None if self._label_of is None else torch.tensor([self._label_of(0)], device=self.device)
        own = condition(self.method, labels)
        self.method.sample(self.nets, self.sampling, own, SeededRng([0], self.device), wrap=recording)
        if self.weaker is not None and self.weaker.use.interval is not None:
            law = within(constant(1.0), interval := self.weaker.use.interval)
            if not any(law(at, at.sigma).any() for at in evaluations):
                raise ConfigError(
                    f"weaker: no step of the sampler begins in its interval ({interval[0]:.3g}, "
                    f"{interval[1]:.3g}]: widen it"
                )
        for trained in self.guides:
            guide = trained.guide(labels)
            if guide.orders and not any(guide.inside(at).any() for at in evaluations if at.order in guide.orders):
                sigmas = [float(at.sigma[0]) for at in evaluations]
                raise ConfigError(
                    f"{trained.name}: its window is sigma {guide.sigma_min:.3g} to {guide.sigma_max:.3g} in "
                    f"evaluations of order {', '.join(map(str, guide.orders))}, but none of the sampler's "
                    f"{len(sigmas)} evaluations, from sigma {max(sigmas):.3g} to {min(sigmas):.3g}, is inside: "
                    "widen the guide's window"
                )

    def _load_guide(self, block: Block, folder: Path, trunk: Path | None) -> TrainedGuide:
        method = build_method(block["method"], block["model"])
        use = build(method.Use, block["use"], f"{block['guide']}: use")
        ready = {} if trunk is None else {"trunk": self._load(trunk, method.trunk, {})["classifier"]}
        return TrainedGuide(block["guide"], method, use, self._load(folder, method, ready))

    def _load_weaker(self, block: Block, folder: Path) -> WeakerRun:
        method = build_method(block["method"], block["model"])
        if not isinstance(method, Diffusion):
            raise ConfigError(f"weaker: {block['method']} has no denoiser: name a diffusion model")
        use = build(autoguidance.Use, block["use"], "weaker")
        nets = load_networks(folder, method, self.data, self.device)
        if block["ema"] is not None:
            load_average(nets, folder, facts_of(folder), block["ema"])
        return WeakerRun(method, use, nets)

    def _load_decoder(self, block: Block, folder: Path) -> Decoder:
        assert self.data.latents is not None
        return Decoder.load(folder, block, self.data.latents, self.device)

    @property
    def stored(self) -> DataSpec:
        """What is stored: data, or images where there is a decoder."""
        return self.data if self.decode is None else self.data._replace(shape=self.decode.shape, latents=None)

    def _load(self, folder: Path, method: Trainable, ready: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """A guide's networks; guides share those of one folder."""
        if folder not in self._loaded:
            self._loaded[folder] = load_networks(folder, method, self.data, self.device, ready)
        return self._loaded[folder]


def condition(method: Trainable, labels: Tensor | None) -> Tensor | None:
    """What a method is conditioned on: labels [B] are classes, [B, 1 + L] class and caption of each image."""
    if labels is None or labels.ndim == 1:
        return labels
    return labels[:, 1:] if is_captioned(method) else labels[:, 0]


def finite(denoise: Denoiser, rng: ImageRng, source: str) -> Denoiser:
    """The same denoiser; TrilemmaError with step and seed at its first NaN or infinity. source: for the message."""

    def checked(x: Tensor, at: At) -> Prediction:
        prediction = denoise(x, at)
        parts = [part.flatten(1) for part in (prediction.x0, prediction.guidance_score) if part is not None]
        bad = ~torch.cat(parts, 1).isfinite().all(1)
        if bad.any():
            row = int(bad.int().argmax())
            seed = rng.generators[row].initial_seed() if isinstance(rng, SeededRng) else f"of row {row}"
            raise TrilemmaError(
                f"sampling: {source} gave NaN or infinity in step {at.step} (sigma {float(at.sigma[row]):.4g}), "
                f"seed {seed}: its weights are broken, or the steps too few for these settings"
            )
        return prediction

    return checked


def sampler_spec(inputs: Mapping[str, Artifact], config: SamplerConfig) -> SamplerSpec:
    """inputs: the run, its guides by name, and the autoencoder of its latents; UserError if it is another one's."""
    check_encoder(inputs)
    settings = asdict(config) | {"facts": inputs["run"].manifest.facts}
    settings["digests"] = [inputs[role].digest for role in sorted(inputs)]  # other weights make another sampler
    guides = tuple(inputs[guide.guide].path for guide in config.guides)
    trunks = tuple(None if guide.trunk is None else inputs[guide.trunk].path for guide in config.guides)
    weaker = None if config.weaker is None else inputs["weaker"].path
    captions = inputs[CAPTIONS].path if CAPTIONS in inputs else None
    decoder = None if config.decoder is None else inputs[AUTOENCODER].path
    return SamplerSpec(json.dumps(settings), inputs["run"].path, guides, trunks, weaker, captions, decoder)


def images_per_task(images: int, workers: int) -> int:
    """A multiple of TILE: TASKS_PER_WORKER tasks for each worker, within bounds. No result depends on it."""
    share = images // (max(workers, 1) * TASKS_PER_WORKER)
    return TILE * min(max(share // TILE, 1), MAX_TILES_PER_TASK)


guided_sampler = lru_cache(maxsize=2)(GuidedSampler)  # by its SamplerSpec
