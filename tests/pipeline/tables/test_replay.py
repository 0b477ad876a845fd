"""`trilemma replay`: all stages of a chain again, compared with the table at a tolerance that is fixed before."""

import json
from pathlib import Path

import pytest

from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import PRESENT, Link
from pipeline.data.artifacts import Manifest
from pipeline.errors import UserError
from pipeline.tables.replay import replay
from tests.support.toy_study import ROOT, ToyStudy

SWEEP = "sweeps: {dg-weight: {of: toy-dg, table: dg-weight, values: [0, 1, 4], seeds: 2}}\n"


def test_a_replayed_number_is_the_same_to_the_bit_and_a_wrong_one_in_a_table_is_found(
    reproduced: ToyStudy, tmp_path: Path
) -> None:
    toy = reproduced.with_store(tmp_path / "house")
    file = toy.folder / "reports" / "tables" / "digits.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    wrong = next(row for row in rows if row[:3] == ["toy", "none", "recall"])
    wrong[3] = str(float(wrong[3]) + 1e-5)
    file.write_text("\n".join(",".join(row) for row in rows) + "\n")
    before = toy.events(), sorted(toy.house.rglob("*"))
    told = toy.run("replay", "digits:toy/fd", "digits:toy/recall", "--json", code=1, PYTHONDONTWRITEBYTECODE="1")
    found = json.loads(told.stdout)
    assert (found["agree"], found["of"]) == (1, 2)
    assert [cell["agrees"] for cell in found["cells"]] == [True, False]
    for cell in found["cells"]:
        assert cell["same_bits"]
        assert cell["tolerance"] == 0
        assert cell["then"] == cell["now"]
        assert {"cpu", "python", "torch"} <= set(cell["now"][0])
    assert "first digits:toy/recall" in told.stderr
    assert told.stderr.count("pretrain toy: computed") == 1
    assert (toy.events(), sorted(toy.house.rglob("*"))) == before


def test_a_result_whose_random_numbers_are_no_longer_drawn_is_not_replayed_and_the_error_names_the_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = load_study(ROOT / "params.yaml")
    first = Manifest("pretrain", "edm-0", {}, {}, {"steps": 1}, {}, {})  # of a version that noted no scheme
    link = Link(STAGES["pretrain"].call(study, "edm-0"), first, None, PRESENT, None, {})
    monkeypatch.setattr("pipeline.tables.replay._links", lambda results: [link])
    with pytest.raises(UserError, match=r"pretrain edm-0 cannot be replayed: .* git checkout [0-9a-f]{12}$"):
        replay(study, ["glyphs:edm-0/fd"], sample=0, seed=0)


def test_replay_without_a_cell_raises_an_error(reproduced: ToyStudy) -> None:
    assert "no cell was given: name cells" in reproduced.run("replay", code=2).stderr
    assert "this study's tables have" in reproduced.run("replay", "--sample", "9999", code=2).stderr
    assert "did you mean digits:toy/fd" in reproduced.run("replay", "digits:toy/fdd", code=2).stderr


@pytest.mark.slow
def test_random_cells_of_sweeps_and_differences_and_pages_are_replayed(
    reproduced: ToyStudy, swept: ToyStudy, tmp_path: Path
) -> None:
    paged = ("translations/blocky:toy/start=5/fd",)
    for number, (study, sweeps, also) in enumerate(((reproduced, "", paged), (swept, SWEEP, ()))):
        toy = study.with_store(tmp_path / str(number))
        with (toy.folder / "params.yaml").open("a") as params:
            params.write(sweeps)
        found = json.loads(toy.run("replay", *also, "--sample", "8", "--json").stdout)
        assert found["agree"] == found["of"] == 8 + len(also)
        assert all(cell["same_bits"] for cell in found["cells"])
