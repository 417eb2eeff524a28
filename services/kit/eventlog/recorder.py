"""What a database does for the log: the recorder of `eventsourcing`, and what it lacks.

The library's recorders give streams and notifications, datastores, pools and transactions. Ours subclass them
and add appends of many transactions with what they rest on, large values, leases and cursors.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from eventsourcing.persistence import Notification

from services.kit.eventlog import LeaseRow, WrongExpectedVersion
from services.kit.mendable import Mendable

Outcome = int | WrongExpectedVersion
END = (1 << 62) - 1
LAST = "\U0010ffff"
"""The greatest character: what begins with a prefix sorts before the prefix and it."""


class ForeignLedger(Mendable):
    """The ledger is none of this version; opening it could harm it."""


class WorkFailed(Exception):
    """A piece of work raised (`__cause__`); the transaction as such is sound, and nothing of it is stored.

    `is_edge`: it was the database that failed under it, whatever the work was.
    """

    def __init__(self, *, is_edge: bool = False) -> None:
        super().__init__()
        self.is_edge = is_edge


class Committing(Protocol):
    """What writes: called in the writer's thread only, but for `open`."""

    def open(self) -> None:
        """Be ready to write, making what is missing. Raises ForeignLedger and what edges raise."""
        ...

    def commit(self, works: Sequence[Any]) -> list[Any]:
        """Do all of it in one transaction, durably; the result of each, in order (None for None).

        Raises WorkFailed, and whatever an edge raises: then nobody knows whether it is stored.
        """
        ...

    def recover(self) -> None:
        """After something was raised: let the next commit begin anew."""
        ...

    def close(self) -> None:
        """Close the connection that writes; the next commit opens one."""
        ...


class Reading(Protocol):
    """What reads, from any thread: rows as they are stored."""

    @property
    def is_near(self) -> bool:
        """Whether a read costs less than a thread hop."""
        ...

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[Notification]:
        """One stream, as the library has it; with positions."""
        ...

    def select_newest(self, originator_ids: Iterable[UUID]) -> Sequence[Notification]:
        """The newest event of each stream that has one."""
        ...

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """The log, as the library has it."""
        ...

    def select_topics(self, prefix: str, after: int, until: int, limit: int) -> Sequence[Notification]:
        """The log from a position on, only what has such a topic."""
        ...

    def select_positions(self, positions: Sequence[int]) -> Sequence[Notification]:
        """The events at these positions, in the order of the log."""
        ...

    def max_notification_id(self) -> int | None:
        """The newest position, None when there is none."""
        ...

    def select_blob(self, sha256: str) -> bytes | None:
        """A large value."""
        ...

    def select_leases(self, prefix: str) -> list[LeaseRow]:
        """Leases whose name starts so."""
        ...

    def select_cursor(self, name: str) -> int:
        """How far a follower has come."""
        ...

    def clock(self) -> datetime:
        """The store's."""
        ...

    def close_readers(self) -> None:
        """Close every connection that reads; the next read opens a new one."""
        ...
