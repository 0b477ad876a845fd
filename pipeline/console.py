"""Lines for the person at the terminal, on stderr."""

import sys


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
