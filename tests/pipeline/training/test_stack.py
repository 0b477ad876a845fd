"""A small stack through its stages: trained as one, killed and resumed, evaluated; and errors."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from methods.core.loop import TrainState, train_steps
from methods.core.types import Batch
from pipeline.config.build import build_method
from pipeline.config.entries import DatasetEntry, LaunchEntry, StackEntry
from pipeline.config.study import Study
from pipeline.data.artifacts import Artifact
from pipeline.data.loader import Epochs
from pipeline.data.shards import read_pictures
from pipeline.errors import ConfigError, UserError
from pipeline.launch.signals import Stopped, on_sigterm
from pipeline.metrics.intervals import paired
from pipeline.report.stack_section import stack_sections, stack_values
from pipeline.stages.evaluate_stack import SAMPLES_FILE
from pipeline.stages.stack import SeededEpochs
from pipeline.tables.claims import ordering
from pipeline.tables.stacks import write_stack_tables
from pipeline.training.loop import RECORD_EVERY
from pipeline.training.networks import data_spec, load_networks
from tests.support.stages import RecordingWatch, run_stage_alone

MODEL = {"net": "mixture-fourier", "width": 16, "afd": "renoise", "c_target": None, "clean_weight": None, "ema": 0.9}
MODEL |= {"trained_times": "visited"}
MEMBERS = {
    "gan-1": {"steps": 1, "afd_weight": 0.0},
    "siddm-2": {"steps": 2, "r1_gamma": 0.1},
    "ddgan-2": {"steps": 2, "afd_weight": 0.0, "sees_pair": True},
}
TRAIN = {"steps": 30, "batch": 32, "seeds": 2, "first_seed": 1}
STACK = {"method": "siddm.SIDDM", "model": MODEL, "members": MEMBERS}


class KillingWatch(RecordingWatch):
    """Kills the training at a step."""

    def __init__(self, kill_at: int | None = None) -> None:
        super().__init__()
        self.kill_at = kill_at

    @contextmanager
    def opened(self) -> Iterator["KillingWatch"]:
        yield self

    def progress(self, done: int, total: int) -> None:
        if done == self.kill_at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def data(folder: Path) -> Artifact:
    config = {"source": "mog25", "options": {"per_mode": 40, "held_out": 300}}
    return run_stage_alone("prepare", config, {}, folder / "data")


@pytest.fixture(scope="module")
def stack(folder: Path, data: Artifact) -> Artifact:
    return run_stage_alone("stack", STACK | {"train": TRAIN}, {"data": data}, folder / "stack", KillingWatch())


def test_every_member_is_trained_with_every_seed_as_a_run_would_be(data: Artifact, stack: Artifact) -> None:
    spec = data_spec(data.manifest.facts)
    points = read_pictures(data.path, "train").images
    for name, seed in (("siddm-2", 2), ("ddgan-2", 1)):
        method = build_method("siddm.SIDDM", MODEL | MEMBERS[name])
        state = TrainState.fresh(method, spec, seed)
        for _ in train_steps(method, state, Epochs(points, None, 32, seed), seed=seed, batch=32, steps=30):
            pass
        nets = load_networks(stack.path / name / str(seed), method, spec, torch.device("cpu"))
        for net, wanted in state.weights(method.players()).items():
            torch.testing.assert_close(dict(nets[net].named_parameters()), wanted, rtol=1e-4, atol=1e-4)
    assert stack.manifest.seeds == {"train": [1, 2]}


@pytest.mark.parametrize("kill_at", [20, 50])  # in the first group of one structure, in the second
def test_a_killed_stack_goes_on_to_the_same_bits(
    kill_at: int, data: Artifact, stack: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.loop.CHECKPOINT_SECONDS", 0.0)
    config = STACK | {"train": TRAIN}
    with pytest.raises(KeyboardInterrupt):
        run_stage_alone("stack", config, {"data": data}, tmp_path / "stack", KillingWatch(kill_at))
    resumed = run_stage_alone("stack", config, {"data": data}, tmp_path / "stack", KillingWatch())
    assert resumed.manifest.files == stack.manifest.files


def test_a_stack_that_receives_sigterm_saves_its_current_step(
    data: Artifact, stack: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_of, begun = SeededEpochs.__call__, list[int]()

    def recording(epochs: SeededEpochs, seed: int, step: int) -> Batch:
        begun.append(step)
        if len(begun) == 33:
            signal.raise_signal(signal.SIGTERM)
        return batch_of(epochs, seed, step)

    monkeypatch.setattr(SeededEpochs, "__call__", recording)
    before = signal.getsignal(signal.SIGTERM)
    on_sigterm()
    try:
        with pytest.raises(Stopped):
            run_stage_alone("stack", STACK | {"train": TRAIN}, {"data": data}, tmp_path / "stack", KillingWatch())
    finally:
        signal.signal(signal.SIGTERM, before)
    step, count = begun[-1], len(begun)
    resumed = run_stage_alone("stack", STACK | {"train": TRAIN}, {"data": data}, tmp_path / "stack", KillingWatch())
    assert (step + 1) % RECORD_EVERY
    assert begun[count] == step + 1
    assert resumed.manifest.files == stack.manifest.files


@pytest.fixture(scope="module")
def evaluated(folder: Path, data: Artifact, stack: Artifact) -> Artifact:
    features = run_stage_alone("features", {"images": 200}, {"data": data}, folder / "features")
    config = STACK | {"sample": {}, "images": 200, "sample_seeds": 2}
    inputs = {"prepare": data, "features": features, "stack": stack}
    return run_stage_alone("evaluate-stack", config, inputs, folder / "out" / "evaluate-stack" / "toy")


def test_every_member_is_sampled_and_measured_like_the_others(evaluated: Artifact) -> None:
    content: dict[str, Any] = json.loads((evaluated.path / "metrics.json").read_text())
    assert list(content) == list(MEMBERS)
    assert [[of_seed["counts"]["nfe"] for of_seed in content[name]] for name in MEMBERS] == [[1, 1], [2, 2], [2, 2]]
    for of_seed in (each for by_seed in content.values() for each in by_seed):
        values = {row["metric"]: row["values"] for row in of_seed["metrics"]}
        assert {"hq", "modes", "mode_kl", "frechet_2d"} <= set(values)
        assert all(len(of_metric) == 2 for of_metric in values.values())
    assert np.load(evaluated.path / SAMPLES_FILE).shape == (3, 200, 2)


def test_the_printed_table_stands_beside_the_measured_one(evaluated: Artifact, folder: Path) -> None:
    papers = folder / "reports" / "papers"
    papers.mkdir(parents=True)
    (papers / "toy.csv").write_text("method,steps,metric,value,source\ngan,1,frechet_2d,9,x\nsiddm,2,frechet_2d,1,x\n")
    entry = StackEntry("mog25", "siddm.SIDDM", MODEL, MEMBERS, TRAIN, {})
    nothing = {field.name: {} for field in fields(Study)}
    for name in ("methods", "pipeline"):
        (folder / name).symlink_to(Path(__file__).parents[3] / name)
    given = {
        "root": folder,
        "file": folder / "params.yaml",
        "out": folder / "out",
        "launch": LaunchEntry(),
        "datasets": {"mog25": DatasetEntry("mog25")},
    }
    study = Study(**cast(Any, nothing | given | {"stacks": {"toy": entry}}))
    with pytest.raises(UserError, match=r"toy\.csv: does not exist: make it with dvc repro first"):
        stack_values(study, "toy")
    write_stack_tables(study, "toy", folder / "reports" / "tables")
    table = pd.read_csv(folder / "reports" / "tables" / "toy.csv")
    assert table[["method", "steps"]].drop_duplicates().to_numpy().tolist() == [["gan", 1], ["siddm", 2], ["ddgan", 2]]
    printed = table.dropna(subset="paper_value")
    assert printed[["method", "metric", "paper_value"]].to_numpy().tolist() == [
        ["gan", "frechet_2d", 9], ["siddm", "frechet_2d", 1]
    ]  # fmt: skip
    assert set(table["train_seeds"]) == set(table["sample_seeds"]) == {2}
    orderings = pd.read_csv(folder / "reports" / "tables" / "toy-orderings.csv")
    assert set(orderings["ordering"]) <= {"confirmed", "contradicted", "not resolvable"}
    figures = folder / "reports" / "figures"
    figures.mkdir()
    text = "\n".join(stack_sections(study, stack_values(study, "toy"), figures))
    assert "| siddm | 2 |" in text
    assert (figures / "toy.png").is_file()


@pytest.mark.parametrize(
    ("a", "b", "printed", "wanted"),
    [
        ([1.0, 1.1, 1.2], [2.0, 2.2, 2.1], (0.1, 0.9), "confirmed"),
        ([1.0, 1.1, 1.2], [2.0, 2.2, 2.1], (0.9, 0.1), "contradicted"),
        ([1.0, 2.1, 1.5], [2.0, 1.2, 1.6], (0.1, 0.9), "not resolvable"),
        ([1.0], [2.0], (0.1, 0.9), "not resolvable"),
    ],
)
def test_an_ordering_is_what_the_interval_says(
    a: list[float], b: list[float], printed: tuple[float, float], wanted: str
) -> None:
    assert ordering(paired(a, b, "lower").verdict, printed) == wanted


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"members": {"a": {"afd_wait": 1.0}}}, r"members.a: siddm.SIDDM: model: unknown key 'afd_wait' \(did you"),
        ({"members": {"a": {"afd_weight": -1.0}}}, "members.a: .*afd_weight: -1.0 does not fit"),
        ({"members": {}}, "members: none came, at least one was wanted"),
        ({"method": "edm.EDM", "model": {}, "members": {"a": {}}}, "edm.EDM cannot be stacked"),
        ({"train": TRAIN | {"seeds": 0}}, "seeds: 0 does not fit"),
        ({"train": TRAIN | {"precision": "int8"}}, "precision: 'int8' does not fit"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(
    settings: dict[str, Any], complaint: str, data: Artifact, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, ValueError), match=complaint) as raised:
        run_stage_alone("stack", STACK | {"train": TRAIN} | settings, {"data": data}, tmp_path / "stack")
    assert "\n" not in str(raised.value)
