"""Read models in SQLite: tables by version, batches of rows, the position in the same transaction."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.persistence import Notification

from contracts.ledger import Recorded
from projections.rows import Projection, Row, Table, micros

LAYOUT = 1
"""Of the tables below; a file of another one is thrown away and built again."""
COPY = "(name TEXT PRIMARY KEY, version INTEGER NOT NULL, generation INTEGER NOT NULL, pos INTEGER NOT NULL, mark TEXT NOT NULL)"
TABLES = (
    f"CREATE TABLE IF NOT EXISTS tracking {COPY}",  # what is shown
    f"CREATE TABLE IF NOT EXISTS building {COPY}",  # what is built beside it
    # A number of a table is never given out twice: one that is being emptied may still have it.
    "CREATE TABLE IF NOT EXISTS generations (id INTEGER PRIMARY KEY AUTOINCREMENT)",
)
ORPHANS = """
SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB '*__v[0-9]*' ORDER BY name
"""
STATEMENTS = 512
"""Kept compiled: of each table one for each set of columns that changes together."""
WAL_PAGES = 4000
"""16 MiB: each commit touches many indexes, and their pages are copied into the file once for many commits."""
SWEPT_AT_ONCE = 2000
"""Rows of a former table that are removed in one transaction: the live ones must not wait."""


class OtherLayout(sqlite3.DatabaseError):
    """The file was made by another version of this module."""


class PositionMoved(Exception):
    """Somebody else has projected meanwhile: read the position again."""


class Statements:
    """The SQL of one table of a copy."""

    def __init__(self, table: Table, physical: str) -> None:
        self.table, self.columns = table, tuple(table.columns)
        marks = ",".join("?" * len(self.columns))
        self._physical = physical
        self.select = f'SELECT * FROM "{physical}" WHERE {table.key} = ?'
        self.replace = f'INSERT OR REPLACE INTO "{physical}" VALUES ({marks})'
        self.delete = f'DELETE FROM "{physical}" WHERE {table.key} = ?'

    def update(self, changed: tuple[int, ...]) -> str:
        """Set these columns, by number, of a row by its key."""
        sets = ", ".join(f'"{self.columns[n]}" = ?' for n in changed)
        return f'UPDATE "{self._physical}" SET {sets} WHERE {self.table.key} = ?'

    def keys(self, column: str) -> str:
        """The keys of the rows with a value in that column."""
        return f'SELECT {self.table.key} FROM "{self._physical}" WHERE {column} = ?'


class BatchRows:
    """The rows of one batch: read once, changed in memory, written together."""

    def __init__(self, db: sqlite3.Connection, statements: dict[str, Statements]) -> None:
        self._db, self._statements = db, statements
        self._cache: dict[str, dict[Any, Row | None]] = {name: {} for name in statements}
        self._read: dict[str, dict[Any, tuple[Any, ...]]] = {name: {} for name in statements}
        self._dirty: dict[str, set[Any]] = {name: set() for name in statements}

    def get(self, table: str, key: bytes | int) -> Row | None:
        cache = self._cache[table]
        if key not in cache:
            statements = self._statements[table]
            found = self._db.execute(statements.select, (key,)).fetchone()
            cache[key] = None
            if found is not None:
                self._read[table][key] = found
                cache[key] = dict(zip(statements.columns, found, strict=True))
        return cache[key]

    def put(self, table: str, row: Row) -> None:
        key = row[self._statements[table].table.key]
        self._cache[table][key] = row
        self._dirty[table].add(key)

    def delete(self, table: str, key: bytes | int) -> None:
        self._cache[table][key] = None
        self._dirty[table].add(key)

    def delete_where(self, table: str, column: str, value: bytes | int) -> None:
        statements = self._statements[table]
        for row in list(self._cache[table].values()):
            if row is not None and row[column] == value:
                self.delete(table, row[statements.table.key])
        for (stored,) in self._db.execute(statements.keys(column), (value,)).fetchall():
            self.delete(table, stored)

    def flush(self) -> None:
        """Write what changed."""
        for name, keys in self._dirty.items():
            if keys:
                self._write(self._statements[name], self._cache[name], self._read[name], keys)

    def _write(
        self,
        statements: Statements,
        cache: dict[Any, Row | None],
        read: dict[Any, tuple[Any, ...]],
        keys: set[Any],
    ) -> None:
        work: dict[str, list[tuple[Any, ...]]] = {}
        for key in keys:
            row = cache[key]
            if row is None:
                work.setdefault(statements.delete, []).append((key,))
                continue
            values = tuple([row[column] for column in statements.columns])
            former = read.get(key)
            if former is None:
                work.setdefault(statements.replace, []).append(values)
            elif changed := tuple([n for n, value in enumerate(values) if value != former[n]]):
                # By column: an index without any of these stays as it is, and there are many indexes.
                sets = (*(values[n] for n in changed), key)
                work.setdefault(statements.update(changed), []).append(sets)
        for statement, rows in work.items():
            self._db.executemany(statement, rows)


class _Copy(msgspec.Struct, frozen=True):
    """One set of tables of a read model, and how far it is."""

    name: str
    version: int
    generation: int
    position: int = 0
    mark: str = ""

    def physical(self, table: Table) -> str:
        """The name of its table."""
        return physical(table.name, self.version, self.generation)


class ViewStore:
    """The database of the read models. Used by one thread at a time.

    A read model is shown by views of the tables' names over the tables of one copy. Another copy is built beside
    it, and takes its place in one transaction, so that a reader meets either the one or the other.
    """

    def __init__(self, path: Path, projections: Sequence[Projection]) -> None:
        self._projections = {projection.NAME: projection for projection in projections}
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._statements: dict[str, Statements] = {}
        self.db = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=STATEMENTS
        )
        try:
            self._lay_out()
        except BaseException:
            self.db.close()
            raise

    def _lay_out(self) -> None:
        self.db.execute("PRAGMA journal_mode=WAL")
        # A lost tail is projected again: position and rows are lost together.
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        layout = self.db.execute("PRAGMA user_version").fetchone()[0]
        is_new = not self.db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        if layout != LAYOUT and not is_new:
            raise OtherLayout(f"layout {layout}")
        for statement in TABLES:
            self.db.execute(statement)
        self.db.execute(f"PRAGMA user_version={LAYOUT}")

    def close(self) -> None:
        """Close the database; twice is harmless."""
        self.db.close()

    def prepare(self, head: int, mark_at: Callable[[int], str] | None = None) -> dict[str, int]:
        """Make what is missing; name -> position from which each read model goes on (0 = to be built).

        One whose version is not the stored one is to be built beside it. What an earlier process left half
        built is given up. `mark_at` tells which event is at a position: rows about other events than the log's
        (a restored ledger, a folder that was mixed up) are thrown away.
        """
        self.discard()
        for projection in self._projections.values():
            copy = self._copies("tracking").get(projection.NAME)
            if (
                copy is None
                or copy.position > head
                or (mark_at and copy.mark not in ("", mark_at(copy.position)))
            ):
                with self._transaction():
                    self._show(self._made(projection))
        return {name: self.positions().get(name, 0) for name in self._projections}

    def positions(self) -> dict[str, int]:
        """Name -> position of the read models that are shown in today's version."""
        return {
            name: copy.position
            for name, copy in self._copies("tracking").items()
            if copy.version == self._projections[name].VERSION
        }

    def apply(self, names: Sequence[str], events: Sequence[Recorded], previous: int) -> None:
        """Project a batch, rows and positions in one transaction. Raises PositionMoved."""
        self._apply("tracking", names, events, previous)

    # --- beside the live ones -----------------------------------------------------------------------------

    def begin(self, names: Sequence[str]) -> None:
        """Make empty tables beside those that are shown."""
        with self._transaction():
            for name in names:
                self._put("building", self._made(self._projections[name]))

    def building(self) -> dict[str, int]:
        """Name -> position of what is built beside."""
        return {name: copy.position for name, copy in self._copies("building").items()}

    def fill(self, names: Sequence[str], events: Sequence[Recorded], previous: int) -> None:
        """Project a batch into the tables beside. Raises PositionMoved."""
        self._apply("building", names, events, previous)

    def swap(self, names: Sequence[str]) -> None:
        """Show what was built. Raises PositionMoved when what is shown is further: nobody is taken back."""
        with self._transaction():
            built, shown = self._copies("building"), self._copies("tracking")
            for name in names:
                if name not in built or (
                    name in self.positions() and built[name].position < shown[name].position
                ):
                    raise PositionMoved(name)
                self._show(built[name])
                self.db.execute("DELETE FROM building WHERE name = ?", (name,))

    def discard(self) -> None:
        """Give up what is built beside."""
        self.db.execute("DELETE FROM building")

    def sweep(self) -> bool:
        """Remove a portion of the tables that nobody shows or builds any more; False when there are none."""
        kept = {table for which in ("tracking", "building") for table in self._physical(which).values()}
        keys = {
            table.name: table.key for projection in self._projections.values() for table in projection.TABLES
        }
        for (name,) in self.db.execute(ORPHANS).fetchall():
            if name not in kept and (key := keys.get(name.rpartition("__v")[0])):
                some = f'SELECT {key} FROM "{name}" LIMIT {SWEPT_AT_ONCE}'
                if self.db.execute(f'DELETE FROM "{name}" WHERE {key} IN ({some})').rowcount < SWEPT_AT_ONCE:
                    self.db.execute(f'DROP TABLE "{name}"')
                return True
        return False

    # --- how it is stored ---------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    def _apply(self, which: str, names: Sequence[str], events: Sequence[Recorded], previous: int) -> None:
        chosen = [self._projections[name] for name in names]
        last = events[-1]
        with self._transaction():
            rows = BatchRows(self.db, self._statements_of(which, chosen))
            for projection in chosen:
                apply = projection.apply
                for recorded in events:
                    apply(rows, recorded)
            rows.flush()
            for projection in chosen:
                cursor = self.db.execute(
                    f"UPDATE {which} SET pos = ?, mark = ? WHERE name = ? AND version = ? AND pos = ?",
                    (last.position, mark_of(last), projection.NAME, projection.VERSION, previous),
                )
                if cursor.rowcount != 1:
                    raise PositionMoved(projection.NAME)

    def _statements_of(self, which: str, chosen: Sequence[Projection]) -> dict[str, Statements]:
        """By the tables' names; each physical table's are made once."""
        copies = self._copies(which)
        found: dict[str, Statements] = {}
        for projection in chosen:
            for table in projection.TABLES:
                name = copies[projection.NAME].physical(table)
                if name not in self._statements:
                    self._statements[name] = Statements(table, name)
                found[table.name] = self._statements[name]
        return found

    def _copies(self, which: str) -> dict[str, _Copy]:
        rows = self.db.execute(f"SELECT name, version, generation, pos, mark FROM {which}").fetchall()
        return {row[0]: _Copy(*row) for row in rows if row[0] in self._projections}

    def _physical(self, which: str) -> dict[str, str]:
        return {
            table.name: copy.physical(table)
            for name, copy in self._copies(which).items()
            for table in self._projections[name].TABLES
        }

    def _put(self, which: str, copy: _Copy) -> None:
        self.db.execute(
            f"INSERT OR REPLACE INTO {which} VALUES (?, ?, ?, ?, ?)", msgspec.structs.astuple(copy)
        )

    def _made(self, projection: Projection) -> _Copy:
        generation = self.db.execute("INSERT INTO generations DEFAULT VALUES").lastrowid or 0
        copy = _Copy(projection.NAME, projection.VERSION, generation)
        for table in projection.TABLES:
            name = copy.physical(table)
            columns = ", ".join(
                f'"{column}" {kind}{" PRIMARY KEY" if column == table.key else ""}'
                for column, kind in table.columns.items()
            )
            self.db.execute(f'CREATE TABLE "{name}" ({columns}){" WITHOUT ROWID" if table.rowless else ""}')
            for n, index in enumerate(table.indexes):
                self.db.execute(f'CREATE INDEX "{name}_{n}" ON "{name}" {index}')
        return copy

    def _show(self, copy: _Copy) -> None:
        self._put("tracking", copy)
        for table in self._projections[copy.name].TABLES:
            self.db.execute(f'DROP VIEW IF EXISTS "{table.name}"')
            self.db.execute(f'CREATE VIEW "{table.name}" AS SELECT * FROM "{copy.physical(table)}"')


class _At(msgspec.Struct):
    """Of a stored event, when it was."""

    at: datetime


def mark_of(recorded: Recorded) -> str:
    """Which event it is. Not the log's own name: a restored backup has that too, and goes on with other events."""
    return _mark(recorded.stream_id, recorded.version, recorded.meta.at)


def mark_of_raw(raw: Notification) -> str:
    """The same of an undecoded one."""
    at = msgspec.json.decode(raw.state, type=_At).at
    return _mark(UUID(str(raw.originator_id)), raw.originator_version, at)


def _mark(stream_id: UUID, version: int, at: datetime) -> str:
    return f"{stream_id.hex}:{version}:{micros(at)}"


def physical(table: str, version: int, generation: int) -> str:
    """The name of a table of one copy."""
    return f"{table}__v{version}g{generation}"
