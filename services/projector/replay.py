"""The read models built anew beside the live ones, and compared with them."""

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from contracts.ledger import Recorded
from projections.rows import Projection, Table
from services.kit.eventlog import EventLog
from services.projector.catalog import ALL
from services.projector.projector import batches
from services.projector.store import ViewStore, physical


class Difference(msgspec.Struct, frozen=True):
    """A row that is not what the log says. `live` or `told` is empty when the row is missing there."""

    table: str
    key: str
    live: str
    told: str

    def __str__(self) -> str:
        return f"{self.table} {self.key}: live {self.live or 'missing'}, ledger {self.told or 'missing'}"


def rebuild(
    log: EventLog, path: Path, names: Sequence[str] | None = None, until: int | datetime | None = None
) -> int:
    """Build read models anew in place; the position that they have reached.

    A running server goes on from there by itself. `until` stops at a position or an instant: the system as it was.
    """
    chosen = [p for p in ALL if names is None or p.NAME in names]
    unknown = set(names or ()) - {p.NAME for p in ALL}
    if unknown:
        raise ValueError(f"unknown read models: {', '.join(sorted(unknown))}")
    store = ViewStore(path, chosen)
    try:
        for projection in chosen:
            store.empty(projection.NAME)
        store.prepare(log.head())
        position = 0
        for events in _batches(log, until):
            store.apply([p.NAME for p in chosen], events, position)
            position = events[-1].position
        return position
    finally:
        store.close()


def verify(log: EventLog, path: Path) -> list[Difference]:
    """Fold the log into a temporary database and compare it with the live one, row by row."""
    with tempfile.TemporaryDirectory() as folder:
        told_path = Path(folder) / "told.db"
        live = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            live.execute("BEGIN")  # one picture, also while the server goes on
            return [d for p in ALL for d in _compare(log, live, told_path, p)]
        finally:
            live.close()


def _compare(
    log: EventLog, live: sqlite3.Connection, told_path: Path, projection: Projection
) -> Iterator[Difference]:
    row = live.execute("SELECT pos FROM tracking WHERE name = ?", (projection.NAME,)).fetchone()
    until = 0 if row is None else row[0]
    store = ViewStore(told_path, [projection])
    try:
        store.prepare(log.head())
        store.build(projection.NAME, batches(log, 0, until))
        for table in projection.TABLES:
            yield from _rows(live, store.db, table, projection.VERSION)
    finally:
        store.close()


def _rows(
    live: sqlite3.Connection, told: sqlite3.Connection, table: Table, version: int
) -> Iterator[Difference]:
    query = f'SELECT * FROM "{physical(table.name, version)}" ORDER BY {table.key}'
    at = list(table.columns).index(table.key)
    theirs = {row[at]: row for row in live.execute(query)}
    for row in told.execute(query):
        mine = theirs.pop(row[at], None)
        if mine != row:
            yield Difference(table.name, _key(row[at]), "" if mine is None else repr(mine), repr(row))
    for key, row in theirs.items():
        yield Difference(table.name, _key(key), repr(row), "")


def _key(value: bytes | int) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _batches(log: EventLog, until: int | datetime | None) -> Iterator[list[Recorded]]:
    if not isinstance(until, datetime):
        yield from batches(log, 0, until)
        return
    for events in batches(log, 0):
        kept = [event for event in events if event.meta.at <= until]
        if kept:
            yield kept
        if len(kept) < len(events):
            return
