"""Options given as words: a misspelt word raises an error instead of choosing another option."""

from typing import Any, get_args


def require_choice(name: str, value: str, options: Any) -> None:
    """ValueError unless `value` is one of `options`, a Literal type."""
    if value not in get_args(options):
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(repr, get_args(options)))}")
