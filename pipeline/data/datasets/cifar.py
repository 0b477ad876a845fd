"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their official binary archives, downloaded or given as a file.

The binary archives, not the Python ones: those are pickles.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch.hub import download_url_to_file

from pipeline.data.artifacts import sha256_of_file
from pipeline.data.records import Record
from pipeline.errors import UserError

SHAPE = (3, 32, 32)


class Archive(NamedTuple):
    url: str
    sha256: str
    splits: dict[str, tuple[str, ...]]  # files of each split
    label_bytes: int  # before the pixels; the last of them is the class
    names: str  # the file of the classes' names


ARCHIVES = {
    10: Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "held_out": ("test_batch.bin",)},
        1,
        "batches.meta.txt",
    ),
    100: Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        {"train": ("train.bin",), "held_out": ("test.bin",)},
        2,
        "fine_label_names.txt",
    ),
}


@dataclass(frozen=True)
class Source:
    """path: the archive, or a folder to find it in or to download it to."""

    path: str
    classes: Literal[10, 100] = 10
    verify: bool = True  # the archive's SHA-256; off only for archives made by hand

    @property
    def label_names(self) -> tuple[str, ...]:
        with tarfile.open(self._file()) as archive:
            content = _member(archive, self._about.names).decode()
        return tuple(line for line in content.split() if line)

    def records(self) -> Iterator[Record]:
        with tarfile.open(self._file()) as archive:
            for split, names in self._about.splits.items():
                for name in names:
                    yield from self._of_file(_member(archive, name), name, split)

    @property
    def _about(self) -> Archive:
        return ARCHIVES[self.classes]

    def _of_file(self, content: bytes, name: str, split: str) -> Iterator[Record]:
        width = self._about.label_bytes + int(np.prod(SHAPE))
        if len(content) % width:
            raise UserError(f"{self.path}: {name} has {len(content)} bytes, no multiple of {width}: download it again")
        rows = np.frombuffer(content, np.uint8).reshape(-1, width)
        for number, row in enumerate(rows):
            label = int(row[self._about.label_bytes - 1])
            image = row[self._about.label_bytes :].reshape(SHAPE)
            yield Record(image, label, split, f"{self.path}/{name} row {number}")

    def _file(self) -> Path:
        """The archive, verified; downloaded if there is only a folder for it."""
        path = Path(self.path)
        file = path / self._about.url.rpartition("/")[2] if path.is_dir() else path
        if not file.is_file():
            _download(self._about.url, file, self._about.sha256 if self.verify else None)
        elif self.verify and (sha256 := sha256_of_file(file)) != self._about.sha256:
            raise UserError(
                f"{file}: SHA-256 {sha256[:12]}... but the official archive has {self._about.sha256[:12]}...: "
                f"download {self._about.url} again"
            )
        return file


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """The bytes of a file, in any folder of the archive; nothing is unpacked."""
    for entry in archive.getmembers():
        if entry.isfile() and entry.name.rpartition("/")[2] == name:
            stream = archive.extractfile(entry)
            assert stream is not None
            return stream.read()
    raise UserError(f"{archive.name} holds no {name}: it is not the binary archive")


def _download(url: str, to: Path, sha256: str | None) -> None:
    try:
        download_url_to_file(url, str(to), hash_prefix=sha256, progress=False)
    except (OSError, RuntimeError) as error:  # RuntimeError: of the hash
        raise UserError(f"{url} could not be downloaded ({error}): fetch it elsewhere and set options.path") from None
