"""What every stage of a study cost when it was last computed, from the ledger."""

from datetime import datetime
from typing import Any

import pandas as pd

from pipeline.config.study import Study
from pipeline.dag.graph import STAGES, entries
from pipeline.dag.lineage import chain_links
from pipeline.errors import ArtifactError
from pipeline.store.open import open_store
from pipeline.tables.markdown import markdown_table

COLUMNS = [
    "stage", "name", "event", "nfe", "guide_calls", "backend", "workers", "device", "seconds", "seconds_per_image",
    "cpu_seconds", "peak_memory_mib", "resumed", "time", "torch", "commit", "key",
]  # fmt: skip
SHOWN = [
    "stage", "name", "nfe", "guide_calls", "backend", "seconds", "seconds_per_image", "cpu_seconds", "peak_memory_mib",
    "event",
]  # fmt: skip
CALLS = ("nfe", "guide_calls")  # network calls per image


def cost_table(study: Study) -> pd.DataFrame:
    """One row per stage and entry."""
    store = open_store(study)
    rows: list[dict[str, Any]] = []
    for stage, name in [(stage, name) for stage, names in entries(study).items() for name in names]:
        row: dict[str, Any] = {"event": "missing"}
        call = STAGES[stage].call(study, name)
        try:
            link = chain_links(study, call, store=store)[-1]
            row |= {name: link.manifest.facts[name] for name in CALLS if name in link.manifest.facts}
            row |= link.ledger or {"event": "of a version that this store does not know"}
            row["key"] = (link.key or "")[:12]
        except ArtifactError:
            pass
        rows.append(row | {"stage": stage, "name": name})  # the ledger has those of the first entry with this key
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def cost_page(cost: pd.DataFrame) -> str:
    rows = [
        [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in cost[SHOWN].to_numpy(object)
    ]
    table = markdown_table(SHOWN, [["" if cell == "nan" else cell for cell in row] for row in rows])
    return f"# What it cost\n\n{spent(cost)}\n\nEvery stage when it was last computed.\n\n{table}\n"


def spent(cost: pd.DataFrame) -> str:
    """What all stages took together, in words."""
    known = cost.dropna(subset=["seconds"])
    cpu = f"{known['cpu_seconds'].sum():,.0f} CPU seconds"
    without = known["cpu_seconds"].isna().tolist().count(True)
    unknown = f" (without {without} on Ray, whose CPU time is not measured)" if without else ""
    return f"{busy_minutes(known):.0f} minutes and {cpu}{unknown} for {len(known)} of {len(cost)} stages."


def busy_minutes(cost: pd.DataFrame) -> float:
    """Wall time in which at least one stage ran; cost: rows with `seconds` and `time`, when a stage ended."""
    ends = [datetime.fromisoformat(time).timestamp() for time in cost["time"].tolist()]
    busy, until = 0.0, 0.0
    for start, end in sorted((end - seconds, end) for end, seconds in zip(ends, cost["seconds"].tolist())):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 60
