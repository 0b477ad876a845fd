"""Download and check the released weights of feature networks."""

import urllib.error
import urllib.request
from pathlib import Path

from pipeline.data.artifacts import sha256_of_file
from pipeline.errors import UserError
from pipeline.metrics.features.weights import (
    BLOCK_BYTES,
    FOLDER_VARIABLE,
    KNOWN,
    TIMEOUT_SECONDS,
    Check,
    WeightsFile,
    check,
    verified_path,
)
from pipeline.store.files import temporary


def check_all(folder: Path) -> list[Check]:
    return [check(name, folder, known) for name, known in KNOWN.items()]


def fetch(extractor: str, folder: Path, known: WeightsFile) -> Path:
    """The verified file, downloaded if it is absent; what was downloaded appears under its name only if it is right."""
    if (path := verified_path(extractor, folder, known)) is not None:
        return path
    target = folder / known.file_names[0]
    with temporary(target) as draft:
        _download(extractor, known.url, draft, folder)
        if (found := sha256_of_file(draft)) != known.sha256:
            raise UserError(f"{known.url}: SHA-256 is {found}, but {extractor} has {known.sha256}: try another source")
        draft.replace(target)
    return target


def _download(extractor: str, url: str, target: Path, folder: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, target.open("wb") as file:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise UserError(
            f"{extractor} has no weights in {folder}, and {url} cannot be read ({error}): "
            f"put the file there, or name its folder in {FOLDER_VARIABLE}"
        ) from None
