"""What a task is given, on a machine that has only the store in common with the driver."""

import pickle
from pathlib import Path

import pytest

from pipeline.data.artifacts import read_artifact
from pipeline.launch.transfer import pickle_with_artifacts
from pipeline.store.store import Store
from tests.pipeline.store.test_store import KEY, make


def test_an_item_finds_its_artifacts_without_the_drivers_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    here, store = tmp_path / "edm", Store(str(tmp_path / "store"))
    digest = make(here).digest
    store.put(KEY, read_artifact(here))
    item = pickle_with_artifacts({"run": here, "other": tmp_path}, store.uri)
    assert pickle.loads(item) == {"run": here, "other": tmp_path}
    here.rename(tmp_path / "out of sight")
    there = pickle.loads(item)["run"]
    assert there != here
    assert read_artifact(there).digest == digest
    assert pickle.loads(pickle_with_artifacts(here, None)) == here
