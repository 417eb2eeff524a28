"""The log's writer: one bad piece of work fails alone, nothing waits for ever, and its thread never dies."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from eventsourcing.sqlite import SQLiteConnection, SQLiteConnectionPool

from contracts.codec import EventCodec
from contracts.events import ThreadCreated
from contracts.ledger import Append, Meta, Transaction
from services.kit.eventlog import BadTransaction, LogUnavailable
from services.kit.eventlog import writer as writer_module
from services.kit.eventlog.sqlite import FileDatastore, SqliteLog, SqliteRecorder
from services.kit.eventlog.writer import GroupWriter
from services.kit.ids import uuid7

META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")


class Disk:
    """A connection whose statements can fail."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
        self.before: Callable[[str], None] = lambda _: None

    def cursor(self) -> Any:
        return DiskCursor(self)

    def execute(self, statement: str, params: Any = ()) -> sqlite3.Cursor:
        self.before(statement)
        return self._db.execute(statement, params)

    def commit(self) -> None:
        self.execute("COMMIT")

    def rollback(self) -> None:
        self.before("ROLLBACK")
        self._db.rollback()

    def close(self) -> None:
        self._db.close()


class DiskCursor:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def execute(self, statement: str, params: Any = ()) -> sqlite3.Cursor:
        return self._disk.execute(statement, params)

    def close(self) -> None:
        pass


class DiskPool(SQLiteConnectionPool):
    def __init__(self, bench: "Bench") -> None:
        super().__init__(db_name=str(bench.path), pool_size=1, max_overflow=0)
        self._bench = bench

    def _create_connection(self) -> SQLiteConnection:
        self._bench.opened += 1
        self._bench.disk = Disk(self._bench.path)
        return SQLiteConnection(self._bench.disk, None)  # type: ignore[arg-type]


class DiskRecorder(SqliteRecorder):
    """The real one, on such a connection; its works are functions."""

    def __init__(self, bench: "Bench") -> None:
        datastore = FileDatastore(bench.path)
        datastore.made = lambda: DiskPool(bench)  # type: ignore[method-assign]
        datastore.pool.close()
        datastore.pool = datastore.made()
        super().__init__(bench.path, datastore)

    def open(self) -> None:
        with self.datastore.get_connection(commit=True):
            pass

    def _carried_out(self, cursor: Any, work: Any) -> Any:
        return work(cursor)


class Bench:
    def __init__(self, path: Path, answer_s: float = 10.0) -> None:
        self.path, self.opened = path, 0
        self.disk: Disk
        self.writer = GroupWriter(DiskRecorder(self), lambda _: None, answer_s)

    async def put(self, number: int) -> int:
        def work(db: Any) -> int:
            db.execute("INSERT INTO t VALUES (?)", (number,))
            return number

        return int(await self.writer.do(work))

    def stored(self) -> list[int]:
        db = sqlite3.connect(self.path)
        rows = [row[0] for row in db.execute("SELECT n FROM t ORDER BY n")]
        db.close()
        return rows


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "some.db")
    await made.writer.start()
    yield made
    await made.writer.stop()


def hanging(on: threading.Event) -> Callable[[str], None]:
    def before(statement: str) -> None:
        if statement == "COMMIT":
            on.wait(30)

    return before


def bad(error: BaseException) -> Callable[[Any], Any]:
    def work(db: Any) -> Any:
        db.execute("INSERT INTO t VALUES (1000)")
        raise error

    return work


@pytest.mark.parametrize("error", [sqlite3.IntegrityError("no"), ValueError("no"), AssertionError()])
async def test_bad_work_fails_alone(bench: Bench, error: Exception) -> None:
    asked = [bench.put(n) for n in range(20)]
    others = [bench.put(n) for n in range(20, 40)]
    outcomes = await asyncio.gather(*asked, bench.writer.do(bad(error)), *others, return_exceptions=True)
    assert isinstance(outcomes.pop(20), LogUnavailable)
    assert outcomes == list(range(40)) == bench.stored()
    assert bench.writer.failing == ""


async def test_commit_that_fails_is_told_and_the_next_one_goes_through(bench: Bench) -> None:
    def full(statement: str) -> None:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk full")

    bench.disk.before = full
    with pytest.raises(LogUnavailable, match="disk full"):
        await bench.put(1)
    async with asyncio.timeout(10):
        while "disk full" not in bench.writer.failing:  # noqa: ASYNC110 - it is told in the thread
            await asyncio.sleep(0.01)
    assert bench.writer.started
    bench.disk.before = lambda _: None
    assert await bench.put(2) == 2
    assert bench.stored() == [2]
    await bench.writer.stop()
    assert bench.writer.failing == ""


@pytest.mark.parametrize("error", [sqlite3.OperationalError, sqlite3.DatabaseError])
async def test_disk_that_fails_under_the_work_is_told(bench: Bench, error: type[Exception]) -> None:
    def broken(statement: str) -> None:
        if statement.startswith("INSERT"):
            raise error("disk I/O error")

    bench.disk.before = broken
    outcomes = await asyncio.gather(*(bench.put(n) for n in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, LogUnavailable) for outcome in outcomes)
    async with asyncio.timeout(10):
        while "disk I/O error" not in bench.writer.failing:  # noqa: ASYNC110 - it is told in the thread
            await asyncio.sleep(0.01)
    bench.disk.before = lambda _: None
    assert await bench.put(2) == 2
    await bench.writer.stop()
    assert bench.writer.failing == ""


async def test_connection_that_can_not_even_roll_back_is_opened_again(bench: Bench) -> None:
    def broken(statement: str) -> None:
        if statement in ("COMMIT", "ROLLBACK"):
            raise sqlite3.OperationalError("disk I/O error")

    bench.disk.before = broken
    with pytest.raises(LogUnavailable):
        await bench.put(1)
    assert await bench.put(2) == 2
    assert (bench.opened, bench.stored()) == (2, [2])


async def test_disk_that_hangs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "STUCK_S", 0.05)
    bench, on = Bench(tmp_path / "some.db", answer_s=0.2), threading.Event()
    await bench.writer.start()
    bench.disk.before = hanging(on)
    with pytest.raises(LogUnavailable, match="not known"):
        await bench.put(1)
    with pytest.raises(LogUnavailable, match="not known"):
        await bench.put(2)  # it waited in the queue
    assert "under way" in bench.writer.failing
    on.set()
    assert await bench.put(3) == 3
    assert bench.stored() == [1, 3]  # nobody waited for 2 any more
    await bench.writer.stop()


async def test_full_queue_takes_nothing_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MOST_WAITING", 10)
    on = threading.Event()
    bench.disk.before = hanging(on)
    waiting = [asyncio.create_task(bench.put(n)) for n in range(10)]
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable, match="nothing more is taken"):
        await bench.put(11)
    on.set()
    assert await asyncio.gather(*waiting) == list(range(10))
    assert await bench.put(12) == 12


async def test_what_is_queued_is_written_before_the_end(bench: Bench) -> None:
    waiting = [asyncio.create_task(bench.put(n)) for n in range(100)]
    await asyncio.sleep(0)
    await bench.writer.stop()
    assert await asyncio.gather(*waiting) == list(range(100))
    with pytest.raises(LogUnavailable, match="closed"):
        await bench.put(100)


async def test_stopping_does_not_wait_for_a_disk_that_hangs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.lifecycle.STOP_S", 0.2)
    on = threading.Event()
    bench.disk.before = hanging(on)
    asked = asyncio.create_task(bench.put(1))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await bench.writer.stop()
    on.set()
    assert await asked == 1
    await bench.writer.stop()


# --- the log above it ---------------------------------------------------------------------------------


def tx(*streams: UUID, text: str = "u") -> Transaction:
    return Transaction(
        meta=META, appends=tuple(Append(stream, 0, (ThreadCreated(user_id=text),)) for stream in streams)
    )


async def test_what_can_never_be_stored_is_refused_before_it_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.eventlog.log.MOST_BYTES", 1000)
    log, twice = SqliteLog(tmp_path / "ledger.db", EventCodec()), uuid7()
    await log.start()
    outcomes = await asyncio.gather(
        *(log.append(tx(uuid7())) for _ in range(20)),
        log.append(tx(twice, twice)),
        log.append(tx(uuid7(), text="x" * 2000)),
        *(log.append(tx(uuid7())) for _ in range(20)),
        return_exceptions=True,
    )
    assert [isinstance(o, BadTransaction) for o in outcomes[20:22]] == [True, True]
    assert outcomes[:20] + outcomes[22:] == list(range(1, 41))
    await log.stop()


async def test_stopped_log_is_one_file(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await log.start()
    await log.append(tx(uuid7()))
    await asyncio.to_thread(log.head)  # a reader of another thread
    assert log.head() == 1
    await log.stop()
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db"]
