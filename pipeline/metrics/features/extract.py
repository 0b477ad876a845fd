"""The loop that runs a feature network over images, for the stages and for `trilemma measure`."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.data.row_index import ShardedRows
from pipeline.data.shards import Pictures
from pipeline.errors import UserError
from pipeline.metrics.features.array_files import read_arrays
from pipeline.metrics.features.attribute_network import AttributeNetwork
from pipeline.metrics.features.extractors import Extractor, Features, OwnNetwork, SmallNetwork
from pipeline.metrics.features.weights import INCEPTION, KNOWN, verified_path, weights_folder


def extract(extractor: Extractor, n: int, batches: Iterable[tuple[slice | np.ndarray, np.ndarray]]) -> Features:
    """batches: uint8 [m, C, H, W] and the positions of these images among all n; each image once."""
    arrays: dict[str, np.ndarray] = {}
    for positions, images in batches:
        for name, part in vars(extractor.outputs(images)).items():
            if part is not None:
                if name not in arrays:
                    arrays[name] = np.empty((n, *part.shape[1:]), part.dtype)
                arrays[name][positions] = part
    return Features(**arrays)


def outputs(extractor: Extractor, pictures: Pictures | ShardedRows) -> Features:
    """Rows keep the order of the pictures; at most one shard of pictures is in memory."""
    return extract(extractor, len(pictures), ((positions, part.images) for positions, part in pictures.by_shard()))


def own_network(folder: Path) -> SmallNetwork | AttributeNetwork | None:
    """The network that `features` trained on the dataset, if it trained one. folder: its artifact."""
    files = (folder / network_file(kind.name) for kind in (SmallNetwork, AttributeNetwork))
    return next((load_network(file) for file in files if file.is_file()), None)


def load_network(file: Path) -> SmallNetwork | AttributeNetwork:
    kind = AttributeNetwork if "attributes" in read_arrays(file)[0] else SmallNetwork
    return kind.load(file)


def network_file(name: str) -> str:
    return f"{name}.safetensors"


def recognised(network: OwnNetwork, pictures: Pictures | ShardedRows) -> float:
    """Share of pictures classified as their label."""
    right = [network.classify(part.images) == part.labels for _, part in pictures.by_shard()]
    return float(np.concatenate(right).mean())


def inception(sha256: str) -> Extractor:
    """From the weights file on this machine; sha256: of the weights that the references were made with."""
    from pipeline.metrics.features.inception import Inception  # torch-fidelity takes seconds to import

    path = verified_path(INCEPTION, weights_folder(), KNOWN[INCEPTION])
    if path is None or KNOWN[INCEPTION].sha256 != sha256:
        raise UserError(
            f"the references were made with Inception weights {sha256[:12]}, which are not in {weights_folder()}: "
            f"download them (trilemma weights fetch {INCEPTION})"
        )
    return Inception(path)


def reference_file(extractor: str, split: str) -> str:
    return f"{extractor}-{split}.safetensors"
