"""Publish an artifact: written under a temporary name, renamed into place, complete or absent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.entries import check_name
from pipeline.data.artifacts import MANIFEST, Artifact, Draft, Manifest, entry_of, manifest_text
from pipeline.store.files import flush, flush_tree, temporary


@contextmanager
def new_artifact(
    out: Path, stage: str, name: str, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Iterator[Draft]:
    """Make the artifact `out`, replacing an older one; after an error there is none, or the older one."""
    with temporary(out) as folder:
        folder.mkdir()
        draft = Draft(folder)
        yield draft
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = {path.relative_to(folder).as_posix(): entry_of(path) for path in paths}
        manifest = Manifest(stage, name, dict(config), dict(inputs), draft.facts, draft.seeds, files)
        (folder / MANIFEST).write_text(manifest_text(manifest))
        publish_folder(folder, out)
    draft.artifact = Artifact(out, manifest, manifest.digest)


def publish_folder(ready: Path, path: Path) -> None:
    """Rename the folder `ready` to `path`. An older one goes first: in between there is none, never half of one."""
    for part in path.parts[-2:]:
        check_name(part, f"{path}: an artifact's folder")
    flush_tree(ready)
    with temporary(path) as old:
        if path.exists():
            path.rename(old)
        ready.rename(path)
        flush(path.parent)
