"""Output for people: messages on stderr, tables on stdout."""

import os
import re
import sys
from typing import TYPE_CHECKING

from pipeline.errors import TrilemmaError

if TYPE_CHECKING:
    from rich.console import Console


TABLE_WIDTH = 100  # characters, where stdout is no terminal
USERINFO = re.compile(r"(?<=://)\S*@")  # to the last @, for a password may hold any character
SECRET = re.compile(r"(?i)([?&;][\w.-]*(?:user|pass|pwd|token|secret|key|sig|cred)[\w.-]*=|\bpassword=)[^&\s'\"]+")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def redacted(text: str) -> str:
    """Without the credentials of addresses and connection strings in it."""
    return SECRET.sub(r"\1***", USERINFO.sub("", text))


def escaped(text: str) -> str:
    """One line, in which control characters, which a terminal would obey, are written as in Python."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def say(line: str) -> None:
    """Print one line on stderr, redacted, control characters escaped.

    When the reader of a pipe was killed, drop it and all later ones: the work goes on.
    """
    try:
        print(escaped(redacted(line)), file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def one_line(error: BaseException) -> str:
    """The first line of an error's message, after its type unless the error is ours."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line if isinstance(error, TrilemmaError) or not text else f"{type(error).__name__}: {line}"


def table_console() -> "Console":
    """rich's console on stdout: as wide as the terminal, or TABLE_WIDTH for a file or a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
