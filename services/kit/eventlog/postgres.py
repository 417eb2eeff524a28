"""The log on PostgreSQL: every process writes, each with its own group commit; the database orders them."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import Notification, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.rows import dict_row

from contracts.codec import EventCodec
from contracts.ledger import StoredAppend, StoredTransaction
from services.kit.eventlog import LeaseRow, LogUnavailable, WrongExpectedVersion
from services.kit.eventlog.fold import Fold
from services.kit.eventlog.log import RecordedLog
from services.kit.eventlog.recorder import END, LAST, Outcome, WorkFailed
from services.kit.eventlog.works import AppendAsked, LeaseAsked, Work
from services.kit.postgres import Connection, Schema, Sessions, check, text
from services.kit.queries import named

HERE = Path(__file__).parent
SQL = named(HERE / "postgres_queries.sql")
LEDGER = Schema("ledger", (text((HERE / "postgres.sql").read_text(encoding="utf-8")),))
PLANS = ("plan_cache_mode=force_generic_plan", "enable_seqscan=off")
VALUE = (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.NotSupportedError)
"""Of what was to be stored; the transaction was rolled back. Others are of the server or the way there."""


class SessionDatastore(PostgresDatastore):
    """The library's datastore on a session for each thread in place of its pool (`Sessions` says why)."""

    def __init__(self, url: str) -> None:
        super().__init__("", "", "", "", "", schema=LEDGER.name)  # its pool is never opened
        # Rows are the library's own dictionaries for its tools; ours ask for tuples.
        self.sessions = Sessions(url, LEDGER.name, *PLANS, prepare_threshold=0, row_factory=dict_row)

    @contextmanager
    def get_connection(self) -> Iterator[Connection]:
        yield self.sessions.mine()[1]

    def close(self) -> None:
        if hasattr(self, "sessions"):  # the library closes what could not be made as well
            self.sessions.close()


class PostgresRecorder(PostgresApplicationRecorder):
    """The library's recorder on our table and function: positions in the order of the commits, without gaps.

    Its own reads try ten times, each with a pool's time-out, when the server is away: for that long nobody would
    hear of it. Ours try once more, on a new connection.
    """

    is_near = False

    def __init__(self, url: str) -> None:
        self._url = url
        super().__init__(SessionDatastore(url))
        self.datastore: SessionDatastore

    # --- reading ------------------------------------------------------------------------------------------

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> list[Notification]:
        params = (originator_id, gt or 0, (1 << 31) - 1 if lte is None else lte, limit)
        return self._notifications(SQL["stream_back" if desc else "stream"], params)

    def select_newest(self, originator_ids: Iterable[UUID]) -> list[Notification]:
        return self._notifications(SQL["newest"], (list(originator_ids),))

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> list[Notification]:
        after = (start or 0) - (1 if inclusive_of_start else 0)
        within = (after, END if stop is None else stop)
        if topics:
            return self._notifications(SQL["some_topics"], (*within, list(topics), limit))
        return self._notifications(SQL["range"], (*within, limit))

    def select_topics(self, prefix: str, after: int, until: int, limit: int) -> list[Notification]:
        return self._notifications(SQL["topics"], (after, until, prefix, prefix + LAST, limit))

    def select_positions(self, positions: Sequence[int]) -> list[Notification]:
        return self._notifications(SQL["at"], (list(positions),))

    def max_notification_id(self) -> int | None:
        rows = self.rows(SQL["head"])
        return int(rows[0][0]) if rows else None

    def select_blob(self, sha256: str) -> bytes | None:
        rows = self.rows(SQL["blob"], (sha256,))
        return bytes(rows[0][0]) if rows else None

    def select_leases(self, prefix: str) -> list[LeaseRow]:
        return [LeaseRow(*row) for row in self.rows(SQL["leases"], (prefix, prefix + LAST))]

    def select_cursor(self, name: str) -> int:
        rows = self.rows(SQL["cursor"], (name,))
        return int(rows[0][0]) if rows else 0

    def clock(self) -> datetime:
        found: datetime = self.rows(SQL["clock"])[0][0]
        return found

    def close_readers(self) -> None:
        self.datastore.close()

    def rows(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a statement gives, on this thread's connection. Raises LogUnavailable."""
        try:
            return self.datastore.sessions.fetch(query, params)
        except psycopg.Error as exc:
            raise LogUnavailable(f"the ledger did not answer: {exc}") from exc

    def _notifications(self, query: str, params: Sequence[Any]) -> list[Notification]:
        return [
            Notification(stream, version, topic, state, position)
            for position, stream, version, topic, state in self.rows(query, params)
        ]

    # --- writing ------------------------------------------------------------------------------------------

    def open(self) -> None:
        check(self._url, [LEDGER])

    def commit(self, works: Sequence[AppendAsked | None]) -> list[Any]:
        txs = [tx for work in works if work is not None for tx in work.txs]
        try:
            with self.datastore.get_connection() as connection:
                outcomes = iter(_stored(connection, txs))
        except VALUE as exc:
            raise WorkFailed from exc
        return [None if work is None else [next(outcomes) for _ in work.txs] for work in works]

    def recover(self) -> None:
        # In autocommit nothing is left to roll back, and of a connection that failed nothing is known.
        self.datastore.sessions.drop()

    def close(self) -> None:
        self.datastore.close()

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """For the library's own tools: each event rests on the one before it."""
        appends = [
            StoredAppend(
                _uuid(event.originator_id), event.originator_version - 1, ((event.topic, event.state),)
            )
            for event in stored_events
        ]
        [outcomes] = self.commit([AppendAsked([StoredTransaction((append,)) for append in appends])])
        for outcome in outcomes:
            if isinstance(outcome, WrongExpectedVersion):
                raise outcome
        return list(outcomes)


class PostgresLog(RecordedLog):
    """An EventLog in the schema `ledger` of a database, written by any number of processes."""

    def __init__(self, url: str, codec: EventCodec) -> None:
        self._rows = PostgresRecorder(url)
        super().__init__(self._rows, codec)
        # Leases must not wait for a thread until reads of everybody else have come back.
        self._beside = ThreadPoolExecutor(2, "ledger-leases")

    async def _do(self, work: Work) -> Any:
        if isinstance(work, AppendAsked):
            return await super()._do(work)
        # They have nothing to do with the order of events, and must not wait for those that do.
        return await asyncio.get_running_loop().run_in_executor(self._beside, self._aside, work)

    def _aside(self, work: Work) -> LeaseRow | None:
        if not isinstance(work, LeaseAsked):
            assert not isinstance(work, AppendAsked)
            self._rows.rows(SQL["move_cursor"], (work.name, work.position))
            return None
        if work.ttl_s <= 0:
            self._rows.rows(SQL["drop_lease"], (work.name, work.holder))
            return None
        rows = self._rows.rows(SQL["take_lease"], (work.name, work.holder, work.ttl_s))
        return LeaseRow(*rows[0]) if rows else None


def _stored(connection: Connection, txs: Sequence[StoredTransaction]) -> list[Outcome]:
    """One call when each stream is where its first transaction expects it; when not, a look and another."""
    batch = Fold(txs)
    last = _call(connection, batch)
    if last is None:
        with connection.transaction():
            connection.execute(SQL["lock"].encode())
            cursor = connection.cursor(binary=True)
            found = cursor.execute(SQL["versions"].encode(), (list(batch.rests),)).fetchall()
            batch = Fold(txs, {row["stream"]: row["coalesce"] for row in found})
            last = _call(connection, batch)
            assert last is not None
    return batch.placed(last)


def _call(connection: Connection, batch: Fold) -> int | None:
    row = connection.cursor(binary=True).execute(SQL["append"].encode(), batch.arguments()).fetchone()
    assert row is not None
    last: int | None = row["ledger_append"]
    return last


def _uuid(originator_id: UUID | str) -> UUID:
    return originator_id if isinstance(originator_id, UUID) else UUID(originator_id)
