"""Appends with many writers at once, beside plain SQLite in the same run; rebuilding the read models."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.codec import EventCodec, pack
from contracts.events import LaneChanged, LaneRun, RunRequested, RunStarted, RunSucceeded, ThreadCreated
from contracts.ledger import Append, Meta, Transaction
from domain.lane import lane_id_of
from projections import runs
from services.kit.eventlog.log import RecordedLog
from services.kit.eventlog.postgres import LEDGER, PostgresLog
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.postgres import migrate
from services.kit.views.postgres import SCHEMA
from services.projector.catalog import ALL
from services.projector.projector import batches
from services.projector.store import ViewStore
from tests.postgres import Postgres

pytestmark = pytest.mark.bench
Say = Callable[[str, str, str], None]
META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="bench")


def plain_sqlite(path: Path, rows: int) -> float:
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a BLOB, b INTEGER, c TEXT, d BLOB, UNIQUE (a, b))"
    )
    began = time.perf_counter()
    for n in range(rows):
        db.execute("INSERT INTO t (a, b, c, d) VALUES (?, 1, 'x', ?)", (n.to_bytes(16, "big"), b"x" * 150))
    took = time.perf_counter() - began
    db.close()
    return rows / took


@pytest.fixture(params=["sqlite", "postgres"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordedLog]:
    made: RecordedLog = SqliteLog(tmp_path / "ledger.db", EventCodec())
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        migrate(url, [LEDGER], lambda _: None)
        made = PostgresLog(url, EventCodec())
    await made.start()
    yield made
    await made.stop()


@pytest.mark.parametrize("writers", [1, 16, 64])
async def test_append(tmp_path: Path, log: RecordedLog, say: Say, writers: int) -> None:
    raw = plain_sqlite(tmp_path / "plain.db", 1000)
    each = 6400 // writers
    took: list[float] = []

    async def write() -> None:
        for _ in range(each):
            tx = Transaction(meta=META, appends=(Append(uuid7(), 0, (ThreadCreated(user_id="u"),)),))
            began = time.perf_counter()
            await log.append(tx)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(writers)))
    rate = len(took) / (time.perf_counter() - began)
    took.sort()
    quantiles = f"p50 {took[len(took) // 2] * 1e3:.1f} p99 {took[len(took) * 99 // 100] * 1e3:.1f} ms"
    bar = "10,000/s" if writers == 16 else "-"
    say(
        f"{type(log).__name__}: append, {writers} writers, {quantiles}",
        f"{rate:,.0f}/s (plain x{rate / raw:.1f})",
        bar,
    )


async def test_rebuild(tmp_path: Path, postgres: Postgres, say: Say) -> None:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await log.start()
    kwargs, _ = pack({"input": {"x": 1}, "config": {}})
    txs = []
    for _ in range(10_000):
        run, thread = uuid7(), uuid7()
        asked = RunRequested(thread_id=thread, assistant_id=thread, graph_id="g", user_id="u", kwargs=kwargs)
        line = LaneChanged(thread_id=thread, change="joined", run_id=run, in_flight=(LaneRun(run),))
        ended = (
            RunStarted(thread_id=thread, attempt=1, worker="w"),
            RunSucceeded(thread_id=thread, attempt=1),
        )
        left = LaneChanged(thread_id=thread, change="left", run_id=run)
        appends = (Append(run, 0, (asked, *ended)), Append(lane_id_of(thread), 0, (line, left)))
        txs.append(Transaction(meta=META, appends=appends))
    for start in range(0, len(txs), 500):
        await log.append_many(txs[start : start + 500])
    head = log.head()
    for database, bar in (("sqlite", "40,000"), ("postgres", "25,000")):
        for name, chosen in (("runs", [runs]), (f"all {len(ALL)} read models", list(ALL))):
            place: Path | str = tmp_path / f"{name}.db"
            if database == "postgres":
                place = postgres.url_of(postgres.database())
                migrate(place, [SCHEMA], lambda _: None)
            store = ViewStore(place, chosen)
            store.prepare(head)
            began, position = time.perf_counter(), 0
            for events in batches(log, 0):
                store.apply([p.NAME for p in chosen], events, position)
                position = events[-1].position
            rate = head / (time.perf_counter() - began)
            store.close()
            say(f"{database}: rebuild of {name}, {head:,} events", f"{rate:,.0f} events/s", bar)
    await log.stop()
