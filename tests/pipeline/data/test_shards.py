"""Images and points in shards."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.shards import Pictures, decode, encode, read_pictures, write_parts, write_pictures
from pipeline.errors import ArtifactError


def some(n: int, dtype: str = "uint8") -> Pictures:
    rng = np.random.default_rng(n)
    images = rng.integers(0, 256, (n, 1, 4, 4)).astype(np.uint8) if dtype == "uint8" else rng.normal(size=(n, 2))
    return Pictures(images.astype(dtype), np.arange(n) % 10, np.arange(n) + 100)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_is_read_is_what_was_written(dtype: str) -> None:
    pictures = some(70, dtype)
    for was, read in zip(pictures[:3], decode(encode(pictures))):
        np.testing.assert_array_equal(was, read)
        assert was.dtype == np.asarray(read).dtype


def test_the_same_pictures_give_the_same_bytes() -> None:
    assert encode(some(70)) == encode(decode(encode(some(70))))


def test_shards_join_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.shards.MAX_SHARD_ROWS", 32)
    write_pictures(tmp_path, "train", some(70))
    assert len(list(tmp_path.iterdir())) == 3
    np.testing.assert_array_equal(read_pictures(tmp_path, "train").seeds, some(70).seeds)
    for cuts in ([10, 11, 64], [32], [64]):
        positions = np.split(np.arange(70), cuts)
        write_parts(tmp_path, f"cut{cuts}", (some(70).take(rows) for rows in positions))
        for number in range(3):
            joined, cut = (tmp_path / f"{name}-{number:05d}.parquet" for name in ("train", f"cut{cuts}"))
            assert joined.read_bytes() == cut.read_bytes()


def test_a_half_written_shard_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, "train", some(70))
    file = tmp_path / "train-00000.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"train-00000\.parquet is not readable"):
        read_pictures(tmp_path, "train")


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no held_out-\*\.arrow or \.parquet"):
        read_pictures(tmp_path, "held_out")
