"""Output of `trilemma measure` and `trilemma weights verify`: a table, or JSON alone."""

import json
from math import isnan

from rich.table import Table
from rich.text import Text

from pipeline.console import escaped, say, table_console
from pipeline.data.sample_order import ORDER
from pipeline.errors import UserError
from pipeline.metrics.features.weights import Check
from pipeline.metrics.standalone.measure import Measurement, Value

DIGITS = 5  # significant digits in the table; JSON has all


def print_measurement(measurement: Measurement, as_json: bool) -> None:
    """Warnings are printed on stderr; JSON also has them in its card."""
    for warning in measurement.warnings:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(measurement.json(), indent=1))
        return
    table = Table("metric", "value", "95 % interval", "real_vs_real", "settings", "card", box=None)
    for name, value in measurement.values.items():
        card = measurement.cards[name]
        settings = " ".join(f"{key}={setting}" for key, setting in card.settings)
        table.add_row(name, _number(value.value), _interval(value), _number(value.real_vs_real), settings, card.id)
    console = table_console()
    console.print(table)
    about = {name: escaped(v) if isinstance(v, str) else v for name, v in measurement.json()["card"].items()}
    n_real = "unknown number of" if about["n_real"] is None else about["n_real"]
    changed = [f"{n} {side} ones {rule}" for side, rules in measurement.changed.items() for rule, n in rules.items()]
    console.print(
        f"\nfeatures: {about['extractor']}@{about['extractor_digest'][:8]} {about['layer']}, {about['preprocessing']}\n"
        f"samples: {about['n_generated']} generated, {n_real} real ({about['reference']})\n"
        f"interval: {about['interval']}\nreal_vs_real: {about['real_vs_real']}\norder: {ORDER}"
        + (f"\npixels: as viewers show them, {', '.join(changed)}" if changed else ""),
        highlight=False,
        markup=False,
    )


def print_checks(checks: list[Check], as_json: bool) -> None:
    """All known extractors; an error if a file has a wrong SHA-256."""
    if as_json:
        print(json.dumps([{**check._asdict(), "path": str(check.path or "")} for check in checks], indent=1))
    else:
        table = Table("extractor", "weights", "file", box=None)
        for check in checks:
            table.add_row(*(Text(escaped(cell)) for cell in (check.extractor, check.status, str(check.path or ""))))
        table_console().print(table)
    wrong = [f"{check.path} ({check.sha256})" for check in checks if check.status == "wrong"]
    if wrong:
        raise UserError(f"wrong SHA-256: {', '.join(wrong)}: delete these files and fetch them again")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.{DIGITS}g}"


def _interval(value: Value) -> str:
    return "" if isnan(value.low) else f"{_number(value.low)} to {_number(value.high)}"
