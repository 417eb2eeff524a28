"""What travels on the work queues and as live events: hints about the log, never truth of their own."""

from uuid import UUID

import msgspec


class RunDue(msgspec.Struct, frozen=True):
    """A run may be claimed. What it is, and whether it still may be, the log says."""

    run_id: UUID


class Chore(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something to do beside the runs; doing it twice is harmless."""

    forget_thread: UUID | None = None  # remove the thread's checkpoints


class LiveEvent(msgspec.Struct, frozen=True):
    """A stream event of a run while it runs; `seq` counts from 1 within one attempt."""

    seq: int
    event: str
    data: msgspec.Raw


class LiveBatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run streamed in one go: one message on `runs.<id>.ev`, large ones in several parts.

    (`began_ms`, seq) grows over all attempts of a run; a message may come twice, after a lost connection.
    """

    attempt: int
    began_ms: int  # when the log says the attempt started, milliseconds since the epoch
    events: list[LiveEvent] = []
    settled: int = 0  # position of the run's outcome in the log; 0: it goes on
