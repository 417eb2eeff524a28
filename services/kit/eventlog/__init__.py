"""The event log: the only truth. The Protocol; implementations sit beside it by technology."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec
from eventsourcing.persistence import Notification

from contracts.ledger import Recorded, StoredTransaction, Transaction
from services.kit.mendable import Mendable


class WrongExpectedVersion(Exception):
    """A stream is not at the version that the transaction rests on; nothing of it was stored."""

    def __init__(self, stream_id: UUID, expected: int) -> None:
        super().__init__(f"stream {stream_id} is not at version {expected}")
        self.stream_id = stream_id
        self.expected = expected


class LogUnavailable(Mendable):
    """The log could not be reached; whether the transaction was stored is not known."""


class BadTransaction(ValueError):
    """What can never be stored: a stream stands there twice, or a value is too long. A bug of whoever made it."""


class LeaseRow(msgspec.Struct, frozen=True):
    """Who holds a named lease and until when, on the store's clock."""

    name: str
    holder: str
    until: datetime


class EventLog(Protocol):
    """Append-only streams of events with one global order.

    Appends are asynchronous and durable when they return. Reads are synchronous: a point read of a short
    stream costs less than a thread hop. Positions start at 1, only grow, and are in commit order.
    """

    @property
    def is_near(self) -> bool:
        """Whether a point read costs less than a thread hop; otherwise no read may be made on the event loop."""
        ...

    async def append(self, tx: Transaction) -> int:
        """Store a transaction; its last position.

        Raises WrongExpectedVersion, LogUnavailable, BadTransaction; the log waits a bounded time for the disk.
        """
        ...

    async def append_many(self, txs: Sequence[Transaction]) -> list[int | WrongExpectedVersion]:
        """Store many in one commit; a conflict fails its own transaction only. Same order as given."""
        ...

    async def append_stored(self, txs: Sequence[StoredTransaction]) -> list[int | WrongExpectedVersion]:
        """The same for transactions that came in stored form, from a process that does not own the log."""
        ...

    def stream(self, stream_id: UUID, after_version: int = 0) -> list[Recorded]:
        """The events of one stream, oldest first; empty when there is none."""
        ...

    def newest(self, stream_ids: Iterable[UUID]) -> dict[UUID, Recorded]:
        """The newest event of each stream that has one."""
        ...

    def read(self, after: int, limit: int, until: int | None = None) -> list[Recorded]:
        """Events of all streams with position > `after` (and <= `until`), in order."""
        ...

    def read_topics(self, prefix: str, after: int, until: int, limit: int) -> list[Recorded]:
        """The same, only events whose topic starts so; the others are not decoded."""
        ...

    def read_raw(self, after: int, limit: int, until: int | None = None) -> list[Notification]:
        """The same, undecoded."""
        ...

    def at_positions(self, positions: Sequence[int]) -> list[Recorded]:
        """The events at these positions, in the order of the log; unknown ones are left out."""
        ...

    def head(self) -> int:
        """The newest position, 0 when the log is empty."""
        ...

    def blob(self, sha256: str) -> bytes | None:
        """The bytes of a large value, None when it was erased or never stored."""
        ...

    def on_commit(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Call back with the newest position after each commit, in the event loop. Returns how to stop it.

        A hint, never the truth: callbacks may be late, merged or missing (another process appended).
        """
        ...

    async def renew_lease(self, name: str, holder: str, ttl_s: float) -> LeaseRow | None:
        """Take or renew a lease; None when somebody else holds it. `ttl_s` <= 0 releases it."""
        ...

    def leases(self, prefix: str) -> list[LeaseRow]:
        """Leases whose name starts so, expired ones too."""
        ...

    def cursor(self, name: str) -> int:
        """How far a follower of that name has come, as it told last; 0 when it never did."""
        ...

    async def move_cursor(self, name: str, position: int) -> None:
        """Keep how far it has come, durably; one that was further already stays. Raises LogUnavailable."""
        ...

    def clock(self) -> datetime:
        """The store's clock, aware, UTC."""
        ...

    async def start(self) -> None:
        """Open it. Raises ForeignLedger when it is of a newer version."""
        ...

    async def stop(self) -> None:
        """Write what is queued and close every connection; safe twice."""
        ...
