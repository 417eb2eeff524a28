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
from services.kit.eventlog import LeaseRow, LogUnavailable, WrongExpectedVersion, rows
from services.kit.eventlog.fold import Fold
from services.kit.eventlog.log import RecordedLog
from services.kit.eventlog.recorder import Outcome, WorkFailed
from services.kit.eventlog.rows import RowReader
from services.kit.eventlog.works import AppendAsked, LeaseAsked, Work
from services.kit.postgres import Connection, Schema, Sessions, check, text
from services.kit.queries import named

HERE = Path(__file__).parent
SQL = rows.SQL | named(HERE / "postgres_queries.sql")
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


class PostgresRecorder(RowReader, PostgresApplicationRecorder):
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

    def select_newest(self, originator_ids: Iterable[UUID]) -> list[Notification]:
        return self.notifications("newest", (self.many(originator_ids),))

    def clock(self) -> datetime:
        found: datetime = self.rows("clock")[0][0]
        return found

    def close_readers(self) -> None:
        self.datastore.close()

    def rows(self, name: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """On this thread's connection. Raises LogUnavailable."""
        try:
            return self.datastore.sessions.fetch(SQL[name], params)
        except psycopg.Error as exc:
            raise LogUnavailable(f"the ledger did not answer: {exc}") from exc

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
            self._rows.rows("move_cursor", (work.name, work.position))
            return None
        if work.ttl_s <= 0:
            self._rows.rows("drop_lease", (work.name, work.holder))
            return None
        rows = self._rows.rows("take_lease", (work.name, work.holder, work.ttl_s))
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
