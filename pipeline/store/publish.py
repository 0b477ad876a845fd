"""Publish an artifact: written under a temporary name, renamed into place, complete or absent."""

from pathlib import Path

from pipeline.store.files import flush, flush_tree, temporary


def publish_folder(ready: Path, path: Path) -> None:
    """Rename the folder `ready` to `path`. An older one goes first: in between there is none, never half of one."""
    flush_tree(ready)
    with temporary(path) as old:
        if path.exists():
            path.rename(old)
        ready.rename(path)
        flush(path.parent)
