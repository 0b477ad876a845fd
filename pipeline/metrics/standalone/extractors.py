"""Feature networks by name, and what they say of a source of pictures."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from pipeline.errors import UserError
from pipeline.metrics.features.extractors import WIDEST_PIXELS, Extractor, Features, Pixels, SmallNetwork
from pipeline.metrics.features.weights import INCEPTION, KNOWN, verified_path, weights_folder
from pipeline.metrics.standalone.image_files import read_chunks
from pipeline.metrics.standalone.label_files import known_classes


def extractor_named(name: str | None) -> Extractor:
    """pixels, inception-v3-compat, another network of torch-fidelity, or a file that `trilemma features` wrote.

    None: Inception if its weights are at hand, else pixels; nothing is downloaded.
    """
    folder = weights_folder()
    if name is None:
        return _best_at_hand(folder)
    if name == Pixels.name:
        return Pixels()
    if name.endswith(".safetensors"):
        return _own(Path(name))
    if name not in KNOWN:
        raise UserError(f"no extractor {name!r}: there are none, pixels, {', '.join(KNOWN)}, or FILE.safetensors")
    from pipeline.metrics.features.inception import Fidelity, Inception  # torch-fidelity takes seconds to import

    return Inception.load(folder) if name == INCEPTION else Fidelity.load(name, folder)


def extract(source: Path, extractor: Extractor) -> Features:
    """Each picture once through the network; all that it says of it."""
    shape: tuple[int, ...] | None = None
    parts: list[Features] = []
    for images in read_chunks(source):
        shape = images.shape[1:]
        if isinstance(extractor, Pixels) and images[0].size > WIDEST_PIXELS:
            raise UserError(f"{source}: {images[0].size} pixel values are too many for features: name an extractor")
        parts.append(_outputs(extractor, images))
    if not parts:
        raise UserError(f"{source} holds no pictures")
    features, logits, spatial = (
        None if column[0] is None else np.concatenate(column) for column in zip(*(part[:3] for part in parts))
    )
    assert features is not None
    return Features(features, logits, spatial, shape, classes(source, extractor, len(features)))


def classes(source: Path, extractor: Extractor, n: int) -> np.ndarray | None:
    """[n] of the labels beside n pictures; only a network of one's own was trained on what they speak of."""
    return known_classes(source, n) if isinstance(extractor, SmallNetwork) else None


def _outputs(extractor: Extractor, images: np.ndarray) -> Features:
    outputs = getattr(extractor, "outputs", None)  # of networks that also classify
    return Features(extractor(images)) if outputs is None else Features(*outputs(images))


def _best_at_hand(folder: Path) -> Extractor:
    if verified_path(INCEPTION, folder, KNOWN[INCEPTION]) is None:
        return Pixels()
    return extractor_named(INCEPTION)


def _own(file: Path) -> SmallNetwork:
    if not file.is_file():
        raise UserError(f"{file} does not exist: pass what `trilemma features` or `trilemma weights train` wrote")
    try:
        return SmallNetwork.load(file)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{file} is no network of ours ({reason}): pass what `trilemma features` or `trilemma weights train` wrote"
        ) from None
