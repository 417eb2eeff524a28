"""The read models built anew beside the live ones, and compared with them."""

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from contracts.ledger import Recorded
from projections.rows import Projection, Table
from services.kit.eventlog import EventLog
from services.projector.catalog import ALL
from services.projector.projector import batches, build, chosen_of, mark_at
from services.projector.store import ViewStore, home_of, physical


class Difference(msgspec.Struct, frozen=True):
    """A row that is not what the log says. `live` or `told` is empty when the row is missing there."""

    table: str
    key: str
    live: str
    told: str

    def __str__(self) -> str:
        return f"{self.table} {self.key}: live {self.live or 'missing'}, ledger {self.told or 'missing'}"


def rebuild(log: EventLog, place: Path | str, names: Sequence[str] = ()) -> Iterator[int]:
    """Build read models anew beside the present ones, and swap; the positions on the way.

    Only while no server has the folder: the projector alone owns the read models. A damaged file is made anew.
    Raises ValueError.
    """
    chosen = chosen_of(ALL, names)
    try:
        yield from _rebuilt(log, place, chosen)
    except sqlite3.DatabaseError as exc:
        if not home_of(place).is_damage(exc):
            raise
        home_of(place).remove()
        yield from _rebuilt(log, place, chosen_of(ALL, ()))  # the others were lost with them


def _rebuilt(log: EventLog, place: Path | str, chosen: Sequence[str]) -> Iterator[int]:
    store = ViewStore(place, ALL)
    try:
        store.prepare(log.head(), lambda position: mark_at(log, position))
        yield from build(store, log, chosen)
        while store.sweep():
            pass
    finally:
        store.close()


def as_of(log: EventLog, path: Path, until: int | datetime | None) -> Iterator[int]:
    """Build every read model in a new file as it was at a position or an instant; the positions on the way."""
    store = ViewStore(path, ALL)
    try:
        store.prepare(0)
        position = 0
        for events in _batches(log, until):
            store.apply([p.NAME for p in ALL], events, position)
            position = events[-1].position
            yield position
    finally:
        store.close()


def verify(log: EventLog, place: Path | str) -> list[Difference]:
    """Fold the log into a temporary database and compare it with the live one, row by row."""
    with tempfile.TemporaryDirectory() as folder:
        told_path = Path(folder) / "told.db"
        with home_of(place).picture() as live:
            return [d for p in ALL for d in _compare(log, live, told_path, p)]


def _compare(log: EventLog, live: Any, told_path: Path, projection: Projection) -> Iterator[Difference]:
    query = "SELECT version, generation, pos FROM tracking WHERE name = ?"
    version, generation, until = live.execute(query, (projection.NAME,)).fetchone() or (0, 0, 0)
    if version != projection.VERSION:
        yield Difference(projection.NAME, "version", str(version), str(projection.VERSION))
        return
    store, position = ViewStore(told_path, [projection]), 0
    try:
        store.prepare(0)
        for events in batches(log, 0, until):
            store.apply([projection.NAME], events, position)
            position = events[-1].position
        for table in projection.TABLES:
            yield from _rows(live, store.db, table, physical(table.name, version, generation))
    finally:
        store.close()


def _rows(live: Any, told: Any, table: Table, shown: str) -> Iterator[Difference]:
    query = 'SELECT * FROM "{}" ORDER BY ' + table.key
    at = list(table.columns).index(table.key)
    theirs = {row[at]: row for row in live.execute(query.format(shown)).fetchall()}
    for row in told.execute(query.format(table.name)).fetchall():
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
