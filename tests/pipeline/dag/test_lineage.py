"""The whole chain on toy data, by the commands people use."""

import json
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES, entries
from pipeline.dag.run import run_stage
from pipeline.data.artifacts import read_artifact
from pipeline.tables.values import COLUMNS
from tests.support.toy_study import ROOT, ToyStudy

METRICS = {
    "fd", "kid", "precision", "recall", "f1", "density", "coverage", "accuracy", "nn_distance", "nfe",
}  # fmt: skip


@pytest.fixture
def _handlers_restored() -> Iterator[None]:
    """A stage that runs in this process installs its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_every_entry_of_params_is_made_and_complete(reproduced: ToyStudy) -> None:
    named = entries(load_study(reproduced.folder / "params.yaml"))
    assert set(reproduced.digests()) == {f"{stage}/{name}" for stage, names in named.items() for name in names}
    computed = len(reproduced.digests()) - 1  # the fakes of two guides of one run are sampled once
    assert [status for _, status in reproduced.tracked()] == ["FINISHED"] * (computed + 1)  # report
    assert reproduced.left_behind() == []


def test_tables_have_a_row_per_value_with_its_card_interval_and_real_vs_real_value(reproduced: ToyStudy) -> None:
    table = pd.read_csv(reproduced.folder / "reports/tables/digits.csv", keep_default_na=False, na_values=[""])
    assert list(table.columns) == COLUMNS
    for guidance in ("none", "toy-dg", "toy-cg-dg"):
        rows = table[table.guidance == guidance]
        assert set(rows.run) == {"toy"}
        assert set(rows.metric) >= METRICS
        assert len(set(zip(rows.metric, rows.card))) == len(rows)
    measured = table[table.card != "counted"]
    assert not measured.drop(columns="warnings").isna().to_numpy().any()
    assert (measured.ci_low <= measured.value).all()
    assert (measured.value <= measured.ci_high).all()
    assert set(measured.n_generated) == {96}
    assert set(table.sample_seeds) == {2}
    assert set(table.nfe) == {5}  # 2 * 3 - 1, counted
    cost = pd.read_csv(reproduced.folder / "reports/tables/cost.csv")
    made = {stage for stage, names in entries(load_study(reproduced.folder / "params.yaml")).items() if names}
    assert set(cost.stage) == made
    painted = cost[cost.stage.isin(["generate", "sample"])]
    assert (painted.seconds_per_image > 0).all()
    assert cost[~cost.index.isin(painted.index)].seconds_per_image.isna().all()


def test_the_report_shows_what_it_names(reproduced: ToyStudy) -> None:
    page = (reproduced.folder / "reports/README.md").read_text()
    assert "toy-dg" in page
    assert "not an FID" in page
    assert "fewer than the 1000 of the usual subset" in page
    pictures = [part.partition(")")[0] for part in page.split("](figures/")[1:]]
    assert pictures
    for picture in pictures:
        assert (reproduced.folder / "reports/figures" / picture).stat().st_size > 0


def test_a_study_keeps_its_outs_and_its_lock_in_its_own_folder(reproduced: ToyStudy) -> None:
    assert {path.name for path in reproduced.folder.iterdir()} == {
        "params.yaml", "dvc.yaml", "dvc.lock", "out", "reports",
    }  # fmt: skip
    assert not (reproduced.house / "out").exists()
    assert not (reproduced.house / "dvc.lock").exists()


def test_runs_lists_states_and_metrics_as_json_and_nothing_else(reproduced: ToyStudy) -> None:
    listed = json.loads(reproduced.run("runs", "--json").stdout)
    assert [(entry["run"], entry["guidance"]) for entry in listed] == [
        ("toy", "none"),
        ("toy", "toy-dg"),
        ("toy", "toy-cg-dg"),
    ]
    for entry in listed:
        assert {stage["state"] for stage in entry["stages"]} == {"complete"}
        assert {metric["metric"] for metric in entry["metrics"]} >= METRICS
    assert "toy-dg" in reproduced.run("runs").stdout


def test_dvc_repro_runs_nothing_twice_and_the_store_gives_everything_back(reproduced: ToyStudy) -> None:
    again = reproduced.call("dvc", "repro").stdout
    assert "Running stage" not in again
    lock, digests = reproduced.lock(), reproduced.digests()
    (reproduced.folder / "dvc.lock").unlink()
    shutil.rmtree(reproduced.out)
    runs = reproduced.tracked()
    told = reproduced.call("dvc", "repro", "--no-run-cache")
    assert told.stderr.count("from the store") == len(digests)
    assert reproduced.digests() == digests
    assert [stage for stage, locked in reproduced.lock().items() if locked != lock[stage]] == []
    assert reproduced.tracked() == runs  # nothing was computed


def test_an_answer_from_the_store_costs_little(reproduced: ToyStudy) -> None:
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        reproduced.run("pretrain", "toy")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 1.5


@pytest.mark.usefixtures("_handlers_restored")
@pytest.mark.parametrize(("stage", "name"), [("generate", "dg-toy"), ("sample", "toy-dg")])
def test_pictures_are_the_same_for_any_piece_of_work(
    stage: str, name: str, reproduced: ToyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = reproduced.copied(tmp_path / "house", "pretrain", "discriminate")
    monkeypatch.chdir(copy.folder)
    monkeypatch.setattr("pipeline.dag.run.CODE", copy.house)  # as if it were this
    for piece in (64, 128, 256):
        monkeypatch.setenv("TRILEMMA_STORE", str(tmp_path / f"store-{piece}"))
        monkeypatch.setattr("pipeline.sampling.sampler.images_per_task", lambda images, workers, piece=piece: piece)
        run_stage(stage, name)
        assert copy.digest(stage, name) == reproduced.digest(stage, name)


def test_a_stage_without_workers_needs_no_ray_and_keeps_things_where_the_environment_says(
    reproduced: ToyStudy, tmp_path: Path
) -> None:
    copy = reproduced.copied(tmp_path / "house", "pretrain")
    before = {path.name for path in copy.house.iterdir()}
    told = copy.run(
        "generate",
        "dg-toy",
        before="import atexit, sys\natexit.register(lambda: print(sorted({'ray', 'dvc'} & set(sys.modules))))",
        TRILEMMA_STORE=str(tmp_path / "elsewhere" / "store"),
        MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/elsewhere/mlflow.db",
    )
    assert told.stdout == "[]\n"  # Ray is not imported without workers, DVC never
    assert {path.name for path in copy.house.iterdir()} == before
    assert copy.digest("generate", "dg-toy") == reproduced.digest("generate", "dg-toy")
    assert (tmp_path / "elsewhere" / "store" / "results").is_dir()
    assert (tmp_path / "elsewhere" / "mlartifacts").is_dir()


@pytest.mark.ray
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("pretrain", "toy"),
        pytest.param("discriminate", "dg-toy", marks=pytest.mark.slow),
        pytest.param("sample", "toy-dg", marks=pytest.mark.slow),
    ],
)
def test_one_ray_worker_gives_the_same_bits_as_none(
    stage: str, name: str, reproduced: ToyStudy, tmp_path: Path
) -> None:
    copy = reproduced.copied(tmp_path / "house", "prepare", "pretrain", "generate", "discriminate")
    before = reproduced.digest(stage, name)
    shutil.rmtree(copy.out / stage, ignore_errors=True)
    copy.run(stage, name, "--workers", "1")
    assert copy.digest(stage, name) == before
    assert [event["backend"] for event in copy.events() if event["event"] == "computed"] == ["ray-local"]
    assert [status for _, status in copy.tracked()] == ["FINISHED"]
    assert copy.left_behind() == []


def test_the_shipped_study_is_what_dvc_would_run() -> None:
    study = load_study(ROOT / "params.yaml")
    for stage, names in entries(study).items():
        for name in names:
            assert STAGES[stage].call(study, name).out == ROOT / "out" / stage / name


def test_an_artifact_says_nothing_of_when_and_where(reproduced: ToyStudy) -> None:
    for path in reproduced.out.glob("*/[!.]*/manifest.json"):
        text = path.read_text()
        assert str(reproduced.house) not in text
        assert "mlflow" not in text
        assert "seconds" not in text
        read_artifact(path.parent)
