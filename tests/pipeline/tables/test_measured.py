"""Tables measured beyond the study at hand: every row says who made it, and how to make it again."""

import csv
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config.study import load_study
from pipeline.errors import UserError
from pipeline.report.measured_section import measured_sections
from pipeline.tables.addresses import names_of
from pipeline.tables.measured import PROVENANCE, measured_files, origin_of
from pipeline.tables.replay import replay
from pipeline.tables.why import explain

ROOT = Path(__file__).parents[3]
CELL = "measured/mog25:siddm-4/network=mixture-fourier/n_modes=100/hq"


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("file", measured_files(ROOT), ids=lambda file: file.stem)
def test_every_row_that_is_kept_has_one_address_and_says_which_study_made_it(file: Path) -> None:
    rows = rows_of(file)
    assert len(names_of(rows)) == len(rows) > 0
    for origin in {origin_of(file, row) for row in rows}:
        assert (ROOT / origin.study / "params.yaml").is_file()
        assert len(origin.commit) == 40
        assert origin.machine


def test_a_cell_measured_elsewhere_says_what_is_known_of_it() -> None:
    told = explain(load_study(ROOT / "params.yaml"), CELL)
    assert told["ci_low"] < told["value"] < told["ci_high"]
    assert told["origin"]["again"] == "cd studies/mog25 && dvc repro stack-table@modes-100"
    assert told["card"].startswith("coordinates@")


def test_a_cell_measured_elsewhere_is_not_replayed_here_but_says_where() -> None:
    with pytest.raises(UserError, match=r"its own makes it again: cd studies/mog25 && dvc repro stack-table@modes-100"):
        replay(load_study(ROOT / "params.yaml"), [CELL], sample=0, seed=0)


def test_a_row_that_nobody_wrote_down_is_named_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "reports" / "measured"
    shutil.copytree(ROOT / "reports" / "measured", folder)
    lines = (folder / PROVENANCE).read_text().splitlines(keepends=True)
    (folder / PROVENANCE).write_text("".join(line for line in lines if "n_modes=100" not in line))
    text = "\n".join(measured_sections(tmp_path))
    for told in (text, capsys.readouterr().err):
        assert "mog25.csv: 0 lines of provenance.csv tell where ddgan-4/energy comes from: write one (14 rows)" in told
    assert CELL.replace("n_modes=100/hq", "n_modes=25/frechet_2d") in text


def test_the_report_shows_measured_rows_beside_what_was_printed() -> None:
    text = "\n".join(measured_sections(ROOT))
    assert re.search(r"`cd studies/mog25 && dvc repro stack-table@siddm-table-1` at [0-9a-f]{12} on ", text)
    table = pd.read_csv(ROOT / "reports" / "measured" / "mog25.csv")
    row = table[(table.network == "mixture-fourier") & (table.n_modes == 25)].query("metric == 'frechet_2d'").iloc[0]
    assert f"{row.method}-{row.steps}/network=mixture-fourier/n_modes=25/frechet_2d | {row.value:.4g} [" in text
