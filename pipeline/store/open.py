"""The store of a study."""

import os

from pipeline.config.study import Study
from pipeline.console import redacted
from pipeline.errors import ConfigError
from pipeline.store.store import Store


def open_store(study: Study) -> Store:
    uri = os.environ.get("TRILEMMA_STORE", "")
    if redacted(uri) != uri:
        raise ConfigError(
            "TRILEMMA_STORE has credentials in it, which logs and artifacts would show: take them out, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what the address's library reads"
        )
    return Store(uri or str(study.root / ".trilemma" / "store"), study.launch.stream)
