"""Read models in a file of SQLite."""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from projections.rows import Table
from services.kit.readers import connected
from services.projector.database import MISSING, RowChanges, Stored, Values

TYPES = {
    "id": "BLOB",
    "bytes": "BLOB",
    "text": "TEXT",
    "json": "TEXT",
    "instant": "INTEGER",
    "second": "INTEGER",
    "int": "INTEGER",
    "flag": "INTEGER",
}
LAYOUT = 1
"""Of the tables below; a file of another one is thrown away and built again."""
COPY = "(name TEXT PRIMARY KEY, version INTEGER NOT NULL, generation INTEGER NOT NULL, pos INTEGER NOT NULL, mark TEXT NOT NULL)"
TABLES = (
    f"CREATE TABLE IF NOT EXISTS tracking {COPY}",  # what is shown
    f"CREATE TABLE IF NOT EXISTS building {COPY}",  # what is built beside it
    # A number of a table is never given out twice: one that is being emptied may still have it.
    "CREATE TABLE IF NOT EXISTS generations (id INTEGER PRIMARY KEY AUTOINCREMENT)",
)
COPIES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB '*__v[0-9]*' ORDER BY name"
STATEMENTS = 512
"""Kept compiled: of each table one for each set of columns that changes together."""
WAL_PAGES = 4000
"""16 MiB: each commit touches many indexes, and their pages are copied into the file once for many commits."""
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class OtherLayout(sqlite3.DatabaseError):
    """The file was made by another version of this module."""


class SqliteHome:
    """A file, which can be built again from the log."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def opened(self) -> "SqliteDatabase":
        """Raises sqlite3.Error, OtherLayout."""
        return SqliteDatabase(self._path)

    @contextmanager
    def picture(self) -> Iterator[sqlite3.Connection]:
        """One transaction that reads."""
        connection = connected(self._path)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()

    def is_damage(self, exc: Exception) -> bool:
        """Whether SQLite says that the file is no database, or a broken one."""
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        return isinstance(exc, OtherLayout) or (isinstance(exc, sqlite3.DatabaseError) and code in DAMAGE)

    def remove(self) -> None:
        """Remove the file with what lies beside it."""
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)


class SqliteDatabase:
    """The one connection that writes the file."""

    learns = False  # a read costs less than the second look

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self.connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=STATEMENTS
        )
        self.execute = self.connection.execute
        try:
            self._lay_out()
        except BaseException:
            self.connection.close()
            raise

    def _lay_out(self) -> None:
        self.execute("PRAGMA journal_mode=WAL")
        # A lost tail is projected again: position and rows are lost together.
        self.execute("PRAGMA synchronous=NORMAL")
        self.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        layout = self.execute("PRAGMA user_version").fetchone()[0]
        is_new = not self.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        if layout != LAYOUT and not is_new:
            raise OtherLayout(f"layout {layout}")
        for statement in TABLES:
            self.execute(statement)
        self.execute(f"PRAGMA user_version={LAYOUT}")

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[None]:
        """Nobody else writes meanwhile, whether asked for or not."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.execute("ROLLBACK")
            raise

    def generation(self) -> int:
        """Of a sequence that forgets nothing."""
        return self.execute("INSERT INTO generations DEFAULT VALUES").lastrowid or 0

    def create(self, stored: Stored) -> None:
        """Make an empty table with its indexes."""
        table, name = stored.table, stored.physical
        columns = ", ".join(_declared(table, column) for column in table.columns)
        self.execute(f'CREATE TABLE "{name}" ({columns}){" WITHOUT ROWID" if table.rowless else ""}')
        for n, index in enumerate(table.indexes):
            self.execute(f'CREATE INDEX "{name}_{n}" ON "{name}" {index}')

    def names(self) -> list[str]:
        """Of the tables of copies."""
        return [name for (name,) in self.execute(COPIES).fetchall()]

    def row(self, stored: Stored, key: Any) -> Values | None:
        """The row of that key."""
        found: Values | None = self.execute(_select(stored.physical, stored.table.key), (key,)).fetchone()
        return found

    def rows(self, wanted: Sequence[tuple[Stored, list[Any]]]) -> Iterable[tuple[Stored, list[Values]]]:
        """One by one."""
        return [(stored, [row for key in keys if (row := self.row(stored, key))]) for stored, keys in wanted]

    def write(self, changes: Sequence[tuple[Stored, RowChanges]]) -> None:
        """A statement for each set of columns."""
        many = self.connection.executemany
        for stored, changed in changes:
            name, key = f'"{stored.physical}"', stored.table.key
            if changed.put:
                marks = ",".join("?" * len(stored.columns))
                many(f"INSERT OR REPLACE INTO {name} VALUES ({marks})", changed.put)
            for numbers, rows in changed.update.items():
                # By column: an index without any of these stays as it is, and there are many indexes.
                sets = ", ".join(f'"{stored.columns[n]}" = ?' for n in numbers)
                many(f"UPDATE {name} SET {sets} WHERE {key} = ?", rows)
            if changed.gone:
                many(f"DELETE FROM {name} WHERE {key} = ?", [(value,) for value in changed.gone])

    def close(self) -> None:
        """Close the connection; twice is harmless."""
        self.connection.close()


@lru_cache(maxsize=256)
def _select(physical: str, key: str) -> str:
    return f'SELECT * FROM "{physical}" WHERE {key} = ?'


def _declared(table: Table, column: str) -> str:
    kind = table.columns[column]
    if column == table.key:
        return f'"{column}" {TYPES[kind]} PRIMARY KEY'
    return f'"{column}" {TYPES[kind.removesuffix(MISSING)]}{"" if kind.endswith(MISSING) else " NOT NULL"}'
