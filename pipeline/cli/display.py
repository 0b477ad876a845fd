"""Results of commands as text for people: one line per thing, as wide as the terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

from pipeline.console import escaped, say, table_console
from pipeline.data.artifacts import canonical
from pipeline.sweeps.entry import written
from pipeline.tables.compare import Compared
from pipeline.tables.listing import COVERAGE, QUALITY
from pipeline.tables.markdown import plus_minus

Rows = Sequence[Sequence[str]]


def print_runs(runs: Iterable[Mapping[str, Any]]) -> None:
    """Stages: how many are complete, and the first that is not."""
    rows = [["run", "guidance", "method", "stages", "quality", "coverage", "nfe"]]
    for run in runs:
        missing = [stage["stage"] for stage in run["stages"] if stage["state"] != "complete"]
        count = len(run["stages"])
        state = f"{count - len(missing)}/{count}" + (f", next {missing[0]}" if missing else "")
        metrics = [_first_metric(run["metrics"], names) for names in (QUALITY, COVERAGE)]
        nfe = _first_metric(run["metrics"], ("nfe",)).removeprefix("nfe ")
        rows.append([run["run"], run["guidance"], run["method"], state, *metrics, nfe])
    print_table(rows)


def _first_metric(metrics: Iterable[Mapping[str, Any]], names: Sequence[str]) -> str:
    values = {metric["metric"]: metric["value"] for metric in reversed(list(metrics))}
    return next((f"{name} {values[name]:.4g}" for name in names if name in values), "")


def print_plan(stages: Sequence[Mapping[str, Any]]) -> None:
    rows = [["stage", "name", "state", "seconds", "peak MiB", "from"]]
    for stage in stages:
        numbers = ["" if stage[name] is None else f"{stage[name]:.0f}" for name in ("seconds", "memory_mib")]
        rows.append([stage["stage"], stage["name"], stage["state"], *numbers, stage["source"] or "unknown"])
    print_table(rows)
    missing = [stage["seconds"] for stage in stages if stage["state"] != "stored"]
    known = [seconds for seconds in missing if seconds is not None]
    total = f"{len(known)} of them take about {sum(known):.0f} s together"
    print(f"{len(missing)} of {len(stages)} stages to compute; {total}")


def print_sweeps(sweeps: Iterable[Mapping[str, Any]]) -> None:
    rows = [["sweep", "field", "entries", "points x seeds", "state"]]
    for sweep in sweeps:
        points = prod(map(len, sweep["axes"].values())) * max(1, len(sweep["of"]))
        state = "needs --of" if sweep["needs"] else "measured" if Path(sweep["table"]).is_file() else "not run"
        entries = sweep["needs"].partition(";")[0] or ", ".join(sweep["of"])
        rows.append([sweep["sweep"], " x ".join(sweep["axes"]), entries, f"{points} x {sweep['seeds']}", state])
    print_table(rows)


def print_sweep_plan(plan: Mapping[str, Any]) -> None:
    """A line per point; a stage that several points need counts for the first of them."""
    rows = [["point", "seeds", "to compute", "seconds"]]
    for label, trials in groupby(plan["points"], _point):
        ids = [trial["id"] for trial in trials]
        stages = [stage for stage in plan["run"] if stage["trial"] in ids]
        counts = {name: sum(stage["stage"] == name for stage in stages) for name in [s["stage"] for s in stages]}
        names = " ".join(name if count == 1 else f"{name} x{count}" for name, count in counts.items())
        rows.append([label, str(len(ids)), names or "nothing", _seconds(stages)])
    print_table(rows)
    stored = f"{len(plan['reused'])} stages are in the store, {len(plan['run'])} would run"
    print(f"{stored}; seconds on one CPU: {_seconds(plan['run'])}")


def _point(trial: Mapping[str, Any]) -> str:
    values = {name: value for name, value in trial.items() if name not in ("id", "of", "seed")}
    return " ".join([trial["of"], *(f"{name}={written(value)}" for name, value in values.items())])


def _seconds(stages: Sequence[Mapping[str, Any]]) -> str:
    """With "+ ?" where those of some stage are not known."""
    known = [stage["seconds"] for stage in stages if stage["seconds"] is not None]
    total = f"{sum(known):.0f}"
    return total if len(known) == len(stages) else f"{total} + ?" if known else "unknown"


def print_done(done: Mapping[str, Any]) -> None:
    print("\n".join([done["verdict"], *(f"  {file}" for file in done["files"])]))


def print_comparison(compared: Compared, as_json: bool) -> None:
    """A block per metric, a line per run; notes go to stderr."""
    for note in compared.notes:
        say(f"note: {note}")
    if as_json:
        print(json.dumps(compared.json(), indent=1))
        return
    first = compared.runs[0]
    rows: list[list[str]] = [["  run", "value", f"less {first}", "verdict", "seeds"]]
    for row in compared.rows:
        if row.run == first:
            real = "" if row.real_vs_real is None else f", real against real {row.real_vs_real:.4g}"
            rows.append([f"{row.metric} ({row.card.partition('@')[0]}){real}"])
        difference = verdict = ""
        if row.difference is not None and row.difference_low is not None and row.difference_high is not None:
            difference = plus_minus(row.difference, row.difference_low, row.difference_high)
            verdict = f"{row.verdict} {(row.scope or '').partition(',')[0]}"
        seeds = f"{row.train_seeds} x {row.sample_seeds}"
        rows.append([f"  {row.run}", plus_minus(row.value, row.ci_low, row.ci_high), difference, verdict, seeds])
    for name in compared.counts[first]:
        rows.append([f"{name}, counted"])
        rows += [[f"  {run}", f"{counts[name]:.4g}", "", "", ""] for run, counts in compared.counts.items()]
    print_table(rows)
    print(f"±: 95 % intervals; verdicts: on each run against {first}; seeds: of training x of sampling")
    if compared.mlflow:
        print(f"MLflow (trilemma ui): {compared.mlflow}")


def print_why(explained: Mapping[str, Any]) -> None:
    if "cells" in explained:
        print("\n".join(map(escaped, explained["cells"])))
        return
    cell = explained["cell"]
    measured = f", measured as {explained['measured']}" if explained["measured"] != cell else ""
    interval = "" if explained["ci_low"] is None else f" [{explained['ci_low']:g}, {explained['ci_high']:g}]"
    print(escaped(f"{cell} = {explained['value']:g}{interval}{measured}"))
    about = {"card": explained["card"], "replay": explained["tolerance"], **explained.get("origin", {})}
    print("\n".join(escaped(f"{name}: {text}") for name, text in about.items() if text))
    for stage in explained["stages"]:
        print(f"\n{stage['stage']} {stage['name']}: {stage['command']}")
        code = stage["code"][:12] if stage["code"] else f"of {stage['version']} version"
        seconds = "" if stage["seconds"] is None else f", {stage['seconds']:g} s on {stage['cpu'] or stage['device']}"
        lines = {
            "key": f"{(stage['key'] or 'not in this store')[:12]}, code {code}, commit {(stage['commit'] or '?')[:12]}",
            "made": f"{stage['time'] or '?'}{seconds}, MLflow run {stage['mlflow_run'] or '?'}",
            "parameters": canonical(stage["parameters"]),
            "inputs": _digests(stage["inputs"]),
            "seeds": canonical(stage["seeds"]),
            "files": _digests(stage["files"]),
        }
        print("\n".join(escaped(f"  {name:<10} {text}") for name, text in lines.items() if text not in ("", "{}")))


def _digests(digests: Mapping[str, str]) -> str:
    return "  ".join(f"{name} {digest[:12]}" for name, digest in digests.items())


def print_table(rows: Rows) -> None:
    """In columns; the widest are cut where a line would be too long. A row of one cell stands alone on its line."""
    rows = [list(map(escaped, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*(row for row in rows if len(row) > 1))]
    while sum(widths) + 2 * (len(widths) - 1) > table_console().width:
        widths[widths.index(max(widths))] -= 1
    for row in rows:
        cells = [cell if len(cell) <= width else f"{cell[: width - 1]}…" for cell, width in zip(row, widths)]
        padded = [cell.ljust(width) for cell, width in zip(cells, widths)]
        print((row[0] if len(row) == 1 else "  ".join(padded)).rstrip())
