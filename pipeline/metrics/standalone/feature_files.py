"""Features extracted elsewhere: `.npz` with `features` (and `logits`), `.npy`, or shards of points."""

from pathlib import Path

import numpy as np

from pipeline.data.shards import decode
from pipeline.errors import UserError
from pipeline.metrics.features.extractors import Features
from pipeline.metrics.standalone import numpy_files
from pipeline.metrics.standalone.intake import Intake
from pipeline.metrics.standalone.label_files import ARRAY, check_classes, known_classes
from pipeline.metrics.standalone.numpy_files import array_headers, load_array
from pipeline.metrics.standalone.table_files import fixed_shape, read_batches, table_files

LOGITS = "logits"


def read_features(source: Path, intake: Intake | None = None) -> Features:
    """[n, d] floats, all finite, in the order of the source."""
    intake = Intake() if intake is None else intake
    if files := table_files(source):
        return Features(np.concatenate([_points(file) for file in files]))
    if not source.exists():
        raise UserError(f"{source} does not exist: pass .npz, .npy or a folder of shards")
    if source.suffix not in numpy_files.SUFFIXES:
        raise UserError(f"{source} holds no features: pass .npz, .npy or a folder of shards of points")
    headers = array_headers(source)
    name = "features" if source.suffix == ".npz" else "array"
    if name not in headers:
        raise UserError(f"{source} holds {', '.join(headers) or 'nothing'}: pass an array `features`")
    used = [name, LOGITS, ARRAY] if LOGITS in headers else [name]
    intake.left_out += numpy_files.others_in_words(headers, *used)
    arrays = load_array(source, name, LOGITS)
    features = _checked(arrays[name], source, name)
    if LOGITS not in arrays:
        return Features(features)
    logits = _checked(arrays[LOGITS], source, LOGITS)
    if len(logits) != len(features):
        raise UserError(f"{source}: {len(features)} rows of `features` but {len(logits)} of `logits`")
    labels = known_classes(source, len(features), intake)
    if labels is not None:
        check_classes(labels, logits.shape[1], source, intake)
    return Features(features, logits, labels=labels)


def _points(file: Path) -> np.ndarray:
    stored = fixed_shape(read_batches(file)[0])
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
