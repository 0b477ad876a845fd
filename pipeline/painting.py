"""What `generate` and `sample` share: pictures by seed, painted in pieces wherever there is room, and counted."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from methods.core.devices import current_device
from methods.core.guidance import guided
from methods.core.pixels import to_uint8
from methods.core.rng import TILE, ImageRng, SeededRng, sample_tiles
from methods.core.types import At, DataSpec, Denoiser, Diffusion, Prediction, Trainable, Wrap, unwrapped
from pipeline.artifacts import Artifact, Draft
from pipeline.config import Block, build, build_method
from pipeline.denoising_paths import LOG_RATIO, denoising_path, write_log_ratios
from pipeline.errors import ConfigError, TrilemmaError
from pipeline.shards import Pictures, decode, encode, shard_files, write_parts
from pipeline.stage import Around
from pipeline.weights import data_spec, load_networks


@dataclass(frozen=True)
class Guidance:
    """One guide of a guided entry: the guide's method, and how it is used here."""

    guide: str
    method: str
    model: Block
    use: Block
    trunk: str | None  # the classifier whose features it reads


@dataclass(frozen=True)
class Sampler:
    """How to sample: a run's method and settings, and who guides it."""

    method: str
    model: Block
    sample: Block
    guides: list[Guidance]


@dataclass(frozen=True)
class Recipe:
    """Everything a painter needs, small enough to send anywhere and hashable."""

    settings: str  # JSON: a Sampler, the run's facts, the digests of what it was trained on
    run: Path
    guides: tuple[Path, ...]
    trunks: tuple[Path | None, ...]  # of the guides, where they have one


class Painter:
    """Networks in memory, and how to sample from them."""

    def __init__(self, recipe: Recipe) -> None:
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

    def _adviser(self, block: Block, folder: Path, trunk: Path | None) -> "Adviser":
        method = build_method(block["method"], block["model"])
        use = build(method.Use, block["use"], f"{block['guide']}: use")
        given = {} if trunk is None else {"trunk": self._networks(trunk, method.trunk, {})["classifier"]}
        return Adviser(block["guide"], method, use, self._networks(folder, method, given))

    def _networks(self, folder: Path, method: Trainable, given: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """Of a guide, in memory once."""
        if folder not in self._loaded:
            self._loaded[folder] = load_networks(folder, method, self.data, self.device, given)
        return self._loaded[folder]


def finite(denoise: Denoiser, rng: ImageRng, who: str) -> Denoiser:
    """As it was, but NaN and infinity are told where they first appear."""

    def watched(x: Tensor, at: At) -> Prediction:
        said = denoise(x, at)
        parts = [part.flatten(1) for part in (said.x0, said.push) if part is not None]
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


class Adviser(NamedTuple):
    """A trained guide, and how it is used."""

    name: str
    method: Any
    use: Any
    nets: dict[str, nn.Module]


@dataclass(frozen=True)
class Piece:
    """A range of seeds, painted by whoever is free."""

    recipe: Recipe
    state: Any  # pipeline.store.State
    seeds: range

    @property
    def file(self) -> str:
        return f"{self.seeds.start}-{self.seeds.stop}.parquet"


class Tally(NamedTuple):
    """What a piece took."""

    counts: dict[str, float]  # network evaluations per image
    seconds: float  # of painting alone, by whoever painted


def paint_sets(
    inputs: Mapping[str, Artifact], sampler: Sampler, sets: Mapping[str, range], out: Draft, around: Around
) -> None:
    """Every set's pictures as shards of that name; network evaluations per image among the facts."""
    facts = inputs["run"].manifest.facts
    artist = painter(recipe := recipe_of(inputs, sampler))  # what does not fit, fails here
    pieces = {name: _pieces(recipe, seeds, around) for name, seeds in sets.items()}
    counts = _paint([piece for of_set in pieces.values() for piece in of_set], around)
    for name, of_set in pieces.items():
        write_parts(out.path, name, (decode(around.state.load(piece.file) or b"") for piece in of_set))
        around.watch.samples(name, decode(shard_files(out.path, name)[0]).images, 0)
    if isinstance(artist.method, Diffusion):
        path = stored(denoising_path(artist, next(iter(sets.values())).start), artist.data)
        np.save(out.path / "path.npy", path)
        around.watch.path(path)
        write_log_ratios(artist, next(iter(sets.values())).start, out.path / LOG_RATIO)
    out.facts.update(counts, shape=facts["shape"], classes=facts["classes"], images=sum(map(len, sets.values())))
    out.seeds.update({name: [seeds.start, seeds.stop] for name, seeds in sets.items()})


def recipe_of(inputs: Mapping[str, Artifact], sampler: Sampler) -> Recipe:
    """inputs: the run, and its guides by name."""
    settings = asdict(sampler) | {"facts": inputs["run"].manifest.facts}
    settings["digests"] = [inputs[role].digest for role in sorted(inputs)]  # other weights, other painter
    guides = tuple(inputs[guide.guide].path for guide in sampler.guides)
    trunks = tuple(None if guide.trunk is None else inputs[guide.trunk].path for guide in sampler.guides)
    return Recipe(json.dumps(settings), inputs["run"].path, guides, trunks)


def _pieces(recipe: Recipe, seeds: range, around: Around) -> list[Piece]:
    starts = range(seeds.start, seeds.stop, around.piece)
    return [Piece(recipe, around.state, range(start, min(start + around.piece, seeds.stop))) for start in starts]


def _paint(pieces: list[Piece], around: Around) -> dict[str, float]:
    """All pieces into the state, and the mean counts per image. The seconds are circumstance: they go to the watch."""
    total, done, seconds, sums = sum(len(piece.seeds) for piece in pieces), 0, 0.0, Counter[str]()
    for piece, tally in zip(pieces, around.launch.map(paint_piece, pieces)):
        done += len(piece.seeds)
        seconds += tally.seconds
        around.watch.progress(done, total)
        sums.update({name: count * len(piece.seeds) for name, count in tally.counts.items()})
    around.watch.note_cost("seconds_per_image", seconds / total)
    return {name: count / total for name, count in sums.items()}


def stored(images: Tensor, data: DataSpec) -> np.ndarray:
    """As shards keep them: pictures as uint8, points as float32."""
    return (to_uint8(images) if len(data.shape) == 3 else images.float()).numpy()


def paint_piece(piece: Piece) -> Tally:
    """Paint a piece into the state, unless it is there already."""
    tally = f"{piece.file}.json"
    saved = piece.state.load(tally)
    if saved is not None:
        return Tally(*json.loads(saved))
    artist = painter(piece.recipe)
    started = time.perf_counter()
    with artist.counting() as rows:
        images = torch.cat([tile.cpu() for tile in artist.paint(piece.seeds)])  # .cpu() waits for the device
    seconds = time.perf_counter() - started
    tiles = -(-piece.seeds.stop // TILE) - piece.seeds.start // TILE
    bad = ~images.isfinite().flatten(1).all(1)
    if bad.any():
        raise TrilemmaError(f"sampling gave NaN or infinity, first at seed {piece.seeds[int(bad.int().argmax())]}")
    labels = np.array([seed % artist.data.classes if artist.data.classes else -1 for seed in piece.seeds], np.int64)
    piece.state.save(piece.file, encode(Pictures(stored(images, artist.data), labels, np.array(piece.seeds, np.int64))))
    tallied = Tally({name: value / (tiles * TILE) for name, value in rows.items()}, seconds)
    piece.state.save(tally, json.dumps(tallied).encode())
    return tallied


@lru_cache(maxsize=2)
def painter(recipe: Recipe) -> Painter:
    return Painter(recipe)


@contextmanager
def counting(nets: Mapping[str, list[nn.Module]]) -> Iterator[dict[str, int]]:
    """Counts the rows that pass through the networks of each name: evaluations are counted, never computed."""
    rows = dict.fromkeys(nets, 0)

    def count(name: str, rows_of: Tensor) -> None:
        rows[name] += len(rows_of)

    handles = [
        net.register_forward_hook(lambda _net, given, _made, name=name: count(name, given[0]))
        for name, group in nets.items()
        for net in group
    ]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
