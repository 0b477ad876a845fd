"""Downloads of feature networks' weights, verified by their recorded SHA-256."""

from pathlib import Path

from pipeline.errors import UserError
from pipeline.metrics.features.weights import FOLDER_VARIABLE, KNOWN, Check, WeightsFile, check, verified_path


def check_all(folder: Path) -> list[Check]:
    return [check(name, folder, known) for name, known in KNOWN.items()]


def fetch(extractor: str, folder: Path, known: WeightsFile) -> Path:
    """The verified file, downloaded if it is absent; a wrong download is deleted."""
    if (path := verified_path(extractor, folder, known)) is not None:
        return path
    from torch.hub import download_url_to_file  # torch takes a second to import

    target = folder / known.file_names[0]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(known.url, str(target), hash_prefix=known.sha256, progress=False)
    except OSError as error:
        raise UserError(
            f"{extractor} has no weights in {folder}, and {known.url} cannot be read ({error}): "
            f"copy the file to that folder, or set {FOLDER_VARIABLE} to its folder"
        ) from None
    except RuntimeError as error:  # SHA-256
        raise UserError(f"{known.url} does not hold the weights of {extractor}: {error}: try another source") from None
    return target
