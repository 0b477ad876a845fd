"""The first stage of a study: unsafe names reach no shell and no folder; data outside the study are compared."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline.config.study import load_study
from pipeline.dag.check import check_study
from pipeline.errors import ConfigError, UserError
from pipeline.store.publish import new_artifact

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
VICTIM = "../../../victim"
UNSAFE = [
    VICTIM, "..", ".", "../x", "/etc/passwd", "a/b", "a\\b", "~", "~root", ".hidden", "-rf", "--help", "_x",
    "x; touch pwned", "x && touch pwned", "x | touch pwned", "x & touch pwned", "x\ntouch pwned", "x > pwned",
    "$(touch pwned)", "`touch pwned`", "${HOME}", "$HOME", "x'; touch pwned; '", '"; touch pwned; "', "x #", "*", "?",
    "{a,b}", "!x", "=1+1", "+1", "@x", "a b", " a", "a ", "größe", "数字", "a<b", "a\tb", "a\x00b", "\x1b[31mred", "",
    "x" * 101, 10, 1.5, True, None,
]  # fmt: skip
SAFE = ["a", "edm-digits", "cifar10_2", "x" * 100, "7", "A", "true"]
RUN: dict[str, Any] = {"dataset": "digits", "method": "edm.EDM", "model": {}, "train": {}, "sample": {}}
STACK = {"dataset": "digits", "method": "siddm.SIDDM", "model": {}, "train": {}, "sample": {}}


def study(**sections: Any) -> dict[str, Any]:
    return {"root": str(ROOT), "datasets": {"digits": {"source": "digits"}}, **sections}


def with_name(name: Any) -> Iterator[dict[str, Any]]:
    """Studies that have it in each place of a name."""
    yield study(datasets={name: {"source": "digits"}})
    yield study(runs={name: RUN})
    yield study(runs={"one": RUN}, guided={name: {"run": "one", "guides": [], "sample": {}}})
    yield study(stacks={name: STACK | {"members": {}}})
    yield study(stacks={"one": STACK | {"members": {name: {}}}})
    yield study(sweeps={name: {"table": "x", "field": "y"}})
    yield study(sweeps={"one": {"table": name, "field": "y"}})


def write(params: Any, folder: Path) -> Path:
    file = folder / "params.yaml"
    with file.open("w") as stream:
        YAML(typ="safe", pure=True).dump(params, stream)
    return file


@pytest.mark.parametrize("name", UNSAFE, ids=repr)
def test_an_unsafe_name_is_refused_in_one_line_wherever_it_stands(name: Any, tmp_path: Path) -> None:
    for params in with_name(name):
        file = write(params, tmp_path)
        with pytest.raises(ConfigError, match="the name") as raised:
            load_study(file)
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 300
        with pytest.raises(ConfigError):
            check_study(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("name", SAFE)
def test_a_safe_name_is_taken(name: str, tmp_path: Path) -> None:
    for params in with_name(name):
        load_study(write(params, tmp_path))


def test_a_dot_is_for_members_and_tables_alone(tmp_path: Path) -> None:
    *sections, member, _, table = with_name("v1.5")
    load_study(write(member, tmp_path))
    load_study(write(table, tmp_path))
    for params in sections[:4]:
        with pytest.raises(ConfigError, match=r"the name 'v1\.5' has a dot"):
            load_study(write(params, tmp_path))


def test_no_artifact_is_published_under_an_unsafe_name(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    out = tmp_path / "study" / "out" / "pretrain"
    out.mkdir(parents=True)
    for path in (out / VICTIM, out / ".." / "x", out / "a b", out / "=1"):
        with pytest.raises(ConfigError, match="an artifact's folder: the name"), new_artifact(path, "", "", {}, {}):
            pass
    assert (victim / "kept").exists()


@pytest.mark.parametrize("link", ["out", "out/pretrain", "out/check", "out/check/outside", "out/check/datasets/digits"])
def test_nothing_is_written_or_removed_behind_a_link(link: str, tmp_path: Path) -> None:
    place, victim = tmp_path / "study", tmp_path / "victim"
    (place / link).parent.mkdir(parents=True)
    for folder in (victim, victim / "check"):
        folder.mkdir()
        (folder / "kept").touch()
    (place / link).symlink_to(victim)
    write(study(), place)
    with pytest.raises(UserError, match=f"{link} is a link"):
        check_study(place)
    assert sorted(path.name for path in victim.rglob("*")) == ["check", "kept", "kept"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `study` with DVC and the stages of every study; beside it, one that nothing may touch."""
    place = tmp_path / "study"
    place.mkdir()
    shutil.copy(ROOT / "dvc.yaml", place)
    dvc(place, "init", "--no-scm", "--quiet")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "kept").touch()
    return place


def dvc(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    environment |= {"DVC_SITE_CACHE_DIR": str(folder / ".site"), "PYTHONPATH": str(ROOT)}
    return subprocess.run([BIN / "dvc", *command], cwd=folder, env=environment, capture_output=True, text=True)


def test_dvc_runs_no_stage_of_a_study_with_unsafe_names(folder: Path) -> None:
    runs = {name: RUN for name in UNSAFE if "pwned" in str(name)}  # DVC itself refuses the others
    write(study(runs=runs, sweeps={"one": {"table": VICTIM, "field": "y"}}), folder)
    done = dvc(folder, "repro")
    assert done.returncode != 0
    assert "failed to reproduce 'check'" in done.stderr
    assert "params.yaml: runs: the name" in done.stderr
    assert not [path for path in folder.parent.rglob("*") if "pwned" in path.name]
    assert [path.name for path in (folder.parent / "victim").iterdir()] == ["kept"]


def test_a_study_may_leave_out_what_has_a_default(folder: Path) -> None:
    write(study(runs={"one": RUN}), folder)
    assert "trilemma evaluate 'one'" in dvc(folder, "repro", "--dry", "--force").stdout
    with Repo(str(folder)) as repo:
        watched = {name for stage in repo.stage.collect() for dep in stage.deps for name in getattr(dep, "params", ())}
    assert watched == {"datasets.digits.source", *(f"runs.one.{block}" for block in RUN if block != "dataset")}


def test_dvc_notices_changes_outside_the_study(folder: Path) -> None:
    pictures, checkpoint = folder.parent / "pictures", folder.parent / "network.pkl"
    (pictures / "cats").mkdir(parents=True)
    (pictures / "cats" / "0.png").write_bytes(b"0")
    checkpoint.write_bytes(b"1")
    imported = RUN | {"train": {"imported": str(checkpoint), "format": "edm"}}
    datasets = {"digits": {"source": "image_folder", "options": {"path": str(pictures)}}}
    write(study(datasets=datasets, runs={"one": imported, "two": RUN}), folder)
    stages = ("prepare@digits", "pretrain@one", "pretrain@two")
    for path in ("prepare/digits", "pretrain/one", "pretrain/two", "check"):
        (folder / "out" / path).mkdir(parents=True)
    check_study(folder)
    assert dvc(folder, "commit", "--force", *stages).returncode == 0
    before = dvc(folder, "status", *stages).stdout
    (pictures / "cats" / "1.png").write_bytes(b"1")
    checkpoint.write_bytes(b"2")
    after = dvc(folder, "status", *stages).stdout
    for stage in ("prepare/digits", "pretrain/one"):
        assert f"modified:           out/check/outside/{stage}" not in before
        assert f"modified:           out/check/outside/{stage}" in after
    assert "outside/pretrain/two" not in after
    write(study(), folder)
    check_study(folder)  # the links of entries that are gone are removed, what they pointed to stays
    assert [path.name for path in (folder / "out" / "check" / "outside").glob("*/*")] == ["digits"]
    assert (pictures / "cats" / "1.png").exists()
    assert checkpoint.exists()
