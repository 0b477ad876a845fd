"""The store of a study."""

import os

from pipeline.config.study import Study
from pipeline.store.store import Store


def open_store(study: Study) -> Store:
    return Store(os.environ.get("TRILEMMA_STORE") or str(study.root / ".trilemma" / "store"), study.launch.stream)
