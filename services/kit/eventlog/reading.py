"""Reads of a ledger file: synchronous, on connections that can't write, from any thread and process."""

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from contracts.codec import EventCodec
from contracts.ledger import RawRecorded, Recorded
from services.kit.eventlog import LeaseRow

ROW = "notification_id, originator_id, originator_version, topic, state"
STREAM = (
    f"SELECT {ROW} FROM stored_events WHERE originator_id = ? AND originator_version > ?"
    " ORDER BY originator_version"
)
RANGE = (
    f"SELECT {ROW} FROM stored_events WHERE notification_id > ? AND notification_id <= ?"
    " ORDER BY notification_id LIMIT ?"
)
TOPICS = (
    f"SELECT {ROW} FROM stored_events WHERE notification_id > ? AND notification_id <= ?"
    " AND topic >= ? AND topic < ? ORDER BY notification_id LIMIT ?"
)
END = (1 << 62) - 1
PARAMETERS = 500
"""Ids per query; SQLite allows many more, but a statement per size is cached."""


class SqliteReader:
    """What the EventLog Protocol asks of reading."""

    def __init__(self, path: Path, codec: EventCodec) -> None:
        self._path = path
        self._codec = codec
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    def stream(self, stream_id: UUID, after_version: int = 0) -> list[Recorded]:
        return self._decoded(self._rows(STREAM, (stream_id.bytes, after_version)))

    def newest(self, stream_ids: Iterable[UUID]) -> dict[UUID, Recorded]:
        found: dict[UUID, Recorded] = {}
        for part in _parts(stream_ids):
            marks = ",".join("?" * len(part))
            # A bare column beside max() comes from the row of the maximum (documented by SQLite).
            query = (
                "SELECT notification_id, originator_id, max(originator_version), topic, state"
                f" FROM stored_events WHERE originator_id IN ({marks}) GROUP BY originator_id"
            )
            for recorded in self._decoded(self._rows(query, [stream.bytes for stream in part])):
                found[recorded.stream_id] = recorded
        return found

    def read(self, after: int, limit: int, until: int | None = None) -> list[Recorded]:
        return self._decoded(self._rows(RANGE, (after, END if until is None else until, limit)))

    def read_topics(self, prefix: str, after: int, until: int, limit: int) -> list[Recorded]:
        return self._decoded(self._rows(TOPICS, (after, until, prefix, prefix + "\x7f", limit)))

    def read_raw(self, after: int, limit: int, until: int | None = None) -> list[RawRecorded]:
        rows = self._rows(RANGE, (after, END if until is None else until, limit))
        return [RawRecorded(row[0], UUID(bytes=row[1]), row[2], row[3], row[4]) for row in rows]

    def at_positions(self, positions: Sequence[int]) -> list[Recorded]:
        found: list[Recorded] = []
        for part in _parts(sorted(positions)):
            marks = ",".join("?" * len(part))
            query = (
                f"SELECT {ROW} FROM stored_events WHERE notification_id IN ({marks}) ORDER BY notification_id"
            )
            found += self._decoded(self._rows(query, part))
        return found

    def head(self) -> int:
        return int(self._rows("SELECT coalesce(max(notification_id), 0) FROM stored_events")[0][0])

    def blob(self, sha256: str) -> bytes | None:
        rows = self._rows("SELECT data FROM blobs WHERE sha256 = ?", (sha256,))
        return bytes(rows[0][0]) if rows else None

    def leases(self, prefix: str) -> list[LeaseRow]:
        query = "SELECT name, holder, until FROM leases WHERE substr(name, 1, ?) = ? ORDER BY name"
        rows = self._rows(query, (len(prefix), prefix))
        return [LeaseRow(name, holder, datetime.fromtimestamp(until, UTC)) for name, holder, until in rows]

    def cursor(self, name: str) -> int:
        rows = self._rows("SELECT position FROM cursors WHERE name = ?", (name,))
        return int(rows[0][0]) if rows else 0

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def close_readers(self) -> None:
        """Close every connection; the next read opens a new one."""
        with self._guard:
            for connection in self._open:
                connection.close()
            self._open.clear()
            self._local = threading.local()

    def _rows(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection().execute(query, params).fetchall()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # Closed by `close_readers` from whichever thread stops us.
            connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=10,
            )
            self._local.connection = connection
            with self._guard:
                self._open.append(connection)
        return connection

    def _decoded(self, rows: list[tuple[Any, ...]]) -> list[Recorded]:
        decode = self._codec.decode
        found = []
        for position, stream_id, version, topic, state in rows:
            meta, body = decode(topic, state)
            found.append(Recorded(position, UUID(bytes=stream_id), version, body.TOPIC, meta, body))
        return found


def _parts(values: Iterable[Any]) -> Iterable[list[Any]]:
    iterator = iter(values)
    while part := list(islice(iterator, PARAMETERS)):
        yield part
