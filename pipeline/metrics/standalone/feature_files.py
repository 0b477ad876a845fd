"""Features extracted elsewhere: `.npz` with `features` (and `logits`), `.npy`, or shards of points."""

from pathlib import Path

import numpy as np

from pipeline.data.shards import decode
from pipeline.errors import UserError
from pipeline.metrics.features.extractors import Features
from pipeline.metrics.standalone.image_files import ARRAY_SUFFIXES, fixed_shape, load_array, read_table, table_files
from pipeline.metrics.standalone.label_files import known_classes


def read_features(source: Path) -> Features:
    """[n, d] floats, all finite, in the order of the source."""
    if files := table_files(source):
        return Features(np.concatenate([_points(file) for file in files]))
    if not source.exists():
        raise UserError(f"{source} does not exist: pass .npz, .npy or a folder of shards")
    if source.suffix not in ARRAY_SUFFIXES:
        raise UserError(f"{source} holds no features: pass .npz, .npy or a folder of shards of points")
    arrays = load_array(source)
    name = "features" if source.suffix == ".npz" else "array"
    if name not in arrays:
        raise UserError(f"{source} holds {', '.join(arrays) or 'nothing'}: pass an array `features`")
    features = _checked(arrays[name], source, name)
    logits = _checked(arrays["logits"], source, "logits") if "logits" in arrays else None
    if logits is not None and len(logits) != len(features):
        raise UserError(f"{source}: {len(features)} rows of `features` but {len(logits)} of `logits`")
    return Features(features, logits, labels=known_classes(source, len(features)) if logits is not None else None)


def _points(file: Path) -> np.ndarray:
    stored = fixed_shape(read_table(file))
    if stored is None or stored[1].kind != "f" or len(stored[0]) != 1:
        raise UserError(f"{file} holds pictures, not features: name an extractor")
    return _checked(decode(file).images, file, "image")


def _checked(values: np.ndarray, file: Path, name: str) -> np.ndarray:
    if values.dtype.kind != "f" or values.ndim != 2:
        hint = "these look like pictures, name an extractor" if values.dtype == np.uint8 else "pass floats [n, d]"
        raise UserError(f"{file}: `{name}` is {values.dtype} {values.shape}, wanted floats [n, d]: {hint}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise UserError(f"{file} row {bad[0]}: `{name}` holds NaN or infinity ({len(bad)} such rows): extract it again")
    return values if values.dtype == np.float64 else values.astype(np.float32)
