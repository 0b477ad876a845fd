"""One table of a paper, as printed, beside what this study measured: `dvc repro table@siddm-1`."""

import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from pipeline.config.study import Study
from pipeline.data.csv_files import write_csv
from pipeline.errors import UserError
from pipeline.tables.claims import ANALOGUES, SHOWN, judged, shown
from pipeline.tables.markdown import markdown_table
from pipeline.tables.measured import FOLDER as MEASURED
from pipeline.tables.stacks import write_stack_tables
from pipeline.tables.values import write_tables

ABOUT = """The measured values are small-scale analogues, on other data, networks and budgets: their orders may be
compared, their sizes may not. `trilemma why {name}:METHOD/CALLS/METRIC` says where one comes from."""


def write_paper_table(study: Study, name: str, folder: Path) -> None:
    """NAME.csv, NAME.md. Measured tables are made anew of what is in out/; what is not there was not run."""
    papers = study.root / "reports" / "papers"
    with TemporaryDirectory() as scratch:
        for analogue in pd.read_csv(papers / ANALOGUES).to_dict("records"):
            if _name(analogue["paper"], analogue["table"]) == name:
                _write_measured(study, analogue["file"], Path(scratch) / "tables")
        ledger = judged(Path(scratch), papers)
    names = [_name(paper, table) for paper, table in zip(ledger["paper"], ledger["table"])]
    if name not in names:
        raise UserError(f"no printed table {name!r}; there are {', '.join(dict.fromkeys(names))}")
    found = ledger.loc[[other == name for other in names]]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(found, folder / f"{name}.csv")
    paper, table = found.iloc[0][["paper", "table"]]
    parts = [f"# {paper}, {table}", ABOUT.format(name=name)]
    parts += [markdown_table(SHOWN, [shown(row) for row in found.to_dict("records")]), *_warnings(found["warnings"])]
    (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n")


def _name(paper: str, table: str) -> str:
    """SIDDM, Table 2 (as printed): siddm-2; DG (arXiv 2211.17091), CIFAR-10 main table: dg-cifar-10-main."""
    table = re.sub(r"[(\[].*|\btable\b", "", table, flags=re.IGNORECASE)
    return "-".join(re.findall(r"[a-z0-9]+", f"{paper.partition(' ')[0]} {table}".lower()))


def _write_measured(study: Study, file: str, folder: Path) -> None:
    table = Path(file).stem
    if file.startswith(f"{MEASURED}/") or (folder / f"{table}.csv").is_file():
        return
    if table in study.stacks:
        write_stack_tables(study, table, folder)
    if table in study.datasets:
        write_tables(study, table, folder)


def _warnings(found: Iterable[str]) -> list[str]:
    distinct = list(dict.fromkeys(warning for warning in found if warning))
    return ["\n".join(f"- {warning}" for warning in distinct)] if distinct else []
