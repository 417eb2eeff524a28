"""The projector: its thread never dies, says what is wrong, and builds read models anew beside the live ones."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.codec import EventCodec
from contracts.events import ThreadCreated
from contracts.ledger import Append, Meta, Recorded, Transaction
from projections.rows import Row, Rows, Table
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.lifecycle import health
from services.kit.postgres import migrate
from services.kit.views import Views, ViewsUnavailable
from services.kit.views.postgres import SCHEMA, PostgresViews
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector, RebuildBusy
from services.projector.replay import verify
from tests.postgres import Postgres

META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")


class Counted:
    """A read model with a row per event, whose `apply` can be made to fail."""

    VERSION = 1

    def __init__(self, name: str = "counted") -> None:
        self.NAME = name
        self.TABLES = (Table(name, {"n": "int", "stream": "text"}, "n"),)
        self.before: Callable[[Recorded], None] = lambda _: None

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        self.before(recorded)
        row: Row = {"n": recorded.position, "stream": recorded.stream_id.hex}
        rows.put(self.NAME, row)


class Bench:
    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder, self.path = folder, folder / "views.db"
        self.place: Path | str = url or self.path
        self.log = SqliteLog(folder / "ledger.db", EventCodec())
        self.models = [Counted(), Counted("other")]
        self.views: Views = PostgresViews(url) if url else SqliteViews(self.path)
        self.projector = Projector(self.log, self.place, self.models)

    async def append(self, count: int = 1) -> int:
        txs = [
            Transaction(meta=META, appends=(Append(uuid7(), 0, (ThreadCreated(user_id="u"),)),))
            for _ in range(count)
        ]
        return int(max(o for o in await self.log.append_many(txs) if isinstance(o, int)))

    def count(self, table: str = "counted") -> int:
        row = self.views.one(f"SELECT count(*) AS n FROM {table}")
        assert row is not None
        return int(row["n"])

    async def stop(self) -> None:
        self.views.close()
        await self.projector.stop()
        await self.log.stop()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with started(Bench(tmp_path)) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench on each database."""
    url = ""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        migrate(url, [SCHEMA], lambda _: None)
    async with started(Bench(tmp_path, url)) as made:
        yield made


@asynccontextmanager
async def started(made: Bench) -> AsyncIterator[Bench]:
    await made.log.start()
    await made.projector.start()
    yield made
    await made.stop()


def failing_at(position: int, error: Exception, times: int = 1_000_000) -> Callable[[Recorded], None]:
    left = times

    def before(recorded: Recorded) -> None:
        nonlocal left
        if recorded.position == position and left:
            left -= 1
            raise error

    return before


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), AssertionError(), sqlite3.OperationalError("database is locked"), ValueError("topic")],
)
async def test_projection_that_raises_once_is_asked_again(either: Bench, error: Exception) -> None:
    either.models[0].before = failing_at(2, error, times=1)
    assert await either.projector.reached(await either.append(3), 20)
    assert (either.count(), either.count("other")) == (3, 3)
    await until(lambda: not any(health([either.projector]).values()))


async def test_projection_that_raises_for_ever_is_told_and_all_before_it_is_shown(either: Bench) -> None:
    either.models[0].before = failing_at(4, KeyError("x"))
    assert await either.append(6) == 6
    assert await either.projector.reached(3, 20)
    await until(lambda: bool(either.projector.failing))
    assert either.projector.started
    told = health([either.projector])
    assert told == {
        "projector": "nothing is shown after position 3",
        "projector.thread": "KeyError: 'x'",
    }
    assert not await either.projector.reached(4, 0.05)
    either.models[0].before = lambda _: None  # mended
    assert await either.projector.reached(6, 20)
    await until(lambda: not any(health([either.projector]).values()))


async def test_projection_that_hangs_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.projector.projector.STUCK_S", 0.5)
    on = threading.Event()

    def hang(_: Recorded) -> None:
        on.wait(30)

    bench.models[0].before = hang
    last = await bench.append()
    await until(lambda: bench.projector.failing == "nothing is shown after position 0")
    on.set()
    assert await bench.projector.reached(last, 20)
    await until(lambda: not bench.projector.failing)


async def test_rebuild_beside_goes_on_while_the_log_grows(
    either: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.projector.projector.BESIDE", 50)
    await either.projector.reached(await either.append(1000), 20)
    begun = either.projector.rebuild(["counted"])
    assert (begun.names, begun.head, begun.ended) == (("counted",), 1000, False)
    assert either.projector.rebuild(["counted"]).number == begun.number  # asked twice is asked once
    with pytest.raises(RebuildBusy):
        either.projector.rebuild(["other"])
    fewest, last = 1000, 1000
    while not either.projector.rebuilding.ended:
        last = await either.append()
        fewest = min(fewest, either.count())
        assert await either.projector.reached(last, 20)
        assert either.count() >= last
    told = either.projector.rebuilding
    assert (told.failed, fewest) == ("", 1000)
    assert told.position >= 1000
    assert either.count() == last


async def test_rebuild_that_fails_is_told_and_the_live_ones_stay(either: Bench) -> None:
    await either.projector.reached(await either.append(10), 20)
    either.models[1].before = failing_at(5, KeyError("x"))
    either.projector.rebuild()
    await until(lambda: either.projector.rebuilding.ended)
    assert either.projector.rebuilding.failed == "KeyError: 'x'"
    assert await either.projector.reached(await either.append(), 20)
    assert either.count("other") == 11
    with pytest.raises(ValueError, match="unknown read models: nosuch"):
        either.projector.rebuild(["nosuch"])


class Chained(Counted):
    """A read model that looks at the row of the event before."""

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        before = rows.get(self.NAME, recorded.position - 1)
        if before is not None and before["stream"] == "broken":
            raise KeyError("broken")
        super().apply(rows, recorded)


async def test_rebuild_mends_live_rows_that_can_not_go_on(bench: Bench) -> None:
    await bench.projector.stop()
    bench.models[0] = Chained()
    await bench.projector.start()
    assert await bench.projector.reached(await bench.append(3), 20)
    with closing(sqlite3.connect(bench.path, isolation_level=None)) as db:
        db.execute("UPDATE counted__v1g1 SET stream = 'broken' WHERE n = 3")
    await bench.append()
    await until(lambda: bench.projector.failing != "")
    bench.projector.rebuild(["counted"])
    await until(lambda: bench.projector.rebuilding.ended)
    assert bench.projector.rebuilding.failed == ""
    assert await bench.projector.reached(4, 20)
    assert bench.count() == 4


async def test_locked_database_is_no_damaged_one(bench: Bench) -> None:
    await bench.projector.reached(await bench.append(3), 20)
    await bench.projector.stop()
    inode = bench.path.stat().st_ino
    with closing(sqlite3.connect(bench.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        locked = Projector(bench.log, bench.path, bench.models)
        starting = asyncio.create_task(locked.start())
        await asyncio.sleep(0.2)
        other.execute("ROLLBACK")
    await asyncio.gather(starting, return_exceptions=True)
    assert bench.path.stat().st_ino == inode
    await locked.stop()


async def test_damaged_database_is_made_anew(bench: Bench) -> None:
    await bench.projector.reached(await bench.append(3), 20)
    bench.views.close()
    await bench.projector.stop()
    bench.path.write_bytes(b"this is no database at all" * 400)
    again = Projector(bench.log, bench.path, bench.models)
    await again.start()
    assert await again.reached(3, 20)
    assert bench.count() == 3
    bench.views.close()
    await again.stop()


async def test_stopped_projector_leaves_one_file(bench: Bench) -> None:
    await bench.projector.reached(await bench.append(3), 20)
    assert bench.count() == 3
    await asyncio.to_thread(bench.count)  # a reader of another thread
    bench.views.close()
    await bench.projector.stop()
    assert sorted(file.name for file in bench.folder.glob("views*")) == ["views.db"]


async def test_read_models_of_a_restored_older_ledger_are_made_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.log.start()
    await bench.append(2)
    await bench.log.stop()
    backup = (tmp_path / "ledger.db").read_bytes()
    for more in (3, 4):  # after the backup it goes on in two ways, the second time further
        (tmp_path / "ledger.db").write_bytes(backup)
        await bench.log.start()
        await bench.projector.start()
        head = await bench.append(more)
        assert await bench.projector.reached(head, 20)
        await bench.projector.stop()
        bench.projector = Projector(bench.log, bench.path, bench.models)
        rows = bench.views.all("SELECT stream FROM counted ORDER BY n")
        assert [row["stream"] for row in rows] == [e.stream_id.hex for e in bench.log.read(0, 100)]
        bench.views.close()
        await bench.log.stop()


async def test_server_that_is_away_is_told_and_followed_again(tmp_path: Path) -> None:
    server = Postgres().start()
    migrate(server.url, [SCHEMA], lambda _: None)
    async with started(Bench(tmp_path, server.url)) as bench:
        assert await bench.projector.reached(await bench.append(3), 20)
        server.stop()
        last = await bench.append(2)
        await until(lambda: "nothing is shown after position 3" in bench.projector.failing)
        with pytest.raises(ViewsUnavailable):
            bench.count()
        server.start()
        assert await bench.projector.reached(last, 20)
        assert bench.count() == bench.count("other") == 5
        await until(lambda: not any(health([bench.projector]).values()))
    server.close()


async def test_two_projectors_follow_one_database(tmp_path: Path, postgres_url: str) -> None:
    """Each batch is projected once, whoever was first, and both tell how far it is."""
    migrate(postgres_url, [SCHEMA], lambda _: None)
    async with started(Bench(tmp_path, postgres_url)) as bench:
        second = Projector(bench.log, postgres_url, bench.models)
        await second.start()
        for _ in range(20):
            last = await bench.append(10)
        assert await bench.projector.reached(last, 20)
        assert await second.reached(last, 20)
        assert bench.count() == bench.count("other") == last
        await second.stop()


async def test_real_read_models_survive_a_rebuild_row_by_row(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await log.start()
    projector = Projector(log, tmp_path / "views.db")
    await projector.start()
    for _ in range(20):
        tx = Transaction(meta=META, appends=(Append(uuid7(), 0, (ThreadCreated(user_id="u"),)),))
        await projector.reached(await log.append(tx), 20)
    projector.rebuild()
    await until(lambda: projector.rebuilding.ended)
    assert projector.rebuilding.failed == ""
    assert verify(log, tmp_path / "views.db") == []
    with closing(sqlite3.connect(tmp_path / "views.db", isolation_level=None)) as meddler:
        [(table,)] = meddler.execute(
            "SELECT name FROM sqlite_master WHERE name LIKE 'threads\\_\\_v%' ESCAPE '\\' AND type = 'table'"
        ).fetchall()
        meddler.execute(f'DELETE FROM "{table}" WHERE rowid = 1')
    assert [d.table for d in verify(log, tmp_path / "views.db")] == ["threads"]
    await projector.stop()
    await log.stop()
