"""Data larger than memory: mapped, streamed, and evaluated shard by shard."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.context import Worker
from pipeline.data import loader
from pipeline.data.artifacts import read_artifact
from pipeline.data.loader import Epochs, Prepared, Stream, checked
from pipeline.data.row_index import ShardedRows, open_rows
from pipeline.data.shards import Pictures, encode, encode_arrow
from pipeline.errors import ArtifactError, UserError
from pipeline.metrics.features.statistics import FeatureStats, Gathered
from pipeline.store.publish import new_artifact
from pipeline.store.store import Store
from tests.support.toy_study import ROOT

ALONE = Worker(0, 1, torch.device("cpu"), None)
SIZES = (30, 30, 30, 7)
NUMBERS = np.arange(sum(SIZES))
IMAGES = np.random.default_rng(0).integers(0, 256, (len(NUMBERS), 3, 4, 4)).astype(np.uint8)


def shards(folder: Path, suffix: str) -> ShardedRows:
    for number, numbers in enumerate(np.split(NUMBERS, np.cumsum(SIZES)[:-1])):
        content = (encode_arrow if suffix == "arrow" else encode)(Pictures(IMAGES[numbers], numbers % 10, numbers))
        (folder / f"train-{number:05d}.{suffix}").write_bytes(content)
    return open_rows(folder, "train")


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_rows_are_those_of_one_array_wherever_their_shards_end(suffix: str, tmp_path: Path) -> None:
    rows = shards(tmp_path, suffix)
    order = np.random.default_rng(1).permutation(len(IMAGES))[:50]
    chosen = pickle.loads(pickle.dumps(rows.take(order)))
    np.testing.assert_array_equal(chosen[np.array([7, 7, 0, -1])], IMAGES[order][[7, 7, 0, -1]])
    np.testing.assert_array_equal(chosen.labels, order % 10)
    for read in (chosen.read(), Pictures.join(part.read() for part in rows.take(np.sort(order)).shard_views())):
        np.testing.assert_array_equal(read.images, IMAGES[read.seeds])
    with pytest.raises(IndexError):
        rows[np.array([len(IMAGES)])]


def test_rows_are_pickled_as_names_of_files(tmp_path: Path) -> None:
    rows = shards(tmp_path, "arrow")
    assert len(pickle.dumps(rows)) < rows.nbytes / 2
    batches = Prepared(rows, True, 16, 3, flip=True)
    mapped, held = batches.on(ALONE), Epochs(IMAGES, NUMBERS % 10, 16, 3, flip=True)
    for step in (0, 5, 6):
        one, other = mapped(step), held(step)
        assert torch.equal(one.images, other.images)
        assert one.labels is not None
        assert other.labels is not None
        assert torch.equal(one.labels, other.labels)


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    rows = shards(tmp_path, "arrow")
    assert checked(Prepared(rows, True, 96, 3), 0).rows is rows
    with pytest.raises(UserError, match=r"train\.batch: 112 came, but there are 97 records to train on: take fewer"):
        checked(Prepared(rows, True, 112, 3), 0)


def test_a_batch_that_the_workers_cannot_share_is_refused(tmp_path: Path) -> None:
    rows = shards(tmp_path, "arrow")
    with pytest.raises(UserError, match=r"^train\.batch: 48 came, a multiple of 32 was wanted .*: 32 or 64$"):
        checked(Prepared(rows, True, 48, 3), 2)


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_every_worker_reads_its_rows_of_a_batch(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapped, and as a stream; flips too."""
    monkeypatch.setattr(loader, "MAX_READ_BYTES", 1)
    prepared = Prepared(shards(tmp_path, suffix), True, 32, 3, flip=True)
    whole = prepared.on(ALONE)
    parts = [prepared.on(replace(ALONE, rank=rank, world=2)) for rank in range(2)]
    for step in (0, 1, 6):
        batches = [part(step) for part in parts]
        assert torch.equal(torch.cat([batch.images for batch in batches]), whole(step).images)
        all_labels = whole(step).labels
        assert all_labels is not None
        assert torch.equal(torch.cat([batch.labels for batch in batches if batch.labels is not None]), all_labels)


@pytest.fixture
def streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """Compressed, and larger than what is read into memory."""
    monkeypatch.setattr(loader, "MAX_READ_BYTES", 1)
    monkeypatch.setattr(loader, "WINDOW_SHARDS", 2)
    return Prepared(shards(tmp_path, "parquet"), True, 16, 3)


def numbers_of(stream: Iterator[torch.Tensor]) -> list[int]:
    known = {((image / 127.5).astype(np.float32) - 1).tobytes(): number for number, image in enumerate(IMAGES)}
    return [known[image.numpy().tobytes()] for batch in stream for image in batch]


def test_a_stream_yields_every_image_once_an_epoch_mixed_and_resumes_at_any_step(streamed: Prepared) -> None:
    stream = streamed.on(ALONE)
    assert isinstance(stream, Stream)
    batches = [stream(step) for step in range(20)]
    found = numbers_of(batch.images for batch in batches)
    for epoch in range(3):
        assert sorted(found[epoch * len(IMAGES) : (epoch + 1) * len(IMAGES)]) == NUMBERS.tolist()
    assert found[: len(IMAGES)] != found[len(IMAGES) : 2 * len(IMAGES)]
    assert np.abs(np.diff(found)).mean() > 10
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    assert labels.tolist() == [number % 10 for number in found]
    for step in (13, 5, 6):
        assert torch.equal(streamed.on(ALONE)(step).images, batches[step].images)


def left_in_store(folder: Path, uri: str) -> ShardedRows:
    """A prepared set whose pictures are in the store alone."""
    store = Store(uri, streams=True)
    with new_artifact(folder / "made", "prepare", "some", {}, {}) as draft:
        shards(draft.path, "arrow")
        draft.facts.update(shape=[3, 4, 4], rows={"train": list(SIZES)})
    store.put("ab" * 32, draft.artifact)
    fetched = store.fetch("ab" * 32, folder / "fetched")
    assert fetched is not None
    assert fetched == read_artifact(folder / "fetched")
    assert fetched.digest == draft.artifact.digest
    assert not list(fetched.path.glob("*.arrow"))
    return open_rows(fetched.path, "train")


def test_prepared_pictures_may_stay_in_the_store(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    shared, remote = (
        left_in_store(tmp_path / "a", f"{tmp_path}/store"),
        left_in_store(tmp_path / "b", f"file://{tmp_path}/b/s"),
    )
    assert shared.is_mapped
    assert not remote.is_mapped
    for rows in (shared, remote):
        np.testing.assert_array_equal(rows[NUMBERS[::-1]], IMAGES[::-1])
    (tmp_path / "b" / "s" / remote.shards[0].file).unlink()
    with pytest.raises(ArtifactError, match="no longer holds data/"):
        remote.read()


def test_statistics_are_the_same_bits_however_features_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.metrics.features.statistics.BLOCK", 64)
    features = np.random.default_rng(0).normal(3, 2, (500, 12)).astype(np.float32)
    found = []
    for step in (1, 7, 64, 500):
        gathered = Gathered()
        for start in range(0, len(features), step):
            gathered.add(features[start : start + step])
        found.append(gathered.stats())
    assert all(np.array_equal(found[0].scatter, other.scatter) and other.n == 500 for other in found)
    np.testing.assert_allclose(found[0].scatter, FeatureStats.of(features).scatter, rtol=1e-12)


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.metrics.features import statistics as feature_stats
from pipeline.metrics import image_evaluator
from pipeline.store.publish import new_artifact
from pipeline.metrics.evaluate import evaluator_of
from pipeline.data.shards import Pictures, encode_arrow
from pipeline.stages import features as stage
from tests.support.stages import run_stage_alone

feature_stats.BLOCK, image_evaluator.MAX_SVM_PIXELS = 1000, 0
stage.MAX_REFERENCE_ROWS, stage.MAX_TRAINING_VALUES = 1000, 1000 * 768
folder, shards = Path(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
with new_artifact(folder / "data", "prepare", "some", {}, {}) as draft:
    for split, count in (("train", shards), ("held_out", 1)):
        for shard in range(count):
            images = rng.integers(0, 256, (2000, 3, 16, 16)).astype(np.uint8)
            content = encode_arrow(Pictures(images, np.arange(2000) % 2, np.arange(2000)))
            (draft.path / f"{split}-{shard:05d}.arrow").write_bytes(content)
    draft.facts.update(shape=[3, 16, 16], classes=2)
path = draft.artifact.path
made = run_stage_alone("features", {"epochs": 1, "images": 500}, {"data": draft.artifact}, folder / "features")
judge = evaluator_of(path, made.path)
judge.measure(judge.held_out.take(slice(500)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_features_and_measures_take_no_more_memory_for_ten_times_as_many_pictures(tmp_path: Path) -> None:
    peaks = []
    for shards in (2, 20):  # 3 and 31 MB of pictures, four times as much as floats
        folder = tmp_path / str(shards)
        folder.mkdir()
        command = [sys.executable, "-c", MEASURE, str(folder), str(shards)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        peaks.append(int(result.stdout))
    assert peaks[1] < peaks[0] + 60, peaks  # mapped images count while they are read: 31 MB
