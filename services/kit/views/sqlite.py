"""Reads of the read models in a file of SQLite."""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from services.kit.readers import Readers
from services.kit.views import POSITION, Row


class SqliteViews:
    """Read-only connections, one for each thread. Most reads take less than a thread hop."""

    is_near = True

    def __init__(self, path: Path) -> None:
        self._readers = Readers(path, give_functions)

    def all(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        """Every row of the answer."""
        columns, rows = self._readers.fetch(query, params)
        names = [column[0] for column in columns]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def one(self, query: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row of the answer, None when there is none."""
        columns, rows = self._readers.fetch(query, params, 1)
        return {column[0]: value for column, value in zip(columns, rows[0], strict=True)} if rows else None

    def position(self, name: str) -> int:
        """The position of the log that this read model has reached; 0 when it does not exist."""
        row = self.one(POSITION, (name,))
        return 0 if row is None else int(row["pos"])

    def close(self) -> None:
        """Close the connections of all threads; the next read opens a new one."""
        self._readers.close()


def give_functions(connection: sqlite3.Connection) -> None:
    """Let its queries use ours."""
    connection.create_function("json_contains", 2, json_contains, deterministic=True)


def json_contains(haystack: str | None, needle: str) -> bool:
    """Whether one JSON contains the other, as PostgreSQL's `@>` has it.

    Every key of an object with what its value contains, every element of a list somewhere in the list, numbers
    by value; a boolean is no number.
    """
    if haystack is None:
        return False
    return _contains(msgspec.json.decode(haystack), _needle(needle))


@lru_cache(maxsize=16)
def _needle(text: str) -> Any:
    """What is looked for: the same for each row of a query."""
    return msgspec.json.decode(text)


def _contains(has: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(has, dict) and all(
            name in has and _contains(has[name], value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(has, list) and all(any(_contains(one, value) for one in has) for value in wanted)
    if isinstance(wanted, bool) or isinstance(has, bool):
        return has is wanted
    return bool(has == wanted)
