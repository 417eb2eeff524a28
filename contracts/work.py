"""What travels on the work queues and as live events: hints about the log, never truth of their own."""

from uuid import UUID

import msgspec


class RunDue(msgspec.Struct, frozen=True):
    """A run may be claimed. What it is, and whether it still may be, the log says."""

    run_id: UUID


class Chore(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something to do beside the runs; doing it twice is harmless."""

    forget_thread: UUID | None = None  # remove the thread's checkpoints


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an event of the event streaming protocol comes from, beside its method and its data.

    `key` makes the id of an event that was made of others: `input|<namespace>|<interrupt id>`; '' for all others.
    """

    at_ms: int  # when it was emitted, milliseconds since the epoch
    namespace: tuple[str, ...] = ()
    node: str = ""
    key: str = ""


class LiveEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stream event of a run while it runs; `seq` counts from 1 within one attempt.

    Of a run that streams by the event streaming protocol `event` is the method, and there is an `origin`.
    """

    seq: int
    event: str
    data: msgspec.Raw
    origin: Origin | None = None


class LiveBatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run streamed in one go: one message on `runs.<id>.ev`, large ones in several parts.

    (`began_ms`, seq) grows over all attempts of a run; a message may come twice, after a lost connection.
    """

    attempt: int
    began_ms: int  # when the log says the attempt started, milliseconds since the epoch
    began_at: int = 0  # position of that in the log
    events: list[LiveEvent] = []
    settled: int = 0  # position of the run's outcome in the log; 0: it goes on
