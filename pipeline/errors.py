"""Exceptions; their messages name in one line what came, what was wanted and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class TrilemmaError(Exception):
    """Ends a command: the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UserError(TrilemmaError):
    """Wrong input that the user can correct: a setting, a path, a file."""

    exit_code = 2


class ConfigError(UserError):
    """A setting that is unknown, missing or of the wrong kind."""


class ArtifactError(UserError):
    """An artifact that is missing, half-written or changed since it was written."""


class StoreError(TrilemmaError):
    """The store cannot be read or written."""


class LaunchError(TrilemmaError):
    """A worker died, or the cluster is gone; the saved state remains."""


class Interrupted(TrilemmaError):
    """A computation that received a signal to stop. Its argument: what it had saved."""

    def __str__(self) -> str:
        return f"told to stop; {self.args[0]} is saved: the same command goes on from there"


@contextmanager
def naming(entry: str) -> Iterator[None]:
    """Prefix the message of any ConfigError in the block with the entry's name."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{entry}: {error}") from None
