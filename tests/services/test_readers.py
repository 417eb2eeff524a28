"""Readers of a database file are closed while other threads read: that ends reads, never the process."""

import gc
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from services.kit.readers import Readers

LONG = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT max(i) FROM n"
)
SHORT = "SELECT count(*) FROM t"


def database(folder: Path) -> Path:
    path = folder / "some.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (n)")
        db.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
    db.close()
    return path


def test_one_that_is_opened_behind_the_end_is_closed_with_its_readers(tmp_path: Path) -> None:
    made: list[sqlite3.Connection] = []
    readers = Readers(database(tmp_path), made.append)
    for _ in range(2):
        assert readers.fetch(SHORT).rows == [(1000,)]
        readers.close()
    late = threading.Thread(target=readers.fetch, args=(SHORT,))
    late.start()
    late.join()
    assert len(made) == 3
    assert made[2].execute(SHORT).fetchall() == [(1000,)]
    del readers, late
    gc.collect()
    for connection in made:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute(SHORT)


def test_a_long_read_is_interrupted(tmp_path: Path) -> None:
    readers, told = Readers(database(tmp_path)), list[Exception]()

    def read() -> None:
        try:
            readers.fetch(LONG)
        except sqlite3.Error as exc:
            told.append(exc)

    reading = threading.Thread(target=read)
    reading.start()
    time.sleep(0.1)
    readers.close()
    reading.join(10)
    assert [str(exc) for exc in told] == ["interrupted"]
    assert readers.fetch(SHORT).rows == [(1000,)]
    readers.close()


def test_closing_again_and_again_under_many_readers(tmp_path: Path) -> None:
    readers, stop, counts, strange = Readers(database(tmp_path)), threading.Event(), [0] * 4, list[str]()

    def read(me: int) -> None:
        while not stop.is_set():
            try:
                assert readers.fetch(SHORT).rows == [(1000,)]
                counts[me] += 1
            except sqlite3.Error as exc:
                if "closed" not in str(exc) and "interrupted" not in str(exc):
                    strange.append(str(exc))

    threads = [threading.Thread(target=read, args=(me,)) for me in range(len(counts))]
    for thread in threads:
        thread.start()
    for _ in range(300):
        readers.close()
        time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join(10)
    readers.close()
    assert min(counts) > 0
    assert not strange
