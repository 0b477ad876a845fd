"""What `trilemma prepare` found, in a few lines: what surprises here is cheaper than after a training."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

LISTED_CLASSES = 10


def data_summary(facts: Mapping[str, Any]) -> Iterator[str]:
    """facts: of prepared data."""
    counts = facts["class_counts"]
    by_class = list(zip(facts["label_names"], counts["train"], counts["held_out"]))
    named = ", ".join(f"{name} {train}+{held_out}" for name, train, held_out in islice(by_class, LISTED_CLASSES))
    if len(by_class) > LISTED_CLASSES:
        named += f", ... ({min(counts['train'])} to {max(counts['train'])} to train)"
    classes = f"{len(by_class)} {'class' if len(by_class) == 1 else 'classes'}: {named}" if by_class else "no labels"
    yield f"{facts['train']} to train, {facts['held_out']} held out; {classes}"
    changed = facts.get("pixels", {}).get("changed", {})
    if changed:
        yield f"pixels as viewers show them: {', '.join(f'{count} {rule}' for rule, count in changed.items())}"
    if facts["bad_records"]:
        yield f"{facts['bad_records']} records cannot be used and were skipped: bad_records.json"
    yield from (f"left out {line}" for line in facts.get("left_out", ()))
    yield from (f"warning: {line}" for line in facts.get("warnings", ()))
    if across := facts["duplicates"]["across"]:
        yield f"warning: {across} held-out samples are among the training samples too"
