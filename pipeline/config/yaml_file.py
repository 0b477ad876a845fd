"""Read YAML as plain values; whatever else a file holds, and whatever its parser raises, is an error of one line."""

import math
from pathlib import Path
from typing import Any

from pipeline.config.build import as_block, shown
from pipeline.errors import ConfigError

MOST_VALUES = 100_000  # with every alias written out: aliases of aliases would grow without end
MOST_LEVELS = 50


def read_yaml(file: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML

    if not file.is_file():
        raise ConfigError(f"no {file}: run this in a study's folder, the one with params.yaml")
    try:
        content = YAML(typ="safe", pure=True).load(file.read_text())
    except Exception as error:  # of the parser, or of a constructor of numbers and dates
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{file} is not YAML: {reason}") from None
    _check_plain(content, str(file), MOST_LEVELS, {})
    return as_block(content, str(file))


def _check_plain(value: Any, where: str, levels: int, counts: dict[int, float]) -> float:
    """How many values it holds; ConfigError for too many or too deep ones, or for another type than JSON has.

    counts: by id, of the containers that were counted before.
    """
    if isinstance(value, str | bool | int | float | None):
        return 1
    if not isinstance(value, list | dict):
        raise ConfigError(f"{where}: {value} came, a {type(value).__name__} to YAML: quote it to make it text")
    if id(value) not in counts:
        counts[id(value)] = math.inf  # while its own values are counted: an alias of it in them has no end
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        inner = (_check_plain(part, f"{where}: {shown(key)}", levels - 1, counts) for key, part in parts)
        counts[id(value)] = 1 + sum(inner) if levels else math.inf
    if counts[id(value)] > MOST_VALUES:
        most = f"{MOST_VALUES} values or {MOST_LEVELS} levels"
        raise ConfigError(f"{where}: more than {most} came, counted with aliases written out: make it smaller")
    return counts[id(value)]
