"""The recorder of `eventsourcing` on our table: positions that are never reused, ids of 16 bytes.

The library's own tools (repositories, exports, its transcoding mapper) work on a ledger through it. The hot
paths of the log go to the same table directly.
"""

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Notification, StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteCursor, SQLiteDatastore

from services.kit.mendable import Mendable, naming

SCHEMA_VERSION = 1
COLUMNS = "originator_id, originator_version, topic, state"
TABLES = (
    # AUTOINCREMENT: a position is never given out twice, even after rows were archived.
    "CREATE TABLE IF NOT EXISTS stored_events (notification_id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " originator_id BLOB NOT NULL, originator_version INTEGER NOT NULL, topic TEXT NOT NULL,"
    " state BLOB NOT NULL, UNIQUE (originator_id, originator_version))",
    "CREATE TABLE IF NOT EXISTS blobs (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until REAL NOT NULL)"
    " WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS cursors (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID",
)


class ForeignLedger(Mendable):
    """The file is no ledger of this version; opening it could harm it."""


class LedgerRecorder(SQLiteApplicationRecorder):
    """The library's application recorder on our table."""

    def construct_create_table_statements(self) -> list[str]:
        return list(TABLES)

    def _insert_events(
        self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], **_: Any
    ) -> Sequence[int] | None:
        positions = []
        for event in stored_events:
            assert isinstance(event.originator_id, UUID)
            row = (event.originator_id.bytes, event.originator_version, event.topic, event.state)
            c.execute(f"INSERT INTO stored_events ({COLUMNS}) VALUES (?,?,?,?)", row)
            positions.append(c.lastrowid)
        return positions

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        assert isinstance(originator_id, UUID)
        query = (
            f"SELECT {COLUMNS} FROM stored_events WHERE originator_id = ?"
            " AND originator_version > ? AND originator_version <= ?"
            f" ORDER BY originator_version {'DESC' if desc else 'ASC'} LIMIT ?"
        )
        params = (
            originator_id.bytes,
            gt or 0,
            1 << 62 if lte is None else lte,
            -1 if limit is None else limit,
        )
        with self.datastore.transaction(commit=False) as c:
            c.execute(query, params)
            return [StoredEvent(UUID(bytes=row[0]), row[1], row[2], row[3]) for row in c.fetchall()]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        query = (
            f"SELECT notification_id, {COLUMNS} FROM stored_events"
            f" WHERE notification_id {'>=' if inclusive_of_start else '>'} ? AND notification_id <= ?"
        )
        params: list[Any] = [start or 0, 1 << 62 if stop is None else stop]
        if topics:
            query += f" AND topic IN ({','.join('?' * len(topics))})"
            params += topics
        with self.datastore.transaction(commit=False) as c:
            c.execute(query + " ORDER BY notification_id LIMIT ?", [*params, limit])
            return [Notification(UUID(bytes=r[1]), r[2], r[3], r[4], r[0]) for r in c.fetchall()]


def open_writer(path: Path) -> sqlite3.Connection:
    """The one writing connection, tables made, durable at each commit. Raises ForeignLedger."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        with naming(path):
            _lay_out(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _lay_out(path: Path, connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise ForeignLedger(f"{path} was written by a newer version (schema {version}); update the server")
    connection.execute("PRAGMA journal_mode=WAL")
    # What was acknowledged is on the disk, whatever happens to the machine.
    connection.execute("PRAGMA synchronous=FULL")
    for statement in TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def library_recorder(path: Path) -> LedgerRecorder:
    """The ledger through the library's interface; the caller closes `recorder.datastore`."""
    return LedgerRecorder(SQLiteDatastore(str(path)))
