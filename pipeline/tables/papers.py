"""One table of a paper, as printed, beside what this study measured: `dvc repro table@siddm-1`."""

import re
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory

from pipeline.config.study import Study
from pipeline.data.artifacts import MANIFEST
from pipeline.data.csv_files import csv_text
from pipeline.errors import UserError
from pipeline.store.files import write_file
from pipeline.tables.aggregate import entries_on
from pipeline.tables.analogues import read_analogues
from pipeline.tables.claims import LINE_COLUMNS, ledger, line, scales
from pipeline.tables.markdown import markdown_table
from pipeline.tables.stacks import write_stack_tables
from pipeline.tables.values import write_tables

ABOUT = "{scales} `trilemma why {name}:METHOD/CALLS/METRIC` shows how a value was computed."


def write_paper_table(study: Study, name: str, folder: Path) -> None:
    """NAME.csv, NAME.md. Measured tables are made anew from out/; a result that is not there counts as not run.

    Tables of sweeps are those in the study's reports/.
    """
    lines = read_analogues(study.analogues)
    with TemporaryDirectory() as scratch:
        for file in dict.fromkeys(line["file"] for line in lines if _name(line["paper"], line["table"]) == name):
            if file.startswith("tables/"):
                _write_measured(study, Path(file), Path(scratch) / file)
        claims = ledger(Path(scratch), study.root / "reports" / "papers", study.analogues)
    names = [_name(paper, table) for paper, table in zip(claims["paper"], claims["table"])]
    if name not in names:
        raise UserError(f"no printed table {name!r}; there are {', '.join(dict.fromkeys(names))}")
    own = claims.loc[[other == name for other in names]]
    write_file(folder / f"{name}.csv", csv_text(own))
    paper, table = own.iloc[0][["paper", "table"]]
    parts = [f"# {paper}, {table}", ABOUT.format(name=name, scales=scales(own))]
    parts.append(markdown_table(LINE_COLUMNS, [line(row) for row in own.to_dict("records")]))
    warnings = dict.fromkeys(warning for warning in own["warnings"] if warning)
    parts += ["\n".join(f"- {warning}" for warning in warnings)] * bool(warnings)
    write_file(folder / f"{name}.md", "\n\n".join(parts) + "\n")


def _write_measured(study: Study, file: Path, place: Path) -> None:
    """The table `file` of the study's reports, from the results that there are."""
    name, evaluated = file.stem, study.out / "evaluate"
    if name in study.stacks:
        if (study.out / "evaluate-stack" / name / MANIFEST).is_file():
            write_stack_tables(study, name, place.parent)
    elif name in study.datasets:
        entries = [entry for entry in entries_on(study, name) if (evaluated / entry / MANIFEST).is_file()]
        if entries:
            write_tables(study, name, place.parent, entries)
    elif (study.folder / "reports" / file).is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        copy(study.folder / "reports" / file, place)


def _name(paper: str, table: str) -> str:
    """SIDDM, Table 2 (as printed): siddm-2; DG (arXiv 2211.17091), CIFAR-10 main table: dg-cifar-10-main."""
    table = re.sub(r"[(\[].*|\btable\b", "", table, flags=re.IGNORECASE)
    return "-".join(re.findall(r"[a-z0-9]+", f"{paper.partition(' ')[0]} {table}".lower()))
