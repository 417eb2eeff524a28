"""Connections to a database file that can't write, for any thread and beside any process."""

import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CLOSE_S = 2.0
"""How long a read that was interrupted may take to notice; a connection still in use then is left to the process."""


class Fetched(NamedTuple):
    """What a query found; of each column its name and what else the driver says of it."""

    columns: Sequence[Any]
    rows: list[Any]


class _Lent(NamedTuple):
    connection: sqlite3.Connection
    using: threading.Lock  # whoever closes it under a read would crash the process, not only the read


class Readers:
    """One connection for each thread that asks, opened when it does."""

    def __init__(self, path: Path, prepared: Callable[[sqlite3.Connection], object] = lambda _: None) -> None:
        self._path, self._prepared = path, prepared
        self._local = threading.local()
        self._open: list[_Lent] = []
        self._guard = threading.Lock()
        # A read whose asker has gone goes on in its thread, and may open one behind `close`. Not at the end of the
        # process, when there may be a read in it.
        weakref.finalize(self, _close_all, self._open).atexit = False

    def fetch(self, query: str, params: Sequence[Any] = (), most: int = -1) -> Fetched:
        """The rows, `most` of them at most, through the connection of this thread.

        Raises sqlite3.Error, also when there is no file, and when everything is being closed.
        """
        connection, using = self._mine()
        with using:
            cursor = connection.execute(query, params)
            rows = cursor.fetchall() if most < 0 else cursor.fetchmany(most)
            return Fetched(cursor.description, rows)

    def close(self) -> None:
        """Close those of all threads, and interrupt what they read; the next read opens a new one."""
        with self._guard:
            lent, self._local = self._open.copy(), threading.local()
            self._open.clear()
        for connection, using in lent:
            connection.interrupt()
            if using.acquire(timeout=CLOSE_S):
                connection.close()
                using.release()

    def _mine(self) -> _Lent:
        mine: _Lent | None = getattr(self._local, "lent", None)
        if mine is None:
            mine = _Lent(connected(self._path), threading.Lock())
            self._prepared(mine.connection)
            with self._guard:
                self._local.lent = mine
                self._open.append(mine)
        return mine


def _close_all(lent: Sequence[_Lent]) -> None:
    for connection, _ in lent:
        connection.close()


def connected(path: Path) -> sqlite3.Connection:
    """A connection that only reads; closed by whoever asks, from whichever thread. Raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
