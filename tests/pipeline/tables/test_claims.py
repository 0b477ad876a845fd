"""The ledger of claims: every printed value once, and a verdict that its measured counterpart allows."""

import csv
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.tables.analogues import ANALOGUES, COLUMNS, KEY, SAME, SMALL
from pipeline.tables.claims import PRINTED_FILES, RECALLED, claims_section, ledger, write_ledger

ROOT = Path(__file__).parents[3]
PAPERS = "papers"
Cells = dict[str, tuple[float, float, float]]


def reports(tmp_path: Path, cells: Cells, seeds: int = 3, scale: str = SMALL, by_seed: dict[str, str] | None = None):
    """Papers that print a 1, b 2 and c 3, ...; measured cells (value, low, high) by method."""
    papers = tmp_path / PAPERS
    papers.mkdir()
    methods = sorted({*"abc", *cells})
    keys = [["P", "Table 1", "D", "no", method, "4", "FID"] for method in methods]
    write(papers / PRINTED_FILES[0], [*KEY, "value", "mark", "source"], [
        [*key, str(value), RECALLED if key[4] == "c" else "as printed", "paper"] for value, key in enumerate(keys, 1)
    ])  # fmt: skip
    write(papers / PRINTED_FILES[1], [*KEY, "value", "mark", "source"], [])
    write(papers / ANALOGUES, [*COLUMNS], [["P", *[""] * 6, "tables/t.csv", "run={method}", "", scale, ""]])
    (tmp_path / "tables").mkdir()
    write(
        tmp_path / "tables" / "t.csv",
        ["run", "guidance", "metric", "value", "ci_low", "ci_high", "train_seeds", "sample_seeds", "card", "by_seed"],
        [
            [run, "none", "fid", *map(str, cell), str(seeds), "5", "card n=1", (by_seed or {}).get(run, "")]
            for run, cell in cells.items()
        ],
    )
    return tmp_path


def write(file: Path, header: list[str], rows: list[list[str]]) -> None:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def claims_of(folder: Path):
    return write_ledger(folder, folder / PAPERS, folder / PAPERS / ANALOGUES)


def verdicts(folder: Path) -> dict[str, str]:
    claims = claims_of(folder)
    return dict(zip(claims["method"], claims["verdict"]))


def narrow(*values: float) -> Cells:
    return {name: (value, value - 0.01, value + 0.01) for name, value in zip("abcdefghijk", values)}


def test_every_printed_key_is_in_the_ledger_once(tmp_path: Path) -> None:
    """Joined, not counted."""
    for name in (PAPERS, "tables", "measured"):
        (tmp_path / name).symlink_to(ROOT / "reports" / name)
    claims = claims_of(tmp_path)
    printed = [row for name in PRINTED_FILES for row in csv.DictReader((ROOT / "reports" / PAPERS / name).open())]
    assert [tuple(row) for row in claims[list(KEY)].itertuples(index=False)] == [
        tuple(row[name] for name in KEY) for row in printed
    ]
    assert len(printed) == len({tuple(row[name] for name in KEY) for row in printed})
    assert not {"", None} & {*claims["verdict"].tolist()}


def test_three_seeds_measured_beyond_the_study_answer_a_claim() -> None:
    papers = ROOT / "reports" / PAPERS
    claims = ledger(ROOT / "reports", papers, papers / ANALOGUES)
    table = claims.loc[(claims["paper"] == "SIDDM") & (claims["table"] == "Table 1")]
    assert all(table["cell"].str.startswith("measured/mog25:"))
    assert set(table["train_seeds"]) == {3}
    assert table["why"].str.contains("training seed").sum() == 0


def test_orders_that_are_resolved_are_confirmed_or_contradicted_and_counted(tmp_path: Path) -> None:
    claims = claims_of(reports(tmp_path, narrow(0.1, 0.5, 0.3))).set_index("method")
    assert claims["verdict"].to_dict() == {"a": "order confirmed", "b": "not resolvable", "c": "not resolvable"}
    counted = claims[["orders_agree", "orders_resolved", "orders_tested"]].to_numpy().tolist()
    assert counted == [[2, 2, 2], [1, 2, 2], [1, 2, 2]]
    assert claims.loc["b", "why"] == "1 of 2 resolved orders agree, 2 tested (Holm)"
    assert "order confirmed (2 of 2 resolved orders agree, 2 tested)" in claims_section(claims.reset_index())


def test_more_orders_against_than_for_contradict(tmp_path: Path) -> None:
    assert verdicts(reports(tmp_path, narrow(0.5, 0.3, 0.1))) == dict.fromkeys("abc", "contradicted")


def test_one_bad_order_of_ten_is_not_contradicted(tmp_path: Path) -> None:
    values = [0.1 * n for n in range(11)]
    values[:2] = values[1::-1]
    found = verdicts(reports(tmp_path, narrow(*values)))
    assert found == dict.fromkeys("ab", "order mostly confirmed") | dict.fromkeys("cdefghijk", "order confirmed")


def test_a_single_bad_order_contradicts_only_where_no_other_was_tested(tmp_path: Path) -> None:
    cells = narrow(0.5, 0.1)
    assert verdicts(reports(tmp_path, cells))["a"] == "contradicted"
    (tmp_path / "more").mkdir()
    assert verdicts(reports(tmp_path / "more", cells | {"c": (0.5, -9.0, 10.0)}))["a"] == "not resolvable"


def test_what_one_comparison_resolves_holm_does_not_among_many(tmp_path: Path) -> None:
    cells = {"a": (0.0, -0.1, 0.1), "b": (0.15, 0.05, 0.25)}
    assert verdicts(reports(tmp_path, cells))["a"] == "order confirmed"
    (tmp_path / "more").mkdir()
    crowd = dict.fromkeys("cdefghijk", (0.05, -0.05, 0.15))
    assert verdicts(reports(tmp_path / "more", cells | crowd))["a"] == "not resolvable"


def test_shared_training_seeds_are_compared_pair_by_pair(tmp_path: Path) -> None:
    """Wide intervals, one difference for every seed."""
    cells = {"a": (2.0, -0.5, 4.5), "b": (2.1, -0.4, 4.6)}
    assert verdicts(reports(tmp_path, cells))["a"] == "not resolvable"
    (tmp_path / "paired").mkdir()
    by_seed = {"a": "0=1 1=2 2=3", "b": "0=1.1 1=2.101 2=3.099"}
    assert verdicts(reports(tmp_path / "paired", cells, by_seed=by_seed))["a"] == "order confirmed"


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
    claims = claims_of(reports(tmp_path, {"a": (0.1, 0.0, 0.2)}))
    assert claims["verdict"].tolist() == ["not resolvable", "not run", "not run"]
    assert claims["why"].tolist()[1] == "needs a row tables/t.csv:run=b"


def test_a_study_without_analogues_answers_nothing(tmp_path: Path) -> None:
    folder = reports(tmp_path, narrow(1, 2, 3))
    assert set(ledger(folder, folder / PAPERS, folder / ANALOGUES)["verdict"]) == {"not run"}


DELTAS = [
    ["P", "Table 1", "D", "no", "plain (baseline)", "", "FID", "15", "as printed", "paper"],
    ["P", "Table 1", "D", "no", "deep (delta)", "", "FID", "-1", "as printed", "paper"],
    ["P", "Table 1", "D", "no", "wide (delta)", "", "FID", "0.5", "as printed", "paper"],
]


def with_deltas(tmp_path: Path) -> Path:
    folder = reports(tmp_path, {"plain": (2.0, 1.99, 2.01), "deep": (1.5, 1.49, 1.51), "wide": (1.8, 1.79, 1.81)})
    write(folder / PAPERS / PRINTED_FILES[0], [*KEY, "value", "mark", "source"], DELTAS)
    lines = [
        ["P", *[""] * 3, f"{run} *", "", "", "tables/t.csv", f"run={run}", baseline, SMALL, ""]
        for run, baseline in (("plain", ""), ("deep", "run=plain"), ("wide", "run=plain"))
    ]
    write(folder / PAPERS / ANALOGUES, [*COLUMNS], lines)
    return folder


def test_a_printed_difference_is_compared_with_a_measured_one_and_their_baseline_is_a_row(tmp_path: Path) -> None:
    claims = claims_of(with_deltas(tmp_path)).set_index("method")
    assert claims["measured"].tolist() == pytest.approx([2.0, -0.5, -0.2])
    assert claims["ci_low"].tolist()[1] < -0.5 < claims["ci_high"].tolist()[1] < -0.45
    assert claims["baseline"].tolist() == ["", "t:plain/fid", "t:plain/fid"]
    agreeing = claims[["orders_agree", "orders_resolved"]].to_numpy().tolist()
    assert agreeing == [[1, 2], [2, 2], [1, 2]]  # wide is better than plain here, and worse in print


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("baseline", "", "baseline` must name a row where a difference was printed"),
        ("row", "run=other", "fd, which is another quantity: fid was wanted"),
    ],
)
def test_another_quantity_than_the_printed_one_is_refused(
    column: str, value: str, message: str, tmp_path: Path
) -> None:
    folder = with_deltas(tmp_path)
    with (folder / "tables" / "t.csv").open("a") as table:
        table.write("other,none,fd,1,1,1,3,5,card,\n")
    line = dict(zip(COLUMNS, ["P", *[""] * 3, "deep *", "", "", "tables/t.csv", "run=deep", "run=plain", SAME, ""]))
    write(folder / PAPERS / ANALOGUES, [*COLUMNS], [list((line | {column: value}).values())])
    with pytest.raises(UserError, match=message):
        claims_of(folder)


def test_an_analogue_of_nothing_printed_is_refused(tmp_path: Path) -> None:
    folder = reports(tmp_path, {})
    write(folder / PAPERS / ANALOGUES, [*COLUMNS], [["Q", *[""] * 6, "tables/t.csv", "run=a", "", "", ""]])
    with pytest.raises(UserError, match=r"no printed value of Q / \* / "):
        claims_of(folder)
    write(folder / PAPERS / ANALOGUES, [*KEY], [["P", *[""] * 6]])
    with pytest.raises(UserError, match=r"columns are paper, .*: write paper, "):
        claims_of(folder)
