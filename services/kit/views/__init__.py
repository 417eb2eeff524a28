"""Reads of the read models' database; knows no table."""

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

Row = dict[str, Any]


class Views:
    """Read-only connections, one per thread. Reads are synchronous: most take less than a thread hop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    def all(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        """Every row of the answer."""
        cursor = self._connection().execute(query, params)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def one(self, query: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row of the answer, None when there is none."""
        cursor = self._connection().execute(query, params)
        row = cursor.fetchone()
        if row is None:
            return None
        names = [column[0] for column in cursor.description]
        return dict(zip(names, row, strict=True))

    def position(self, name: str) -> int:
        """The position of the log that this read model has reached; 0 when it does not exist."""
        row = self.one("SELECT pos FROM tracking WHERE name = ?", (name,))
        return 0 if row is None else int(row["pos"])

    def close(self) -> None:
        """Close every thread's connection; the next read opens a new one."""
        with self._guard:
            for connection in self._open:
                connection.close()
            self._open.clear()
            self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            # Closed by `close` from whichever thread stops us.
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10
            )
            connection.create_function("json_contains", 2, json_contains, deterministic=True)
            self._local.connection = connection
            with self._guard:
                self._open.append(connection)
        return connection


def json_contains(haystack: str | None, needle: str) -> bool:
    """Whether every key of `needle` is in `haystack` with that value; nested objects likewise."""
    if haystack is None:
        return False
    return _contains(msgspec.json.decode(haystack), msgspec.json.decode(needle))


def _contains(haystack: Any, needle: Any) -> bool:
    if isinstance(needle, dict):
        return isinstance(haystack, dict) and all(
            key in haystack and _contains(haystack[key], value) for key, value in needle.items()
        )
    # 1 and true are equal in Python, and not to a client.
    return type(haystack) is type(needle) and bool(haystack == needle)
