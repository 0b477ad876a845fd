"""The table of results in MLflow, as a real browser shows it."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.browser import DESKTOP, PHONE, Page, needs_browser, rendered, tracker_of
from tests.support.children import wait_for
from tests.support.toy_study import ToyStudy


@needs_browser
def test_the_address_of_the_ui_shows_one_row_for_each_evaluated_entry_sorted_by_quality(
    reproduced: ToyStudy, tmp_path: Path
) -> None:
    copy_row(reproduced.house / "mlflow.db", "evaluate toy")  # an earlier evaluation, which is no row
    opened, opener = tmp_path / "opened.txt", tmp_path / "opener"
    opener.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    opener.chmod(0o755)
    with tracker_of(reproduced, "--open", BROWSER=str(opener)) as (address, printed):
        found = re.search(rf"{address}/#/experiments/\d+/runs\S+", printed.read_text())
        assert found, printed.read_text()
        assert "workflowType=machine_learning" in found[0]
        assert wait_for(lambda: opened.is_file() and opened.read_text().strip(), 60)
        assert opened.read_text().strip() == found[0]
        pages = {size: Page(rendered(found[0], tmp_path / str(size[0]), size)[0]) for size in (DESKTOP, PHONE)}
    page = pages[DESKTOP]
    rows = [row for row in page.rows.values() if "tags.`method`" in row]
    assert sorted(row["tags.`method`"] for row in rows) == ["toy", "toy-cg-dg", "toy-dg"]
    assert {row["tags.`sampling seeds`"] for row in rows} == {"2"}
    for row in rows:
        content = json.loads((reproduced.out / "evaluate" / row["tags.`method`"] / "metrics.json").read_text())
        values = {metric["metric"]: metric["values"] for metric in reversed(content["metrics"])}
        for name in ("fd", "recall"):
            shown = row[f"metrics.`eval/{name} small-cnn`"].rstrip("…")
            assert abs(float(shown) - sum(values[name]) / 2) < 1e-4
        assert float(row["metrics.`eval/nfe`"]) == content["counts"]["nfe"]
    assert "one row for each method" in " ".join(page.words)
    for shown in pages.values():  # MLflow's own layout is not made for a phone; the mode is right there too
        assert {"Model training", "Runs"} <= set(shown.words)


def copy_row(file: Path, name: str) -> None:
    """Another finished run with the tags of the one with this name."""
    with closing(sqlite3.connect(file)) as database, database:
        (run,) = database.execute("SELECT run_uuid FROM runs WHERE name = ?", [name]).fetchone()
        columns = [column for _, column, *_ in database.execute("PRAGMA table_info(runs)") if column != "run_uuid"]
        names = ", ".join(columns)
        database.execute(
            f"INSERT INTO runs (run_uuid, {names}) SELECT ?, {names} FROM runs WHERE run_uuid = ?", ["0" * 32, run]
        )
        database.execute(
            "INSERT INTO tags (key, value, run_uuid) SELECT key, value, ? FROM tags WHERE run_uuid = ?", ["0" * 32, run]
        )
