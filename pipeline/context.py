"""What a stage is given besides its inputs and settings: where and how it runs, which never changes its result."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.launch.launcher import Launch
    from pipeline.store.store import State
    from pipeline.tracking.watch import Watch


@dataclass(frozen=True)
class RunContext:
    """The circumstances of one execution."""

    launch: "Launch"
    state: "State"  # bytes by name that survive a kill, gone when the stage is complete
    watch: "Watch"
