"""The ledger of claims: every printed value once, and a verdict that its measured counterpart allows."""

import csv
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.tables.claims import ANALOGUES, KEY, PRINTED_FILES, RECALLED, SAME, ledger, write_ledger

ROOT = Path(__file__).parents[3]
PAPERS = "papers"
HEADER = [*KEY, "file", "row", "scale", "note"]


def reports(
    tmp_path: Path, cells: dict[str, tuple[float, float, float]], seeds: int = 3, scale: str = "analogue"
) -> Path:
    """Papers that print a 1, b 2 and c 3; measured cells (value, low, high) by method."""
    papers = tmp_path / PAPERS
    papers.mkdir()
    keys = [["P", "Table 1", "D", "no", method, "4", "FID"] for method in "abc"]
    write(papers / PRINTED_FILES[0], [*KEY, "value", "mark", "source"], [
        [*key, str(value), RECALLED if key[4] == "c" else "as printed", "paper"] for value, key in enumerate(keys, 1)
    ])  # fmt: skip
    write(papers / PRINTED_FILES[1], [*KEY, "value", "mark", "source"], [])
    write(papers / ANALOGUES, HEADER, [["P", "*", "", "", "", "", "", "tables/t.csv", "run={method}", scale, ""]])
    (tmp_path / "tables").mkdir()
    write(
        tmp_path / "tables" / "t.csv",
        ["run", "guidance", "metric", "value", "ci_low", "ci_high", "train_seeds", "sample_seeds", "card"],
        [[run, "none", "fd", *map(str, cell), str(seeds), "5", "card n=1"] for run, cell in cells.items()],
    )
    return tmp_path


def write(file: Path, header: list[str], rows: list[list[str]]) -> None:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def verdicts(folder: Path) -> dict[str, str]:
    claims = write_ledger(folder, folder / PAPERS)
    return dict(zip(claims["method"], claims["verdict"]))


def test_every_printed_key_is_in_the_ledger_once(tmp_path: Path) -> None:
    """Joined, not counted."""
    for name in (PAPERS, "tables", "measured"):
        (tmp_path / name).symlink_to(ROOT / "reports" / name)
    claims = write_ledger(tmp_path, tmp_path / PAPERS)
    printed = [row for name in PRINTED_FILES for row in csv.DictReader((ROOT / "reports" / PAPERS / name).open())]
    assert [tuple(row) for row in claims[list(KEY)].itertuples(index=False)] == [
        tuple(row[name] for name in KEY) for row in printed
    ]
    assert len(printed) == len({tuple(row[name] for name in KEY) for row in printed})
    assert not {"", None} & {*claims["verdict"].tolist()}


def test_three_seeds_measured_beyond_the_study_answer_a_claim() -> None:
    claims = ledger(ROOT / "reports", ROOT / "reports" / PAPERS)
    table = claims.loc[(claims["paper"] == "SIDDM") & (claims["table"] == "Table 1")]
    assert all(table["cell"].str.startswith("measured/mog25:"))
    assert set(table["train_seeds"]) == {3}
    assert table["why"].str.contains("training seed").sum() == 0


def test_orders_that_the_intervals_resolve_are_confirmed_or_contradicted(tmp_path: Path) -> None:
    folder = reports(tmp_path, {"a": (0.1, 0.0, 0.2), "b": (0.5, 0.4, 0.6), "c": (0.3, 0.25, 0.35)})
    assert verdicts(folder) == {"a": "order confirmed", "b": "contradicted", "c": "contradicted"}


def test_overlapping_intervals_resolve_nothing(tmp_path: Path) -> None:
    folder = reports(tmp_path, dict.fromkeys("abc", (0.1, 0.0, 0.2)))
    assert set(verdicts(folder).values()) == {"not resolvable"}


def test_fewer_than_three_training_seeds_give_verdicts_on_checkpoints_only(tmp_path: Path) -> None:
    folder = reports(tmp_path, {"a": (0.1, 0.0, 0.2), "b": (0.5, 0.4, 0.6), "c": (0.9, 0.8, 1.0)}, seeds=1)
    assert set(verdicts(folder).values()) == {"not resolvable"}


def test_only_the_same_experiment_can_match_and_a_recalled_value_never_does(tmp_path: Path) -> None:
    cells = {"a": (1.0, 0.9, 1.1), "b": (2.0, 1.9, 2.1), "c": (3.0, 2.9, 3.1)}
    assert verdicts(reports(tmp_path, cells, scale=SAME)) == {"a": "match", "b": "match", "c": "order confirmed"}


def test_a_claim_without_a_measured_row_names_what_it_needs(tmp_path: Path) -> None:
    claims = write_ledger(reports(tmp_path, {"a": (0.1, 0.0, 0.2)}), tmp_path / PAPERS)
    assert claims["verdict"].tolist() == ["not resolvable", "not run", "not run"]
    assert claims["why"].tolist()[1] == "needs a row tables/t.csv:run=b"


def test_an_analogue_of_nothing_printed_is_refused(tmp_path: Path) -> None:
    folder = reports(tmp_path, {})
    write(folder / PAPERS / ANALOGUES, HEADER, [["Q", *[""] * 6, "tables/t.csv", "run=a", "", ""]])
    with pytest.raises(UserError, match=r"no printed value of Q / \* / "):
        write_ledger(folder, folder / PAPERS)
