"""Options that are words: a misspelt one must fail, not fall through to another."""

from typing import Any, get_args


def require_choice(name: str, value: str, options: Any) -> None:
    """`options`: the Literal type that lists the words."""
    if value not in get_args(options):
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(repr, get_args(options)))}")
