"""Reads of the read models in PostgreSQL."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from services.kit.postgres import Schema, Sessions, text
from services.kit.views import POSITION, Row, ViewsUnavailable

T = TypeVar("T")
SCHEMA = Schema("views", (text(Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")),))
"""What the projector writes and `PostgresViews` reads; the functions of our queries are there too."""
SESSION = (
    "default_transaction_read_only=on",
    # A plan for any values would walk an index for what only a few rows have.
    "plan_cache_mode=force_custom_plan",
)
AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    # Somebody dropped them; `cronledger migrate` and the projector make them again.
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedFunction,
)
HINT = re.compile(r'(?<=[\s(])\+(?=[A-Za-z"])')
NUL, REPLACED = "\0", "\ufffd"


@lru_cache(maxsize=1000)
def translated(query: str) -> bytes:
    """Our SQL, which both databases understand, as the driver wants it.

    `?` is a parameter; the pluses keep an index from SQLite's planner, which PostgreSQL's knows from its
    statistics; a blob is a bytea.
    """
    query = HINT.sub("", query.replace("%", "%%").replace("?", "%s"))
    return query.replace("AS BLOB)", "AS bytea)").encode()


def whole(value: Any) -> Any:
    """The value as PostgreSQL can have it: U+FFFD in place of a NUL in a text."""
    return value.replace(NUL, REPLACED) if isinstance(value, str) and NUL in value else value


class PostgresViews:
    """Connections that only read, one for each thread; one that is broken is replaced when it is asked.

    A network is before it, so that nobody reads on the event loop (`is_near`, services/kit/reads.py).
    """

    is_near = False

    def __init__(self, url: str) -> None:
        # Parsed each time: a statement that is kept would fail when another version's columns are swapped in.
        self._sessions = Sessions(url, SCHEMA.name, *SESSION, prepare_threshold=None)

    def all(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        """Every row of the answer. Raises ViewsUnavailable."""

        def read(cursor: psycopg.Cursor[Any]) -> list[Row]:
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

        return self._read(query, params, read)

    def one(self, query: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row of the answer, None when there is none. Raises ViewsUnavailable."""

        def read(cursor: psycopg.Cursor[Any]) -> Row | None:
            row = cursor.fetchone()
            names = [column.name for column in cursor.description or ()]
            return None if row is None else dict(zip(names, row, strict=True))

        return self._read(query, params, read)

    def position(self, name: str) -> int:
        """The position of the log that this read model has reached; 0 when it does not exist."""
        row = self.one(POSITION, (name,))
        return 0 if row is None else int(row["pos"])

    def close(self) -> None:
        """Close the connections of all threads, and cancel what they read; the next read opens a new one."""
        self._sessions.close()

    def _read(self, query: str, params: Sequence[Any], read: Callable[[psycopg.Cursor[Any]], T]) -> T:
        try:
            return self._tried(query, params, read)
        except AWAY as exc:
            raise ViewsUnavailable(f"the database of the read models: {exc}") from exc

    def _tried(self, query: str, params: Sequence[Any], read: Callable[[psycopg.Cursor[Any]], T]) -> T:
        statement, given = translated(query), [whole(value) for value in params]
        is_fresh, connection = self._sessions.mine()
        try:
            return read(connection.cursor(binary=True).execute(statement, given))
        except psycopg.OperationalError as exc:
            # A server that was started again meanwhile, or a swap and we waited for each other: once more. What
            # fails on a connection that was just made is told.
            is_deadlock = isinstance(exc, psycopg.errors.DeadlockDetected)
            if not is_deadlock and (is_fresh or not (connection.closed or connection.broken)):
                raise
        self._sessions.drop()
        _, connection = self._sessions.mine()
        return read(connection.cursor(binary=True).execute(statement, given))
