"""One setting changes: what rests on it is computed again, and nothing else."""

import pandas as pd
import pytest

from pipeline.config.study import load_study
from pipeline.dag.graph import chain, entries
from pipeline.dag.resolve import identities
from tests.support.toy_study import PARAMS, ROOT, ToyStudy


def test_a_runs_setting_changes_the_keys_of_its_own_chain_alone() -> None:
    study = load_study(ROOT / "studies" / "digits" / "params.yaml")
    calls = [(stage, name) for stage, names in entries(study).items() for name in names]

    def identity() -> dict[tuple[str, str], str]:
        chains = {of: chain(study, *of) for of in calls}
        return {of: identities(study, links)[links[-1].out] for of, links in chains.items()}

    before = identity()
    study.runs["edm-digits"].train["steps"] += 1
    after = identity()
    rests_on_it = {of for of in calls if ("pretrain", "edm-digits") in [(c.stage, c.name) for c in chain(study, *of)]}
    assert {of for of in calls if before[of] != after[of]} == rests_on_it
    trained = [of for of in rests_on_it if of[0] in ("pretrain", "classify", "stack")]
    assert trained == [("pretrain", "edm-digits")]
    assert {("evaluate", "edm-digits"), ("evaluate", "edm-digits-dg")} < rests_on_it
    assert not rests_on_it & {("evaluate", name) for name in ("edm-mlp-digits", "siddm-digits", "adm-digits-cg")}


@pytest.mark.slow
def test_dvc_repro_after_it_computes_that_chain_and_writes_the_report(
    reproduced: ToyStudy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    toy = reproduced.with_store(tmp_path_factory.mktemp("changed") / "house")
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    (toy.folder / "dvc.lock").write_bytes((reproduced.folder / "dvc.lock").read_bytes())
    was = "{body: mlp, width: 16, depth: 1}\n    train: {steps: 240"
    (toy.folder / "params.yaml").write_text(PARAMS.replace(was, was.replace("240", "230")))
    table = toy.folder / "reports" / "tables" / "digits.csv"
    before = pd.read_csv(table, keep_default_na=False)
    told = toy.call("dvc", "repro")
    computed = {line.partition(": computed")[0] for line in told.stderr.splitlines() if ": computed" in line}
    assert computed == {"discriminate dg-toy", "sample toy-dg", "evaluate toy-dg", "translate blocky"}
    assert len(toy.tracked()) == len(computed) + 1  # the report's
    after = pd.read_csv(table, keep_default_na=False)
    others = before["guidance"] != "toy-dg"
    assert after[others].equals(before[others])
    assert not after[~others].equals(before[~others])
    assert "Running stage 'report'" in told.stdout
