"""One table of a paper, as printed, beside what this study measured: `dvc repro table@siddm-1`."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.config.study import Study
from pipeline.data.csv_files import csv_text, read_rows
from pipeline.errors import UserError
from pipeline.store.files import write_file
from pipeline.tables.claims import ANALOGUES, LINE_COLUMNS, ledger, line
from pipeline.tables.markdown import markdown_table
from pipeline.tables.stacks import write_stack_tables
from pipeline.tables.values import write_tables

ABOUT = """The measured values are small-scale analogues, on other data, networks and budgets: compare their orders, not
their sizes. `trilemma why {name}:METHOD/CALLS/METRIC` shows how one was computed."""


def write_paper_table(study: Study, name: str, folder: Path) -> None:
    """NAME.csv, NAME.md. Measured tables are made anew from out/; a result that is not there counts as not run."""
    papers = study.root / "reports" / "papers"
    with TemporaryDirectory() as scratch:
        files = [row["file"] for row in read_rows(papers / ANALOGUES) if _name(row["paper"], row["table"]) == name]
        for file in dict.fromkeys(files):
            table, tables = Path(file).stem, Path(scratch) / "tables"
            if file == f"tables/{table}.csv" and table in study.stacks:
                write_stack_tables(study, table, tables)
            if file == f"tables/{table}.csv" and table in study.datasets:
                write_tables(study, table, tables)
        claims = ledger(Path(scratch), papers)
    names = [_name(paper, table) for paper, table in zip(claims["paper"], claims["table"])]
    if name not in names:
        raise UserError(f"no printed table {name!r}; there are {', '.join(dict.fromkeys(names))}")
    own = claims.loc[[other == name for other in names]]
    write_file(folder / f"{name}.csv", csv_text(own))
    paper, table = own.iloc[0][["paper", "table"]]
    parts = [f"# {paper}, {table}", ABOUT.format(name=name)]
    parts.append(markdown_table(LINE_COLUMNS, [line(row) for row in own.to_dict("records")]))
    warnings = dict.fromkeys(warning for warning in own["warnings"] if warning)
    parts += ["\n".join(f"- {warning}" for warning in warnings)] * bool(warnings)
    write_file(folder / f"{name}.md", "\n\n".join(parts) + "\n")


def _name(paper: str, table: str) -> str:
    """SIDDM, Table 2 (as printed): siddm-2; DG (arXiv 2211.17091), CIFAR-10 main table: dg-cifar-10-main."""
    table = re.sub(r"[(\[].*|\btable\b", "", table, flags=re.IGNORECASE)
    return "-".join(re.findall(r"[a-z0-9]+", f"{paper.partition(' ')[0]} {table}".lower()))
