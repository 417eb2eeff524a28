"""Read models in SQLite: tables by version, batches of rows, the position in the same transaction."""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contracts.ledger import Recorded
from projections.rows import Projection, Row, Table

TRACKING = "CREATE TABLE IF NOT EXISTS tracking (name TEXT PRIMARY KEY, version INTEGER NOT NULL, pos INTEGER NOT NULL)"


class PositionMoved(Exception):
    """Somebody else has projected meanwhile: read the position again."""


class BatchRows:
    """The rows of one batch: read once, changed in memory, written together."""

    def __init__(self, db: sqlite3.Connection, tables: Iterable[Table], version_of: dict[str, int]) -> None:
        self._db = db
        self._tables = {table.name: table for table in tables}
        self._physical = {name: physical(name, version_of[name]) for name in self._tables}
        self._select = {
            name: f'SELECT * FROM "{self._physical[name]}" WHERE {table.key} = ?'
            for name, table in self._tables.items()
        }
        self._upsert = {name: self._upsert_statement(table) for name, table in self._tables.items()}
        self._cache: dict[str, dict[Any, Row | None]] = {name: {} for name in self._tables}
        self._dirty: dict[str, set[Any]] = {name: set() for name in self._tables}

    def get(self, table: str, key: bytes | int) -> Row | None:
        cache = self._cache[table]
        if key not in cache:
            cursor = self._db.execute(self._select[table], (key,))
            found = cursor.fetchone()
            columns = self._tables[table].columns
            cache[key] = None if found is None else dict(zip(columns, found, strict=True))
        return cache[key]

    def put(self, table: str, row: Row) -> None:
        key = row[self._tables[table].key]
        self._cache[table][key] = row
        self._dirty[table].add(key)

    def delete(self, table: str, key: bytes | int) -> None:
        self._cache[table][key] = None
        self._dirty[table].add(key)

    def delete_where(self, table: str, column: str, value: bytes | int) -> None:
        key = self._tables[table].key
        for row in list(self._cache[table].values()):
            if row is not None and row[column] == value:
                self.delete(table, row[key])
        query = f'SELECT {key} FROM "{self._physical[table]}" WHERE {column} = ?'
        for (stored,) in self._db.execute(query, (value,)).fetchall():
            self.delete(table, stored)

    def flush(self) -> None:
        """Write what changed."""
        for name, keys in self._dirty.items():
            rows = [row for key in keys if (row := self._cache[name][key]) is not None]
            gone = [(key,) for key in keys if self._cache[name][key] is None]
            if gone:
                statement = f'DELETE FROM "{self._physical[name]}" WHERE {self._tables[name].key} = ?'
                self._db.executemany(statement, gone)
            if rows:
                columns = tuple(self._tables[name].columns)
                values = [tuple(row[column] for column in columns) for row in rows]
                self._db.executemany(self._upsert[name], values)

    def _upsert_statement(self, table: Table) -> str:
        marks = ",".join("?" * len(table.columns))
        return f'INSERT OR REPLACE INTO "{self._physical[table.name]}" VALUES ({marks})'


class ViewStore:
    """The database of the read models. Used by one thread at a time."""

    def __init__(self, path: Path, projections: Sequence[Projection]) -> None:
        self._projections = {projection.NAME: projection for projection in projections}
        self._version_of = {
            table.name: projection.VERSION for projection in projections for table in projection.TABLES
        }
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self.db.execute("PRAGMA journal_mode=WAL")
        # A lost tail is projected again: position and rows are lost together.
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.execute(TRACKING)

    def close(self) -> None:
        """Close the database; twice is harmless."""
        self.db.close()

    def prepare(self, head: int) -> dict[str, int]:
        """Make what is missing; name -> position from which each read model goes on (0 = to be built).

        One whose version is newer than the stored one is built beside it, until `swap`.
        """
        positions: dict[str, int] = {}
        for projection in self._projections.values():
            row = self._tracked(projection.NAME)
            if row is not None and row[1] > head:
                # The rows are about another log, or about events that this log has lost.
                self._drop(projection, row[0])
                row = None
            if row is None:
                self._make(projection)
                self._track(projection, 0)
                self._show(projection)
                positions[projection.NAME] = 0
            elif row[0] != projection.VERSION:
                self._make(projection)
                positions[projection.NAME] = 0
            else:
                positions[projection.NAME] = row[1]
        return positions

    def apply(self, names: Sequence[str], events: Sequence[Recorded], previous: int) -> None:
        """Project a batch, rows and positions in one transaction. Raises PositionMoved."""
        chosen = [self._projections[name] for name in names]
        tables = [table for projection in chosen for table in projection.TABLES]
        self.db.execute("BEGIN IMMEDIATE")
        try:
            rows = BatchRows(self.db, tables, self._version_of)
            for projection in chosen:
                apply = projection.apply
                for recorded in events:
                    apply(rows, recorded)
            rows.flush()
            for projection in chosen:
                self._advance(projection, previous, events[-1].position)
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    def build(self, name: str, batches: Iterable[Sequence[Recorded]]) -> int:
        """Fill the tables of a version that is not live yet; the position that it has reached."""
        projection, position = self._projections[name], 0
        for events in batches:
            self.db.execute("BEGIN IMMEDIATE")
            rows = BatchRows(self.db, projection.TABLES, self._version_of)
            for recorded in events:
                projection.apply(rows, recorded)
            rows.flush()
            self.db.execute("COMMIT")
            position = events[-1].position
        return position

    def swap(self, name: str, position: int) -> None:
        """Let the new version be the live one, and remove the old one."""
        projection, row = self._projections[name], self._tracked(name)
        self.db.execute("BEGIN IMMEDIATE")
        self._track(projection, position)
        self._show(projection)
        if row is not None and row[0] != projection.VERSION:
            self._drop(projection, row[0])
        self.db.execute("COMMIT")

    def empty(self, name: str) -> None:
        """Remove the rows and the position of a read model; `prepare` begins it anew."""
        row = self._tracked(name)
        if row is not None:
            self._drop(self._projections[name], row[0])

    def is_live(self, name: str) -> bool:
        """Whether the tables of today's version are the ones that are shown."""
        row = self._tracked(name)
        return row is not None and row[0] == self._projections[name].VERSION

    def _tracked(self, name: str) -> tuple[int, int] | None:
        row: tuple[int, int] | None = self.db.execute(
            "SELECT version, pos FROM tracking WHERE name = ?", (name,)
        ).fetchone()
        return row

    def _track(self, projection: Projection, position: int) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO tracking VALUES (?, ?, ?)",
            (projection.NAME, projection.VERSION, position),
        )

    def _advance(self, projection: Projection, previous: int, position: int) -> None:
        cursor = self.db.execute(
            "UPDATE tracking SET pos = ? WHERE name = ? AND version = ? AND pos = ?",
            (position, projection.NAME, projection.VERSION, previous),
        )
        if cursor.rowcount != 1:
            raise PositionMoved(projection.NAME)

    def _make(self, projection: Projection) -> None:
        for table in projection.TABLES:
            name = physical(table.name, projection.VERSION)
            self.db.execute(f'DROP TABLE IF EXISTS "{name}"')
            columns = ", ".join(
                f'"{column}" {kind}{" PRIMARY KEY" if column == table.key else ""}'
                for column, kind in table.columns.items()
            )
            self.db.execute(f'CREATE TABLE "{name}" ({columns}){" WITHOUT ROWID" if table.rowless else ""}')
            for n, index in enumerate(table.indexes):
                self.db.execute(f'CREATE INDEX "{name}_{n}" ON "{name}" {index}')

    def _show(self, projection: Projection) -> None:
        for table in projection.TABLES:
            self.db.execute(f'DROP VIEW IF EXISTS "{table.name}"')
            source = physical(table.name, projection.VERSION)
            self.db.execute(f'CREATE VIEW "{table.name}" AS SELECT * FROM "{source}"')

    def _drop(self, projection: Projection, version: int) -> None:
        for table in projection.TABLES:
            if version == projection.VERSION:
                self.db.execute(f'DROP VIEW IF EXISTS "{table.name}"')
            self.db.execute(f'DROP TABLE IF EXISTS "{physical(table.name, version)}"')
        self.db.execute("DELETE FROM tracking WHERE name = ? AND version = ?", (projection.NAME, version))


def physical(table: str, version: int) -> str:
    """The name of a table of one version."""
    return f"{table}__v{version}"
