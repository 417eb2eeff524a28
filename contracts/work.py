"""What travels on the work queues and as live events: hints about the log, never truth of their own."""

from typing import Any
from uuid import UUID

import msgspec


class RunDue(msgspec.Struct, frozen=True):
    """A run may be claimed. What it is, and whether it still may be, the log says."""

    run_id: UUID


class Chore(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something to do beside the runs; doing it twice is harmless."""

    forget_thread: UUID | None = None  # remove the thread's checkpoints


class LiveEvent(msgspec.Struct, frozen=True):
    """A stream event of a run while it runs; `seq` counts within one attempt.

    An event that no message can carry has `data` null and says in `too_large` how many bytes it had.
    """

    seq: int
    event: str
    data: Any
    too_large: int | msgspec.UnsetType = msgspec.UNSET


ATTEMPT_HEADER = "Attempt"
"""Header of a live event: the attempt of the run that it belongs to."""
