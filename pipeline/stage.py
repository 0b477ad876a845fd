"""What a stage is given besides its inputs and settings: where and how it runs, which never changes its result."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # circumstance only: an edit there must not change the key of any result
    from pipeline.launch import Launch
    from pipeline.store import State
    from pipeline.watch import Watch


@dataclass(frozen=True)
class Around:
    """The circumstances of one execution."""

    launch: "Launch"
    state: "State"  # bytes by name that survive a kill, gone when the stage is complete
    watch: "Watch"
    piece: int  # images per piece of fanned-out work, a multiple of 64
