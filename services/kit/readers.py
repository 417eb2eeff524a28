"""Connections to a database file that can't write, for any thread and beside any process."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path


class Readers:
    """One connection for each thread that asks, opened when it does."""

    def __init__(self, path: Path, prepared: Callable[[sqlite3.Connection], object] = lambda _: None) -> None:
        self._path, self._prepared = path, prepared
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    def mine(self) -> sqlite3.Connection:
        """The one of the thread that asks. Raises sqlite3.Error when there is no file."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connected(self._path)
            self._prepared(connection)
            with self._guard:
                self._open.append(connection)
        return connection

    def close(self) -> None:
        """Close those of all threads; the next read opens a new one."""
        with self._guard:
            for connection in self._open:
                connection.close()
            self._open.clear()
            self._local = threading.local()


def connected(path: Path) -> sqlite3.Connection:
    """A connection that only reads; closed by whoever asks, from whichever thread. Raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
