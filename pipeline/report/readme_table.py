"""The first table of the project's README: the measured values, written between two marks."""

from collections.abc import Iterable

from pipeline.config.study import Study
from pipeline.report.values_section import DatasetValues, features, value_table
from pipeline.store.files import write_file

START, END = "<!-- results -->", "<!-- end of results -->"
METRICS = (
    "fid", "fd", "precision", "recall", "accuracy", "hq", "modes", "mode_kl", "energy", "frechet_2d", "nfe",
)  # fmt: skip


def refresh_readme(study: Study, datasets: Iterable[DatasetValues]) -> None:
    """Only the project's own study does this; a README without the marks is left as it is."""
    readme = study.folder / "README.md"
    if study.folder != study.root or not readme.is_file():
        return
    before, start, rest = readme.read_text().partition(START)
    _, end, after = rest.partition(END)
    if end:
        tables = "\n\n".join(map(_table, datasets))
        write_file(readme, f"{before}{start}\n{tables}\n{end}{after}")


def _table(values: DatasetValues) -> str:
    rows = values.rows.loc[values.rows["metric"].isin(METRICS) & ~values.rows["card"].str.startswith("pixels")]
    counts = "/".join(f"{n:.0f}" for n in rows["n_generated"].dropna().unique())
    about = f"{values.dataset}: mean ± 95 % interval; {counts} samples per sampling seed; first row: real against real."
    return f"{value_table(values._replace(rows=rows))}\n\n*{about} {features(rows)}*"
