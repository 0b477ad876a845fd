"""What DVC watches and what a stage reads are the same; what does not concern a result does not change its key."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES, Call, entries
from pipeline.dag.run import run_stage
from tests.support.toy_study import PARAMS as TOY

ROOT = Path(__file__).parents[3]
STUDY = ROOT / "studies" / "digits"  # has entries of nearly every kind
CHECKED = re.compile(r"out/check/(.*)\.json")  # a block, written by the stage `check`
PARAMS: dict[str, Any] = YAML(typ="safe", pure=True).load((STUDY / "params.yaml").read_text())
BLOCKS = [
    (kind, name, block)
    for kind in ("datasets", "runs", "classifiers", "guides", "guided", "translations")
    for name, entry in PARAMS[kind].items()
    for block in entry
]


def calls(params: dict[str, Any], folder: Path) -> dict[str, Call]:
    file = folder / "params.yaml"
    with file.open("w") as stream:
        YAML().dump(params | {"root": str(ROOT)}, stream)
    study = load_study(file)
    return {
        f"{stage}@{name}": STAGES[stage].call(study, name) for stage, names in entries(study).items() for name in names
    }


@pytest.fixture(scope="module")
def watched() -> dict[str, list[str]]:
    """Stage -> parameters that DVC watches for it."""
    with Repo(str(ROOT)) as repo:
        return {
            re.sub("-(derived|guided|autoguided)@", "@", stage.addressing.rpartition(":")[2]): [
                *(name for dep in stage.deps if isinstance(dep, ParamsDependency) for name in dep.params),
                *(block[1].replace("/", ".") for dep in stage.deps if (block := CHECKED.fullmatch(dep.def_path))),
            ]
            for stage in repo.stage.collect(str(STUDY / "dvc.yaml"))
        }


def changed(value: Any) -> Iterator[Any]:
    """Other values of the same kind, that still make a valid study."""
    match value:
        case int():
            yield value + 64
        case dict() if value:
            for key, inner in value.items():
                yield from (value | {key: other} for other in changed(inner))
        case dict():
            yield {"another": 1}
        case [dict() as first, *rest]:
            yield [first | {"another": 1}, *rest]
        case list():
            yield [*value, 7]


@pytest.mark.parametrize(("kind", "name", "block"), BLOCKS, ids=lambda part: part)
def test_dvc_watches_every_block_that_a_stage_reads(
    kind: str, name: str, block: str, watched: dict[str, list[str]], tmp_path: Path
) -> None:
    before = calls(PARAMS, tmp_path)
    for other in changed(PARAMS[kind][name][block]):
        params = copy.deepcopy(PARAMS)
        params[kind][name][block] = other
        after = calls(params, tmp_path)
        for stage, call in before.items():
            if after[stage].config != call.config:
                path = f"{kind}.{name}.{block}."
                assert any(path.startswith(f"{parameter}.") for parameter in watched[stage]), (stage, path)


def test_every_stage_and_entry_has_its_dvc_stage(watched: dict[str, list[str]], tmp_path: Path) -> None:
    assert set(calls(PARAMS, tmp_path)) <= set(watched)


def test_fakes_are_generated_for_guides_alone(watched: dict[str, list[str]], tmp_path: Path) -> None:
    wanted = {f"generate@{guide}" for guide in PARAMS["guides"]}
    for names in (calls(PARAMS, tmp_path), watched):
        assert {name for name in names if name.startswith("generate@")} == wanted


def test_sampling_does_not_concern_training(tmp_path: Path) -> None:
    params = copy.deepcopy(PARAMS)
    run = next(iter(params["runs"]))
    params["runs"][run]["sample"] = {"steps": 5}
    before, after = calls(PARAMS, tmp_path), calls(params, tmp_path)
    assert before[f"pretrain@{run}"].config == after[f"pretrain@{run}"].config
    assert before[f"sample@{run}"].config != after[f"sample@{run}"].config


def test_fakes_and_evaluated_pictures_never_share_a_seed() -> None:
    from pipeline.stages.generate import FIRST_SEED
    from pipeline.stages.sample import SEEDS_BETWEEN_SETS

    for dataset in load_study(STUDY / "params.yaml").datasets.values():
        assert dataset.evaluate.images <= SEEDS_BETWEEN_SETS
        assert dataset.evaluate.sample_seeds * SEEDS_BETWEEN_SETS < FIRST_SEED


def test_an_imported_guide_needs_no_fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = YAML(typ="safe", pure=True).load(TOY) | {"root": str(ROOT)}
    params["guides"]["dg-toy"]["train"] = {"imported": "weights.pt", "format": "edm"}
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(params, file)
    assert entries(load_study(tmp_path / "params.yaml"))["generate"] == ["dg-trunk"]
    monkeypatch.chdir(tmp_path)
    run_stage("generate", "dg-toy")
    assert [file.name for file in (tmp_path / "out" / "generate" / "dg-toy").iterdir()] == ["README"]
