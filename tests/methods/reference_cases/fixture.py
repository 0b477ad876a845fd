"""The arrays of one golden file, and the register of golden tests by prefix of the file's name."""

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor


class Fixture(Mapping[str, np.ndarray]):
    """The arrays of one `.npz`; records which were read, so that none is left out."""

    def __init__(self, path: Path) -> None:
        self.stem, self.folder = path.stem, path.parent
        with np.load(path, allow_pickle=False) as archive:
            self._arrays = {name: archive[name] for name in archive.files}
        self._unread = set(self._arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        self._unread.discard(name)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def unread(self) -> list[str]:
        return sorted(self._unread)

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return torch.as_tensor(self[name]).to(dtype or torch.as_tensor(self._arrays[name]).dtype)

    def config(self, name: str = "config") -> dict[str, Any]:
        """A stored configuration: JSON, or the text of a Python dict."""
        text = str(self[name])
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return ast.literal_eval(text)

    def cases(self, suffix: str) -> list[str]:
        """The case names: every key that ends in `suffix`, without it."""
        return sorted(name.removesuffix(suffix) for name in self._arrays if name.endswith(suffix))

    def weights(self, stem: str) -> dict[str, Tensor]:
        """Float32 weights of a `.safetensors` beside this file."""
        return {name: value.float() for name, value in load_file(self.folder / f"{stem}.safetensors").items()}


CASES: dict[str, Callable[[Fixture], None]] = {}


def case(prefix: str) -> Callable[[Callable[[Fixture], None]], Callable[[Fixture], None]]:
    """Register a golden test for every file whose name starts with `prefix`; the longest prefix wins."""

    def register(test: Callable[[Fixture], None]) -> Callable[[Fixture], None]:
        CASES[prefix] = test
        return test

    return register


def case_for(stem: str) -> Callable[[Fixture], None] | None:
    prefixes = [prefix for prefix in CASES if stem.startswith(prefix)]
    return CASES[max(prefixes, key=len)] if prefixes else None


def close(
    actual: Tensor | np.ndarray | float, expected: np.ndarray | Tensor | float, atol: float, rtol: float = 0.0
) -> None:
    """Equal within a README's tolerance, as float64."""
    actual, expected = (
        torch.as_tensor(np.asarray(v.detach() if isinstance(v, Tensor) else v)).double() for v in (actual, expected)
    )
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, equal_nan=True)
