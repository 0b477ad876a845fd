"""The table of a translation: distance to the input and fd over noise levels, guided and not."""

from pathlib import Path

import pandas as pd

from pipeline.config.study import Study
from pipeline.data.artifacts import read_artifact
from pipeline.data.csv_files import csv_text
from pipeline.metrics.intervals import interval
from pipeline.stages.translate import ROWS
from pipeline.store.files import write_file
from pipeline.tables.cells import TRANSLATION_FILE

AXES = {"distance": "squared distance to the input", "fd": "fd"}


def write_translation_table(study: Study, name: str, folder: Path) -> Path:
    """table.csv: by entry (guided, and its run) and noise level; means over sets of noise with 95 % intervals."""
    rows = pd.read_parquet(read_artifact(study.out / "translate" / name).path / ROWS)
    guided = study.translations[name].guided
    lines = []
    for start, is_guided in rows[["start", "is_guided"]].drop_duplicates().itertuples(index=False):
        sets = rows.loc[(rows["start"] == start) & (rows["is_guided"] == is_guided)]
        entry = guided if is_guided else study.guided[guided].run
        for metric in AXES:
            value, low, high, n = interval(sets[metric].to_numpy())
            lines.append([entry, start, metric, value, low, high, n])
    columns = ["entry", "start", "metric", "value", "ci_low", "ci_high", "sets"]
    write_file(folder / TRANSLATION_FILE, csv_text(pd.DataFrame(lines, columns=columns)))
    return folder / TRANSLATION_FILE
