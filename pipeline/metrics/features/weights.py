"""Weights files of published feature networks: their folder, names and SHA-256."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.data.artifacts import sha256_of_file
from pipeline.errors import UserError

FOLDER_VARIABLE = "TRILEMMA_WEIGHTS"

Status = Literal["verified", "absent", "wrong"]


@dataclass(frozen=True)
class WeightsFile:
    """One extractor's weights."""

    file_names: tuple[str, ...]  # names of this file in different projects; the first is used for a download
    url: str
    sha256: str


class Check(NamedTuple):
    """One extractor's weights in a folder."""

    extractor: str
    status: Status
    path: Path | None
    sha256: str | None  # of the file at `path`


INCEPTION = "inception-v3-compat"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_CLIP_FILES = {  # by torch-fidelity's names; the digests are OpenAI's, part of the URLs
    "clip-rn50": ("RN50", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    "clip-vit-b-32": ("ViT-B-32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    "clip-vit-b-16": ("ViT-B-16", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "clip-vit-l-14": ("ViT-L-14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
}
KNOWN = {
    # TensorFlow's network of December 2015, as every published FID uses it
    INCEPTION: WeightsFile(
        ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "vgg16": WeightsFile(
        ("vgg16-397923af.pth",),
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    **{
        name: WeightsFile((f"{name}-{sha256}.pt", f"{file}.pt"), f"{_CLIP}/{sha256}/{file}.pt", sha256)
        for name, (file, sha256) in _CLIP_FILES.items()
    },
}


def weights_folder() -> Path:
    """$TRILEMMA_WEIGHTS, else the folder of torch's own downloads."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"


def known_weights(extractor: str) -> WeightsFile:
    if extractor not in KNOWN:
        raise UserError(f"no extractor {extractor!r} with recorded weights; there are {', '.join(KNOWN)}")
    return KNOWN[extractor]


def check(extractor: str, folder: Path, known: WeightsFile) -> Check:
    """Find one extractor's file and hash it."""
    for name in known.file_names:
        if (folder / name).is_file():
            sha256 = sha256_of_file(folder / name)
            return Check(extractor, "verified" if sha256 == known.sha256 else "wrong", folder / name, sha256)
    return Check(extractor, "absent", None, None)


def verified_path(extractor: str, folder: Path, known: WeightsFile) -> Path | None:
    """None if there is no file; a file with another SHA-256 is an error."""
    result = check(extractor, folder, known)
    if result.status == "wrong":
        raise UserError(
            f"{result.path}: SHA-256 is {result.sha256}, but {extractor} has {known.sha256}: "
            "delete the file and download it again (trilemma weights fetch)"
        )
    return result.path
