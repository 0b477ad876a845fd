"""Feature extractors by the names that `trilemma measure` accepts."""

from pathlib import Path

from safetensors import SafetensorError

from pipeline.errors import UserError
from pipeline.metrics.features.extractors import Extractor, Pixels, SmallNetwork
from pipeline.metrics.features.weights import INCEPTION, KNOWN, verified_path, weights_folder
from pipeline.metrics.standalone.fetch_weights import fetch


def extractor_named(name: str | None) -> Extractor:
    """pixels, inception-v3-compat, another network of torch-fidelity, or a file of the small network.

    None: Inception if its weights are on this machine, else pixels; nothing is downloaded.
    """
    folder = weights_folder()
    if name is None:
        name = Pixels.name if verified_path(INCEPTION, folder, KNOWN[INCEPTION]) is None else INCEPTION
    if name == Pixels.name:
        return Pixels()
    if name.endswith(".safetensors"):
        return _small_network(Path(name))
    if name not in KNOWN:
        raise UserError(f"no extractor {name!r}: there are none, pixels, {', '.join(KNOWN)}, or FILE.safetensors")
    from pipeline.metrics.features.inception import Fidelity, Inception  # torch-fidelity takes seconds to import

    weights = fetch(name, folder, KNOWN[name])
    return Inception(weights) if name == INCEPTION else Fidelity(name, weights)


def _small_network(file: Path) -> SmallNetwork:
    wanted = "pass a file that `trilemma features` or `trilemma weights train` wrote"
    if not file.is_file():
        raise UserError(f"{file} does not exist: {wanted}")
    try:
        return SmallNetwork.load(file)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{file} is no network of ours ({str(error).splitlines()[0]}): {wanted}") from None
