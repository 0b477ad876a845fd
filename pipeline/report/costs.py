"""What every stage of a study cost when it was last computed, from the ledger."""

from collections.abc import Hashable, Mapping
from datetime import datetime
from math import exp, log, sqrt
from typing import Any

import pandas as pd

from pipeline.config.study import Study
from pipeline.dag.graph import STAGES, entries
from pipeline.dag.lineage import chain_links
from pipeline.errors import ArtifactError
from pipeline.metrics.intervals import Measured, compared, t_quantile
from pipeline.store.open import open_store
from pipeline.tables.markdown import bounds, markdown_table

COLUMNS = [
    "stage", "name", "event", "nfe", "guide_calls", "backend", "workers", "device", "seconds", "cpu_seconds", "joules",
    "seconds_per_image", "seconds_per_image_low", "seconds_per_image_high", "timings", "peak_memory_mib", "resumed",
    "time", "torch", "commit", "key",
]  # fmt: skip
SHOWN = [
    "stage", "name", "nfe", "guide_calls", "backend", "seconds", "cpu_seconds", "joules", "seconds_per_image",
    "peak_memory_mib", "event",
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
            row |= _bounds(row)
            row["key"] = (link.key or "")[:12]
        except ArtifactError:
            pass
        rows.append(row | {"stage": stage, "name": name})  # the ledger has those of the first entry with this key
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def speed_page(cost: pd.DataFrame) -> str:
    """Seconds per image of every entry on one device, and how often faster it is than the slowest, with intervals."""
    parts = []
    timed = cost.loc[(cost["stage"] == "sample") & (cost["timings"] > 1)]
    for device, rows in timed.groupby("device", sort=False):
        entries: list[dict[Hashable, Any]] = rows.to_dict("records")
        slowest = max(entries, key=lambda row: row["seconds_per_image"])
        lines = [[row["name"], _shown(row), _speed_up(row, slowest)] for row in entries]
        header = ["entry", "seconds per image [95 %]", f"times faster than {slowest['name']} [95 %]"]
        about = f"On {device}, in one process and warmed up; repetitions are parts of the sampled sets."
        parts.append(f"{about}\n\n{markdown_table(header, lines)}")
    return "\n\n".join(["## Seconds per image", *parts]) if parts else ""


def _bounds(row: dict[str, Any]) -> dict[str, float]:
    """The 95 % interval of the seconds per image, where they were measured more than once."""
    if row.get("timings", 0) < 2:
        return {}
    mean, n = row["seconds_per_image"], int(row["timings"])
    half = t_quantile(n - 1) * row["seconds_per_image_sd"] / sqrt(n)
    return {"seconds_per_image_low": mean - half, "seconds_per_image_high": mean + half}


def _shown(row: Mapping[Hashable, Any]) -> str:
    low, high = row["seconds_per_image_low"], row["seconds_per_image_high"]
    return f"{row['seconds_per_image']:.3g}{bounds(low, high, 3)}"


def _speed_up(row: Mapping[Hashable, Any], slowest: Mapping[Hashable, Any]) -> str:
    """The ratio of two means; its interval is that of the difference of their logarithms (delta method, Welch)."""
    if row["name"] == slowest["name"]:
        return "1"
    ratio = compared(_logarithm(slowest), _logarithm(row))
    return f"{exp(ratio.difference):.3g}{bounds(exp(ratio.low), exp(ratio.high), 3)}"


def _logarithm(row: Mapping[Hashable, Any]) -> Measured:
    mean = row["seconds_per_image"]
    half = (row["seconds_per_image_high"] - mean) / mean
    return Measured(log(mean), log(mean) - half, log(mean) + half, int(row["timings"]))


def cost_page(cost: pd.DataFrame) -> str:
    rows = [
        [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in cost[SHOWN].to_numpy(object)
    ]
    table = markdown_table(SHOWN, [["" if cell in ("nan", None) else cell for cell in row] for row in rows])
    total = (
        f"{spent(cost)} Joules are those of the machine's processors meanwhile, whatever else ran; empty where it does "
        "not tell."
    )
    about = "Every stage when it was last computed; of one that was killed and resumed, all attempts together."
    parts = ["# What it cost", about, table, total, speed_page(cost)]
    return "\n\n".join(part for part in parts if part) + "\n"


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
