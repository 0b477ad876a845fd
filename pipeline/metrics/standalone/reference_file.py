"""The real side of `trilemma measure`: samples, a file of `trilemma reference`, or published statistics.

Published are mean and covariance of Inception features: `.npz` with `mu` and `sigma` (EDM, TTUR, pytorch-fid), and
ADM's `VIRTUAL_*.npz`, with pictures (`arr_0`) and the statistics of pool and spatial features.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.artifacts import sha256_of_file
from pipeline.errors import UserError
from pipeline.metrics.features.extractors import Extractor, Features
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.standalone.inputs import (
    GivenFeatures,
    Summary,
    check_shapes,
    check_source,
    extractor_of,
    features_of,
    widths_of,
)
from pipeline.metrics.standalone.numpy_files import array_headers, load_array
from pipeline.metrics.suite import Real

ABOUT = "trilemma_reference"  # array with JSON that only a file of `trilemma reference` has
PICTURES = "arr_0"  # ADM's name
DESCRIPTION = ("name", "digest", "layer", "preprocessing")  # of the extractor
SPATIAL_CHANNELS = 7  # last in ADM's spatial features, first in those of `pipeline.metrics.features.inception`
UNKNOWN_N = 2**30 + 1  # in place of an unknown n: scatter = covariance * (n - 1) is exact


@dataclass(frozen=True)
class RealSide:
    name: str  # of the folder, or of the file with the first digits of its SHA-256
    samples: Features | None  # None: only mean and covariance are known
    saved: Real | None  # None: computed from the samples
    digest: str = ""  # of the file, if there are no samples
    warnings: tuple[str, ...] = ()  # what was left out of it
    changed: Mapping[str, int] = field(default_factory=dict)  # how many pictures each rule of `PIXELS` changed

    @property
    def n(self) -> int | None:
        return None if self.samples is None else len(self.samples)

    def prepared(self, metrics: Collection[str]) -> Real:
        """With what these metrics need."""
        if self.saved is not None:
            return self.saved
        assert self.samples is not None
        return Real.of(self.samples, metrics)


class Kind(NamedTuple):
    """How the real side is given."""

    about: dict[str, Any] | None  # of a file of `trilemma reference`
    has_statistics: bool  # `mu` and `sigma`
    has_samples: bool


def kind_of(source: Path) -> Kind:
    """From the names of the arrays in an `.npz`; other sources hold samples."""
    if source.suffix != ".npz" or not source.is_file():
        return Kind(None, False, True)
    names = array_headers(source).keys()
    about = json.loads(load_array(source, ABOUT)[ABOUT].item()) if ABOUT in names else None
    has_statistics = {"mu", "sigma"} <= names
    return Kind(about, has_statistics, PICTURES in names or not has_statistics)


def write_reference(real: Path, out: Path, extractor: str | None) -> str:
    """Writes what `measure` needs of the real side to `out`; returns what it is, and a line for each warning."""
    if out.suffix != ".npz":
        raise UserError(f"{out}: pass a name that ends in .npz")
    kind = kind_of(real)
    if kind.about is not None or not kind.has_samples:
        raise UserError(f"{real} is a reference already: pass it to `trilemma measure`, or pass samples here")
    network = extractor_of(extractor)
    summary = check_source(real, network)
    samples = features_of(summary, network)
    sides = {"": Reference.of(samples.features)}
    if samples.spatial is not None:
        sides["spatial_"] = Reference.of(samples.spatial, neighbours=0)
    arrays = {name: part for name, part in vars(samples).items() if part is not None}
    for prefix, side in sides.items():
        arrays |= {f"{prefix}mean": side.stats.mean, f"{prefix}scatter": side.stats.scatter}
        arrays |= {f"{prefix}factor": side.factor, f"{prefix}neighbours": side.neighbours}
    about = {name: getattr(network, name) for name in DESCRIPTION}
    about |= {"n": summary.n, "shape": summary.shape, "samples": summary.digest, "source": real.name}
    about |= {"warnings": summary.intake.warnings(), "changed": summary.intake.changed}
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays, **{ABOUT: np.array(json.dumps(about))})  # type: ignore[arg-type]
    unfinished.replace(out)
    result = f"{out}: {summary.n} real samples, {network.name}@{network.digest[:8]} {network.layer}"
    return "\n".join([result, *(f"warning: {real}: {line}" for line in summary.intake.warnings())])


def read_real(source: Path, kind: Kind, extractor: Extractor | GivenFeatures, generated: Summary) -> RealSide:
    """Everything is checked against the generated side before a network runs over many images."""
    if kind.about is not None:
        check_shapes(generated, source, _saved_shape(source, kind.about, extractor))
        return _load_saved(source, kind.about)
    if not kind.has_samples:
        return _load_statistics(source, *widths_of(generated, extractor))
    real = check_source(source, extractor)
    check_shapes(generated, source, real.shape)
    name, features = _file_name(source) if source.is_file() else source.name, features_of(real, extractor)
    return RealSide(name, features, None, "", real.intake.warnings(), real.intake.changed)


def _saved_shape(source: Path, about: dict[str, Any], extractor: Extractor | GivenFeatures) -> tuple[int, ...]:
    """Shape of the samples; an error unless extractor, weights and preprocessing are those of the measurement."""
    for name in DESCRIPTION:
        if about[name] != getattr(extractor, name):
            raise UserError(
                f"{source} was made with {about['name']}@{about['digest'][:8]} ({about['preprocessing']}), but this "
                f"measurement uses {extractor.name}@{extractor.digest[:8]} ({extractor.preprocessing}): "
                "pass the same --extractor, or make the reference again"
            )
    return tuple(about["shape"])


def _load_saved(source: Path, about: dict[str, Any]) -> RealSide:
    """From a file of `trilemma reference`."""
    arrays = load_array(source)
    samples = Features(**{name: arrays[name] for name in Features.__dataclass_fields__ if name in arrays})
    spatial = None if samples.spatial is None else _loaded(samples.spatial, arrays, "spatial_")
    saved = Real(_loaded(samples.features, arrays, ""), spatial)
    return RealSide(_file_name(source), samples, saved, "", tuple(about["warnings"]), about["changed"])


def _load_statistics(source: Path, width: int, spatial_width: int | None) -> RealSide:
    """`mu` and `sigma` (and `mu_s`, `sigma_s`) for features of these widths."""
    arrays = load_array(source, "mu", "sigma", "mu_s", "sigma_s")
    spatial = None
    if {"mu_s", "sigma_s"} <= {*arrays} and spatial_width is not None:
        order = np.arange(spatial_width).reshape(-1, SPATIAL_CHANNELS).T.ravel()
        mean, covariance = _checked(source, arrays, "_s", spatial_width)
        spatial = _from_moments(mean[order], covariance[np.ix_(order, order)])
    real = Real(_from_moments(*_checked(source, arrays, "", width)), spatial)
    return RealSide(_file_name(source), None, real, sha256_of_file(source))


def _file_name(source: Path) -> str:
    """NAME@12345678, with the first digits of the file's SHA-256."""
    return f"{source.name}@{sha256_of_file(source)[:8]}"


def _loaded(features: np.ndarray, arrays: dict[str, np.ndarray], prefix: str) -> Reference:
    stats = FeatureStats(len(features), arrays[f"{prefix}mean"], arrays[f"{prefix}scatter"])
    return Reference(features, stats, arrays[f"{prefix}factor"], arrays[f"{prefix}neighbours"])


def _from_moments(mean: np.ndarray, covariance: np.ndarray) -> Reference:
    stats = FeatureStats(UNKNOWN_N, mean, covariance * (UNKNOWN_N - 1))
    return Reference(np.empty((0, len(mean)), np.float32), stats, stats.factor(), np.empty((0, 0)))


def _checked(source: Path, arrays: dict[str, np.ndarray], suffix: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and covariance [d, d] in float64."""
    mean, covariance = arrays[f"mu{suffix}"], arrays[f"sigma{suffix}"]
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise UserError(
            f"{source}: mu{suffix} is {mean.shape}, sigma{suffix} {covariance.shape}, but the extractor has {width} "
            f"features, which need ({width},) and ({width}, {width}): pass the extractor of this file"
        )
    if mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        raise UserError(f"{source}: mu{suffix} is {mean.dtype}, sigma{suffix} {covariance.dtype}: pass floats")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{source}: mu{suffix} or sigma{suffix} holds NaN or infinity: download or make it again")
    if np.abs(covariance - covariance.T).max() > 1e-5 * np.abs(covariance).max():
        raise UserError(f"{source}: sigma{suffix} is not symmetric, so not a covariance: download or make it again")
    return mean.astype(np.float64), covariance.astype(np.float64)
