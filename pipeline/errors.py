"""What can go wrong, each with one line that says what came, what was wanted and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class TrilemmaError(Exception):
    """Stops a command with one clear line; the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UserError(TrilemmaError):
    """The user can repair it: a setting, a path, an input."""

    exit_code = 2


class ConfigError(UserError):
    """A setting that is unknown, missing or of the wrong kind."""


class ArtifactError(UserError):
    """An artifact that is missing, half-written or changed since it was written."""


class StoreError(TrilemmaError):
    """The store cannot be read or written."""


class Interrupted(TrilemmaError):
    """A computation was told to stop, and has saved what it had: that is the argument."""

    def __str__(self) -> str:
        return f"told to stop; {self.args[0]} is saved: the same command goes on from there"


@contextmanager
def naming(entry: str) -> Iterator[None]:
    """Puts the entry's name before the message of any ConfigError inside."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{entry}: {error}") from None


class LaunchError(TrilemmaError):
    """A worker died, or the cluster went away; what was saved until then is still there."""
