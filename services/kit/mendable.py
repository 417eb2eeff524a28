"""What a person at a terminal can mend: said in one sentence, never by a traceback."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Mendable(Exception):
    """Something outside the program is wrong; the text says what, and where it is not plain what to do about it."""


EDGES = (Mendable, sqlite3.Error, OSError)
"""Those of files, addresses and databases too (ConnectionError and TimeoutError are OSErrors); others are bugs."""


def sentence(exc: BaseException) -> str:
    """What is to be told of it."""
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return str(exc) or type(exc).__name__


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Let an error of a database say which file it is about: SQLite does not."""
    try:
        yield
    except sqlite3.Error as exc:
        raise type(exc)(f"{path}: {exc}") from exc
