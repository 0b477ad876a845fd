"""Sweeps, plans and outcomes as lines for people."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.console import table_console
from pipeline.sweeps.entry import written


def print_sweeps(found: Iterable[Mapping[str, Any]]) -> None:
    from rich.table import Table

    shown = Table("sweep", "of", "values", "seeds", "paper", box=None)
    for sweep in found:
        axes = "; ".join(f"{name}: {' '.join(map(written, values))}" for name, values in sweep["axes"].items())
        shown.add_row(
            sweep["sweep"], ", ".join(sweep["of"]) or sweep["needs"], axes, str(sweep["seeds"]), sweep["paper"]
        )
    table_console().print(shown)


def print_plan(plan: Mapping[str, Any]) -> None:
    print(f"{len(plan['points'])} trials; {len(plan['reused'])} stages are in the store, {len(plan['run'])} would run:")
    for stage in plan["run"]:
        seconds = "unknown" if stage["seconds"] is None else f"about {stage['seconds']:.0f} s"
        print(f"  {stage['stage']} {stage['name']}: {seconds}")
    known = [stage["seconds"] for stage in plan["run"] if stage["seconds"] is not None]
    print(f"together about {sum(known):.0f} s on one CPU")


def print_done(done: Mapping[str, Any]) -> None:
    print(done["verdict"])
    for file in done["files"]:
        print(f"  {file}")
