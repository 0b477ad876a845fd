"""Training seeds make a method, sampling seeds a checkpoint; what is compared shares both."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.config.study import Study, load_study
from pipeline.dag.graph import chain
from pipeline.data.artifacts import read_artifact
from pipeline.errors import UserError
from pipeline.metrics.card import METRICS_FILE, Card
from pipeline.metrics.intervals import interval
from pipeline.store.open import open_store
from pipeline.store.publish import new_artifact
from pipeline.tables.aggregate import differences, entries_on, gather, repetitions, summarise
from pipeline.tables.values import write_tables

ROOT = Path(__file__).parents[3]
CARD = Card("fd", "small-cnn", "a" * 64, "penultimate", "scaled", 500, 500, "held_out", "b" * 64)
SETS = ("samples-0", "samples-1", "samples-2")


def run(**train: Any) -> dict[str, Any]:
    return {"dataset": "digits", "method": "edm.EDM", "model": {}, "train": train, "sample": {"steps": 5}}


def guide(of: str, seed: int) -> dict[str, Any]:
    return {"run": of, "method": "discriminator_guidance.Discriminator", "model": {}, "train": {"seed": seed}}


def guided(of: str, by: str, weight: float = 1.0) -> dict[str, Any]:
    return {"run": of, "guides": [{"guide": by, "weight": weight}], "sample": {}}


PARAMS: dict[str, Any] = {
    "root": str(ROOT),
    "datasets": {"digits": {"source": "digits"}},
    "runs": {
        "x": run(steps=9), "longer": run(steps=10), "x-s1": run(steps=9, seed=1), "x-s2": run(steps=9, seed=2),
        "again": run(steps=9),
    },
    "guides": {f"dg{seed}": guide(name, seed) for seed, name in enumerate(("x", "x-s1", "x-s2"))},
    "guided": {
        "x-dg": guided("x", "dg0"), "x-s1-dg": guided("x-s1", "dg1"), "x-s2-dg": guided("x-s2", "dg2"),
        "x-dg-more": guided("x", "dg0", weight=2.0),
    },
}  # fmt: skip
EFFECT = -0.5  # of guidance, on every training seed
NETWORKS = {"x": 3.0, "x-s1": 4.0, "x-s2": 5.0}  # training seeds differ a lot,
DRAWS = (0.0, 0.1, 0.2)  # sampling seeds less


def write(study: Study, name: str, values: list[float], card: Card = CARD, sets: tuple[str, ...] = SETS) -> None:
    described = asdict(card) | {"id": card.id, "text": str(card)}
    metric = {
        "metric": card.metric,
        "card": described,
        "values": values,
        "real_vs_real": 0.1,
        "warnings": [f"of {name}"],
    }
    content = {"sets": sets, "counts": {"nfe": 9.0, "guide_calls": 0.0}, "metrics": [metric]}
    with new_artifact(study.folder / "out" / "evaluate" / name, "evaluate", name, {}, {}) as draft:
        (draft.path / METRICS_FILE).write_text(json.dumps(content))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(PARAMS, stream)
    found = load_study(tmp_path / "params.yaml")
    for name in [*found.runs, *found.guided]:
        level = NETWORKS.get(name.replace("-dg", ""), 3.0) + (EFFECT if name in found.guided else 0)
        write(found, name, [level + draw for draw in DRAWS])
    return found


def test_entries_that_differ_in_the_training_seed_alone_are_one_method(study: Study) -> None:
    arms = gather(study, entries_on(study, "digits"))
    found = {arm.name: [repetition.entry for repetition in arm.repetitions] for arm in arms}
    assert found == {
        "x": ["x", "x-s1", "x-s2"],
        "x-dg": ["x-dg", "x-s1-dg", "x-s2-dg"],
        "x-dg-more": ["x-dg-more"],
        "longer": ["longer"],
        "again": ["again"],  # the seed of x: no repetition of it
    }
    assert repetitions(study, "x-s1-dg") == ["x-dg", "x-s1-dg", "x-s2-dg"]
    assert repetitions(study, "longer") == ["longer"]


def test_classifiers_are_told_apart_by_their_settings_as_guides_and_as_trunks(tmp_path: Path) -> None:
    knowing = {"dataset": "digits", "method": "classifier_guidance.Classifier", "model": {}, "train": {}}
    params = PARAMS | {"classifiers": {"cg": knowing, "cg-s1": knowing | {"train": {"seed": 1}}}}
    params["classifiers"]["deep"] = knowing | {"model": {"depth": 3}}
    on_trunks = {f"on-{name}": guide(of, 0) | {"trunk": name} for name, of in (("cg", "x"), ("cg-s1", "x-s1"))}
    params["guides"] = {"on-deep": guide("x-s1", 0) | {"trunk": "deep"}} | on_trunks
    params["guided"] = {
        "x-cg": guided("x", "cg"), "x-s1-cg": guided("x-s1", "cg-s1"), "x-s1-deep": guided("x-s1", "deep"),
        "x-on": guided("x", "on-cg"), "x-s1-on": guided("x-s1", "on-cg-s1"), "x-s1-on-deep": guided("x-s1", "on-deep"),
    }  # fmt: skip
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(params, file)
    found = load_study(tmp_path / "params.yaml")
    assert repetitions(found, "x-cg") == ["x-cg", "x-s1-cg"]
    assert repetitions(found, "x-on") == ["x-on", "x-s1-on"]
    assert repetitions(found, "x-s1-on-deep") == ["x-s1-on-deep"]


def test_the_interval_is_over_training_seeds_and_sampling_is_told_apart(study: Study) -> None:
    (arm,) = gather(study, repetitions(study, "x"))
    found = summarise(arm, CARD.id)
    assert found[:3] == pytest.approx(interval([3.1, 4.1, 5.1])[:3])
    assert found.sampling_spread == pytest.approx(np.std(DRAWS, ddof=1))
    assert (found.train_seeds, found.sample_seeds) == (3, 3)


def test_with_one_training_seed_the_interval_is_over_sampling_seeds(study: Study) -> None:
    (arm,) = gather(study, ["x"])
    found = summarise(arm, CARD.id)
    assert found[:3] == pytest.approx(interval([3.0, 3.1, 3.2])[:3])
    assert found.train_seeds == 1


def test_one_set_of_samples_has_no_spread(study: Study) -> None:
    write(study, "x", [3.0], sets=SETS[:1])
    found = summarise(gather(study, ["x"])[0], CARD.id)
    assert found.sampling_spread is None
    assert np.isnan(found.ci_low)


def test_what_networks_share_cancels_in_a_difference(study: Study) -> None:
    """Training seeds lie a whole unit apart, yet half a unit between guided and not is seen."""
    plain, with_guide = gather(study, ["x", "x-s1", "x-s2", "x-dg", "x-s1-dg", "x-s2-dg"])
    (found,) = differences(with_guide, plain)
    assert found.difference == pytest.approx(EFFECT)
    assert found.verdict == "better"
    assert found.scope == "for the method, 3 training seeds"
    assert (found.value_a, found.value_b) == pytest.approx((3.6, 4.1))


def test_one_training_seed_speaks_of_its_checkpoint_and_two_of_two(study: Study) -> None:
    (one,) = differences(*gather(study, ["x-dg", "x"]))
    assert (one.scope, one.train_seeds, one.sample_seeds) == ("for this checkpoint", 1, 3)
    plain, with_guide = gather(study, ["x", "x-s1", "x-dg", "x-s1-dg"])
    (two,) = differences(with_guide, plain)
    assert two.scope == "for these 2 checkpoints"


def test_a_result_of_another_code_version_is_named_and_never_averaged_with_others(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRILEMMA_STORE", str(study.folder / "store"))
    for name in ("x", "x-s1", "x-s2"):
        for call in chain(study, "evaluate", name):
            if not call.out.exists():
                with new_artifact(call.out, call.stage, call.name, {"of": name}, {}):
                    pass
            key = call.key(study.root, {role: read_artifact(path).digest for role, path in call.made.items()})
            outdated = (call.stage, call.name) == ("pretrain", "x-s1")
            open_store(study).put("0" * 64 if outdated else key, read_artifact(call.out))
    arms = gather(study, ["x", "x-s1", "x-s2"])
    warnings = {tuple(found.entry for found in arm.repetitions): arm.warnings for arm in arms}
    named = "of another version of code, settings or inputs: pretrain x-s1"
    assert warnings == {("x", "x-s2"): set(), ("x-s1",): {named}}
    write_tables(study, "digits", study.folder, ["x", "x-s1", "x-s2"])
    rows = pd.read_csv(study.folder / "digits.csv", keep_default_na=False).set_index(["run", "metric"])
    assert rows.loc[("x", "fd"), "train_seeds"] == 2
    assert rows.loc[("x-s1", "fd"), "warnings"] == f"{named}; of x-s1"
    assert capsys.readouterr().err == f"digits: x-s1 is {named}\n"


def test_only_shared_seeds_are_compared(study: Study) -> None:
    write(study, "x-s1-dg", [9.0, 3.6, 3.7], sets=("samples-7", *SETS[1:]))
    plain, with_guide = gather(study, ["x", "x-s1", "x-s2", "x-s1-dg"])
    (found,) = differences(with_guide, plain)
    assert (found.train_seeds, found.sample_seeds) == (1, 2)
    assert found.difference == pytest.approx(EFFECT)


def test_what_cannot_be_compared_is_one_line(study: Study) -> None:
    plain, other = gather(study, ["x", "x-s1-dg"])
    with pytest.raises(UserError, match=r"seeds \[1\], x with \[0\]"):
        next(differences(other, plain))
    write(study, "x-dg", [1.0, 1.0, 1.0], card=replace(CARD, n_generated=400))
    with pytest.raises(UserError, match="n=400/500 is not how x was measured"):
        next(differences(*gather(study, ["x-dg", "x"])))
    with pytest.raises(UserError, match="measured differently"):
        gather(study, ["x-s1-dg", "x-dg"])
    write(study, "x-dg", [1.0], sets=("samples-9",))
    with pytest.raises(UserError, match="share no set"):
        next(differences(*gather(study, ["x-dg", "x"])))


def test_tables_have_a_row_per_method_with_seeds_spread_and_warnings(study: Study, tmp_path: Path) -> None:
    write_tables(study, "digits", tmp_path / "tables")
    table = pd.read_csv(tmp_path / "tables" / "digits.csv", keep_default_na=False, na_values=[""])
    row = table[(table.run == "x") & (table.guidance == "none") & (table.metric == "fd")].iloc[0]
    assert (row.train_seeds, row.sample_seeds, row.value) == (3, 3, pytest.approx(4.1))
    assert row.sampling_spread == pytest.approx(0.1)
    assert row.warnings.startswith("of unknown version")  # nothing but the values is there
    assert row.warnings.endswith("; of x; of x-s1; of x-s2")
    assert set(table.run) == {"x", "longer", "again"}
    compared = pd.read_csv(tmp_path / "tables" / "digits-guidance.csv").set_index("guidance")
    assert compared.loc["x-dg", "scope"] == "for the method, 3 training seeds"
    assert compared.loc["x-dg-more", "scope"] == "for this checkpoint"
