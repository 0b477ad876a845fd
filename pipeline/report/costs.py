"""What every stage of a study cost when it was last computed, from the ledger."""

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
    without = int(known["cpu_seconds"].isna().sum())
    unknown = f" (without {without} stages on Ray, whose CPU time is not measured)" if without else ""
    return f"{busy_minutes(known):.0f} minutes and {cpu}{unknown} for {len(known)} of {len(cost)} stages."


def busy_minutes(cost: pd.DataFrame) -> float:
    """Wall time in which at least one stage ran; cost: rows with `seconds` and `time`, when a stage ended."""
    ends = pd.to_datetime(cost["time"]).astype("datetime64[ns, UTC]")
    spans = sorted(zip(ends - pd.to_timedelta(cost["seconds"], unit="s"), ends))
    total, until = pd.Timedelta(0), None
    for start, end in spans:
        begins = start if until is None else max(start, until)
        if end > begins:
            total, until = total + (end - begins), end
    return total.total_seconds() / 60
