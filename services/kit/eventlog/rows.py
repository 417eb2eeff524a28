"""What the recorders read by the same statements on either database, and the rows that come of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Notification

from services.kit.eventlog import LeaseRow
from services.kit.eventlog.recorder import END, LAST
from services.kit.queries import named

SQL = named(Path(__file__).with_name("rows.sql"))
"""With the marks of PostgreSQL's driver."""


class RowReader:
    """The reads of a recorder over `rows`. How values stand in rows is as PostgreSQL's driver has it; others say."""

    def rows(self, name: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What the statement of that name gives."""
        raise NotImplementedError

    def key(self, originator_id: UUID | str) -> Any:
        """An id, as a parameter."""
        return originator_id

    def many(self, values: Iterable[Any]) -> Any:
        """Some values, as one parameter."""
        return list(values)

    def notifications(self, name: str, params: Sequence[Any]) -> list[Notification]:
        """Events, of a statement that gives their columns."""
        return [
            Notification(stream, version, topic, state, position)
            for position, stream, version, topic, state in self.rows(name, params)
        ]

    def lease(self, row: Sequence[Any]) -> LeaseRow:
        """A lease, of the row of one."""
        return LeaseRow(*row)

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> list[Notification]:
        upto, most = (END if bound is None else bound for bound in (lte, limit))
        return self.notifications(
            "stream_back" if desc else "stream", (self.key(originator_id), gt or 0, upto, most)
        )

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> list[Notification]:
        within = ((start or 0) - (1 if inclusive_of_start else 0), END if stop is None else stop)
        if topics:
            return self.notifications("some_topics", (*within, self.many(topics), limit))
        return self.notifications("range", (*within, limit))

    def select_topics(self, prefix: str, after: int, until: int, limit: int) -> list[Notification]:
        return self.notifications("topics", (after, until, prefix, prefix + LAST, limit))

    def select_positions(self, positions: Sequence[int]) -> list[Notification]:
        return self.notifications("at", (self.many(positions),))

    def max_notification_id(self) -> int:
        return int(self.rows("head")[0][0])

    def select_blob(self, sha256: str) -> bytes | None:
        rows = self.rows("blob", (sha256,))
        return bytes(rows[0][0]) if rows else None

    def select_leases(self, prefix: str) -> list[LeaseRow]:
        return [self.lease(row) for row in self.rows("leases", (prefix, prefix + LAST))]

    def select_cursor(self, name: str) -> int:
        rows = self.rows("cursor", (name,))
        return int(rows[0][0]) if rows else 0
