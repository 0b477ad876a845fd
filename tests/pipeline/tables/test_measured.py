"""Committed results of other studies: every row has its origin and the command that computes it again."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from methods.core.rng import SCHEME
from pipeline.config.study import load_study
from pipeline.data.csv_files import read_rows
from pipeline.errors import UserError
from pipeline.report.measured_section import measured_sections
from pipeline.tables.addresses import names_of
from pipeline.tables.measured import LAST_COMMITS, PROVENANCE, measured_files, origin_of
from pipeline.tables.replay import replay
from pipeline.tables.why import explain

ROOT = Path(__file__).parents[3]
CELL = "measured/mog25:siddm-4/network=mixture-fourier/n_modes=100/hq"


@pytest.mark.parametrize("file", measured_files(ROOT), ids=lambda file: file.stem)
def test_every_committed_row_has_one_address_and_one_origin(file: Path) -> None:
    rows = read_rows(file)
    assert len(names_of(rows)) == len(rows) > 0
    for origin in {origin_of(file, row) for row in rows}:
        assert (ROOT / origin.study / "params.yaml").is_file()
        assert len(origin.commit) == 40
        assert origin.machine
        assert int(origin.draws) in {*LAST_COMMITS, SCHEME}


def test_why_shows_the_origin_of_another_study_s_cell() -> None:
    explained = explain(load_study(ROOT / "params.yaml"), CELL)
    assert explained["ci_low"] < explained["value"] < explained["ci_high"]
    assert explained["origin"]["again"] == "cd studies/mog25 && dvc repro stack-table@modes-100"
    assert explained["card"].startswith("coordinates@")


def test_another_study_s_cell_is_not_replayed_here_and_the_error_names_its_command() -> None:
    again = "its own makes it again: cd studies/mog25 && dvc repro stack-table@modes-100; the present code draws other"
    with pytest.raises(UserError, match=rf"{again} random numbers, .* git checkout [0-9a-f]{{12}}$"):
        replay(load_study(ROOT / "params.yaml"), [CELL], sample=0, seed=0)


def test_rows_without_an_origin_are_named_on_stderr_and_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "reports" / "measured"
    shutil.copytree(ROOT / "reports" / "measured", folder)
    lines = (folder / PROVENANCE).read_text().splitlines(keepends=True)
    (folder / PROVENANCE).write_text("".join(line for line in lines if "n_modes=100" not in line))
    text = "\n".join(measured_sections(tmp_path))
    for output in (text, capsys.readouterr().err):
        assert "mog25.csv: 0 lines of provenance.csv give the origin of ddgan-4/energy: write one (14 rows)" in output
    assert CELL.replace("n_modes=100/hq", "n_modes=25/frechet_2d") in text


def test_the_report_shows_measured_rows_beside_what_was_printed() -> None:
    text = "\n".join(measured_sections(ROOT))
    assert re.search(r"`cd studies/mog25 && dvc repro stack-table@siddm-table-1` at [0-9a-f]{12} on ", text)
    table = pd.read_csv(ROOT / "reports" / "measured" / "mog25.csv")
    row = table[(table.network == "mixture-fourier") & (table.n_modes == 25)].query("metric == 'frechet_2d'").iloc[0]
    assert f"{row.method}-{row.steps}/network=mixture-fourier/n_modes=25/frechet_2d | {row.value:.4g} [" in text
