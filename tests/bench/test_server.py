"""A whole server, driven over HTTP: lateness, bursts, throughput. CPU is of all its processes."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from contracts.codec import EventCodec
from contracts.events import RunRequested
from services.kit.eventlog.postgres import PostgresLog
from services.kit.eventlog.sqlite import SqliteReader

pytestmark = pytest.mark.bench
Say = Callable[[str, str, str], None]
TICK = os.sysconf("SC_CLK_TCK")
FREE = {"CRONLEDGER_CRONS_PER_USER": "0"}


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and all below it."""
    total, todo = 0.0, [pid]
    while todo:
        one = todo.pop()
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICK
        todo += map(int, children)
    return total


async def at_once(many: int, each: int, work: Callable[[int], Any]) -> tuple[float, list[float]]:
    """(seconds, seconds of each) of `many` clients that do the work `each` times."""
    took: list[float] = []

    async def client(start: int) -> None:
        for n in range(each):
            began = time.perf_counter()
            await work(start * each + n)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client(n) for n in range(many)))
    return time.perf_counter() - began, sorted(took)


def lateness(server: Any) -> list[float]:
    """Milliseconds from each due instant to the recorded firing, ascending."""
    url = server.environment.get("CRONLEDGER_DATABASE_URL")
    path = server.data / "ledger.db"
    reader = PostgresLog(url, EventCodec()) if url else SqliteReader(path, EventCodec())
    found = [
        (e.meta.at - e.body.scheduled_for).total_seconds() * 1000
        for e in reader.read_topics("run.requested", 0, reader.head(), 1_000_000)
        if isinstance(e.body, RunRequested) and e.body.scheduled_for is not None
    ]
    reader.close_readers()
    return sorted(found)


async def crons(http: httpx.AsyncClient, many: int, schedule: str) -> None:
    async def one(_: int) -> None:
        body = {"assistant_id": "counter", "schedule": schedule, "input": {"wait_s": 0}}
        (await http.post("/runs/crons", json=body)).raise_for_status()

    await at_once(16, many // 16, one)


def name_of(database: dict[str, str]) -> str:
    """For whoever reads the figures."""
    return "postgres" if database else "sqlite"


@pytest.mark.parametrize(("many", "bar"), [(48, "p50 20, max 100 ms"), (496, "max 300 ms")])
async def test_lateness(make_server: Any, say: Say, database: dict[str, str], many: int, bar: str) -> None:
    server = make_server(**FREE, **database, CRONLEDGER_FIRST_RUN="scheduled")
    due = datetime.now(UTC) + timedelta(seconds=8)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        await crons(http, many, f"{due.second} {due.minute} {due.hour} * * *")
        await asyncio.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds()) + 5)
    late = lateness(server)
    assert len(late) == many
    say(
        f"{name_of(database)}: {many} crons due at one instant",
        f"p50 {late[many // 2]:.1f} max {late[-1]:.1f} ms",
        bar,
    )


async def test_burst(make_server: Any, say: Say) -> None:
    server = make_server(**FREE, CRONLEDGER_FIRST_RUN="scheduled")
    many = 10_000
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        began = time.perf_counter()
        await crons(http, many // 16 * 16, "0 0 1 1 *")
        rate = many / (time.perf_counter() - began)
        say("create cron (no first run), 16 at once, client included", f"{rate:.0f}/s", "600/s")
    server.stop()
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=6)
    reschedule(server.data, due)
    server.start()
    await asyncio.sleep((due - datetime.now(UTC)).total_seconds() + 8)
    late = lateness(server)
    say("10,000 due at one second: recorded", f"{len(late):,} in {late[-1] / 1000:.2f} s", "3 s")
    assert len(late) == many


def reschedule(data: Path, due: datetime) -> None:
    """Let every stored cron mean one second, as if it had been created so."""
    from eventsourcing.persistence import Notification

    from contracts.codec import EventCodec
    from contracts.events import CronCreated

    codec, db = EventCodec(), sqlite3.connect(data / "ledger.db")
    text = f"{due.second} {due.minute} {due.hour} * * *"
    rows = db.execute(
        "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
        " WHERE topic = 'cron.created.v1'"
    ).fetchall()
    for position, stream, version, topic, state in rows:
        recorded = codec.to_domain_event(Notification(UUID(bytes=stream), version, topic, state, position))
        assert isinstance(recorded.body, CronCreated)
        changed = {"schedule": text, "canonical": text}
        body = type(recorded.body)(
            **{f: getattr(recorded.body, f) for f in recorded.body.__struct_fields__} | changed
        )
        db.execute(
            "UPDATE stored_events SET state = ? WHERE notification_id = ?",
            (codec.encode(body, recorded.meta)[1], position),
        )
    db.commit()
    db.close()
    for path in data.glob("views.db*"):
        path.unlink()


async def test_create_and_search(make_server: Any, say: Say, database: dict[str, str]) -> None:
    server = make_server(**FREE, **database)
    assert server.process is not None
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        body = {"assistant_id": "counter", "schedule": "0 0 1 1 *", "enabled": False}

        async def create(_: int) -> None:
            (await http.post("/runs/crons", json=body)).raise_for_status()

        before = cpu_s(server.process.pid)
        took, _ = await at_once(16, 200, create)
        used = (cpu_s(server.process.pid) - before) / 3200 * 1000
        say(
            f"{name_of(database)}: create cron (disabled), 16 at once",
            f"{3200 / took:.0f}/s, {used:.2f} ms CPU",
            "600/s, 2.5 ms",
        )

        async def search(_: int) -> None:
            (await http.post("/runs/crons/search", json={"limit": 10})).raise_for_status()

        _, each = await at_once(1, 200, search)
        say(
            f"{name_of(database)}: search crons, limit 10, 3,200 present, p50",
            f"{each[100] * 1000:.1f} ms",
            "4 ms",
        )


async def test_runs(make_server: Any, say: Say, database: dict[str, str]) -> None:
    server = make_server(CRONLEDGER_RUNS_PER_CHILD="16", **database)
    assert server.process is not None
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        threads = [(await http.post("/threads", json={})).json()["thread_id"] for _ in range(64)]
        body = {"assistant_id": "counter", "input": {"wait_s": 0}}
        last: list[str] = []

        async def run(n: int) -> None:
            thread = threads[n % len(threads)]
            made = (await http.post(f"/threads/{thread}/runs", json=body)).json()
            path = f"/threads/{thread}/runs/{made['run_id']}"
            (await http.get(path + "/join")).raise_for_status()
            last[:] = [path]

        await run(0)
        before = cpu_s(server.process.pid)
        took, _ = await at_once(16, 30, run)
        used = (cpu_s(server.process.pid) - before) / 480 * 1000
        say(
            f"{name_of(database)}: background run, POST to join, 16 at once",
            f"{480 / took:.0f}/s, {used:.1f} ms CPU",
            "70/s, 20 ms",
        )
        _, each = await at_once(1, 100, run)
        say(
            f"{name_of(database)}: background run, POST to join, one at a time, p50",
            f"{each[50] * 1000:.1f} ms",
            "30 ms",
        )

        async def get(_: int) -> None:
            (await http.get(last[0])).raise_for_status()

        _, each = await at_once(1, 300, get)
        say(f"{name_of(database)}: GET run, one at a time, p50", f"{each[150] * 1000:.2f} ms", "2.5 ms")
        took, _ = await at_once(16, 100, get)
        say("GET run, 16 at once", f"{1600 / took:.0f}/s", "700/s")
