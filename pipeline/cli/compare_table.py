"""Output of `trilemma compare` for what was made elsewhere: a table, Markdown or JSON."""

import json
from math import isnan

from pipeline.cli.display import print_table
from pipeline.console import say
from pipeline.tables.markdown import plus_minus
from pipeline.tables.outside.verdicts import Answer, Row


def print_answer(answer: Answer, as_json: bool, markdown: bool) -> None:
    """A block per metric, a line per group; notes go to stderr."""
    for note in answer.notes:
        say(f"note: {note}")
    if as_json:
        print(json.dumps(answer.json(), indent=1))
        return
    if markdown:
        print(answer.markdown())
        return
    rows: list[list[str]] = [["  group", "n", "value", f"less {answer.baseline}", "p", "verdict", "detects", "needs"]]
    metric = None
    for row in answer.rows:
        if row.metric != metric:
            rows.append([f"{row.metric} ({row.better} is better)"])
        metric = row.metric
        value = plus_minus(row.value, row.ci_low, row.ci_high)
        rows.append([f"  {row.group}", str(row.seeds), value, *_difference(row)])
    print_table(rows)
    tests = sorted({row.test for row in answer.rows if row.test})
    print(
        f"±: 95 % intervals; p: {', '.join(tests)}, corrected for {sum(row.p is not None for row in answer.rows)} "
        f"comparisons (Holm)\ndetects: true difference found in 4 of 5 repetitions; needs: {answer.unit} to find the "
        f"measured one as often\nverdict: {answer.verdict}"
    )


def _difference(row: Row) -> list[str]:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return ["", "", "baseline", "", ""]
    difference = plus_minus(row.difference, row.difference_low, row.difference_high)
    detects = "" if row.detectable is None or isnan(row.detectable) else f"{row.detectable:.2g}"
    needs = "" if row.needed is None else str(row.needed)
    return [difference, f"{row.p_corrected:.2g}", row.verdict or "", detects, needs]
