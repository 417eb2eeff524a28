"""Read models in the schema `views` of a PostgreSQL database."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import psycopg

from projections.rows import Table
from services.kit.postgres import Connection, connect
from services.kit.views.postgres import SCHEMA, translated, whole
from services.projector.database import MISSING, RowChanges, Stored, Values

TYPES = {
    "id": "bytea",
    "bytes": "bytea",
    "text": 'text COLLATE "C"',
    "json": 'text COLLATE "C"',
    "instant": "bigint",
    "second": "bigint",
    "int": "bigint",
    "flag": "bigint",
}
TEXTS = ("text", "json")
SESSION = (
    # Rows and position are lost together, and projected again.
    "synchronous_commit=off",
    # All that is asked here is asked by key; a plan that was made for an empty table must not read a full one.
    "enable_seqscan=off",
    "enable_hashjoin=off",
    "enable_mergejoin=off",
    "statement_timeout=60s",
    # A swap waits for whoever reads, and a reader takes ten seconds at most.
    "lock_timeout=15s",
)
COPIES = r"""
SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename ~ '__v\d+g\d+$' ORDER BY tablename
"""


class PostgresHome:
    """A database's schema for the read models; `cronledger migrate` has made it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __str__(self) -> str:
        return f"schema {SCHEMA.name}"

    def opened(self) -> "PostgresDatabase":
        """Raises psycopg.Error, DatabaseProblem."""
        return PostgresDatabase(connect(self._url, SCHEMA.name, *SESSION))

    @contextmanager
    def picture(self) -> Iterator["PostgresDatabase"]:
        """One transaction that reads, of one snapshot."""
        database = PostgresDatabase(connect(self._url, SCHEMA.name, "statement_timeout=0"))
        try:
            database.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield database
        finally:
            database.close()

    def is_damage(self, exc: Exception) -> bool:
        """Never: the server keeps its files."""
        return False

    def remove(self) -> None:
        """Nothing: what the projector does not know it builds beside."""


class PostgresDatabase:
    """A connection that writes them."""

    learns = True

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._cursor = connection.cursor(binary=True)

    def execute(self, query: str, params: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        """One statement; the cursor is the only one, so its rows are to be fetched before the next."""
        return self._cursor.execute(translated(query), params)

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[None]:
        """`alone`: whoever moves a position, or shows another copy, waits."""
        with self.connection.transaction():
            if alone:
                self.execute("LOCK TABLE tracking IN SHARE ROW EXCLUSIVE MODE")
            yield

    def generation(self) -> int:
        """Of a sequence: one that was rolled back is not given again either."""
        return int(self.execute("SELECT nextval('generations')").fetchone()[0])  # type: ignore[index]

    def create(self, stored: Stored) -> None:
        """Make an empty table with its indexes: rows have room to change in their page."""
        table, name = stored.table, stored.physical
        columns = ", ".join(_declared(table, column) for column in table.columns)
        self.execute(f'CREATE TABLE "{name}" ({columns}) WITH (fillfactor = 85)')
        for n, index in enumerate(table.indexes):
            self.execute(f'CREATE INDEX "{name}_{n}" ON "{name}" {_index(table, index)}')

    def names(self) -> list[str]:
        """Of the tables of copies."""
        return [name for (name,) in self.execute(COPIES).fetchall()]

    def row(self, stored: Stored, key: Any) -> Values | None:
        """The row of that key."""
        query = f'SELECT * FROM "{stored.physical}" WHERE {stored.table.key} = ?'
        found: Values | None = self.execute(query, (key,)).fetchone()
        return found

    def rows(self, wanted: Sequence[tuple[Stored, list[Any]]]) -> Iterable[tuple[Stored, list[Values]]]:
        """One statement for a table, and one way to the server and back for all."""
        asked: list[tuple[Stored, psycopg.Cursor[Any]]] = []
        with self.connection.pipeline():
            for stored, keys in wanted:
                cursor = self.connection.cursor(binary=True)
                asked.append((stored, cursor.execute(_select(stored), (keys,))))
            return [(stored, cursor.fetchall()) for stored, cursor in asked]

    def write(self, changes: Sequence[tuple[Stored, RowChanges]]) -> None:
        """One statement for each set of columns, and one way for all."""
        with self.connection.pipeline():
            for stored, changed in changes:
                everything = tuple(range(len(stored.columns)))
                if changed.put:
                    self._cursor.execute(_upsert(stored), _arrays(stored, everything, changed.put))
                for numbers, rows in changed.update.items():
                    key = stored.columns.index(stored.table.key)
                    self._cursor.execute(_update(stored, numbers), _arrays(stored, (*numbers, key), rows))
                if changed.gone:
                    self._cursor.execute(_delete(stored), (changed.gone,))

    def close(self) -> None:
        """Close the connection; twice is harmless."""
        self.connection.close()


def _declared(table: Table, column: str) -> str:
    kind = table.columns[column]
    if column == table.key:
        return f'"{column}" {TYPES[kind]} PRIMARY KEY'
    return f'"{column}" {TYPES[kind.removesuffix(MISSING)]}{"" if kind.endswith(MISSING) else " NOT NULL"}'


def _index(table: Table, index: str) -> str:
    """The index with what may be missing first, as queries have it and as SQLite has it anyway."""
    inner, bracket, condition = index.removeprefix("(").partition(")")
    columns = [column.strip() for column in inner.split(",")]
    ordered = [f"{c} NULLS FIRST" if table.columns[c].endswith(MISSING) else c for c in columns]
    return f"({', '.join(ordered)}{bracket}{condition}"


def _array(stored: Stored, column: str) -> str:
    return f"%b::{TYPES[stored.table.columns[column].removesuffix(MISSING)].partition(' ')[0]}[]"


def _arrays(stored: Stored, numbers: Sequence[int], rows: Sequence[Values]) -> list[list[Any]]:
    """A list for each column. Texts without NUL, which PostgreSQL can't keep."""
    found = [list(values) for values in zip(*rows, strict=True)]
    for values, number in zip(found, numbers, strict=True):
        if stored.table.columns[stored.columns[number]].removesuffix(MISSING) in TEXTS:
            values[:] = [whole(value) for value in values]
    return found


@lru_cache(maxsize=256)
def _select(stored: Stored) -> bytes:
    key = stored.table.key
    return f'SELECT * FROM "{stored.physical}" WHERE {key} = ANY({_array(stored, key)})'.encode()


@lru_cache(maxsize=256)
def _delete(stored: Stored) -> bytes:
    key = stored.table.key
    return f'DELETE FROM "{stored.physical}" WHERE {key} = ANY({_array(stored, key)})'.encode()


@lru_cache(maxsize=256)
def _upsert(stored: Stored) -> bytes:
    names = ", ".join(f'"{column}"' for column in stored.columns)
    arrays = ", ".join(_array(stored, column) for column in stored.columns)
    others = [column for column in stored.columns if column != stored.table.key]
    sets = ", ".join(f'"{column}" = excluded."{column}"' for column in others)
    does = f"UPDATE SET {sets}" if sets else "NOTHING"
    return (
        f'INSERT INTO "{stored.physical}" ({names}) SELECT * FROM unnest({arrays})'
        f" ON CONFLICT ({stored.table.key}) DO {does}"
    ).encode()


@lru_cache(maxsize=1024)
def _update(stored: Stored, numbers: tuple[int, ...]) -> bytes:
    """By column: what is large and stays is not written again."""
    columns, key = [stored.columns[n] for n in numbers], stored.table.key
    arrays = ", ".join(_array(stored, column) for column in (*columns, key))
    aliases = ", ".join(f"n{n}" for n in range(len(columns)))
    sets = ", ".join(f'"{column}" = new.n{n}' for n, column in enumerate(columns))
    return (
        f'UPDATE "{stored.physical}" AS old SET {sets} FROM unnest({arrays}) AS new ({aliases}, its_key)'
        f" WHERE old.{key} = new.its_key"
    ).encode()
