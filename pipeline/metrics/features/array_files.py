"""Named arrays in a safetensors file that also holds their digest."""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from pipeline.errors import ArtifactError


def read_arrays(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["about"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def check_digest(path: Path, digest: str, recorded: str) -> None:
    if digest != recorded:
        raise ArtifactError(
            f"{path}: content has digest {digest[:12]}, not {recorded[:12]} as recorded in it: make it again"
        )
