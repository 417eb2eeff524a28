"""The whole server is killed again and again; afterwards the ledger tells of each occurrence exactly once."""

import asyncio
import fcntl
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from langgraph_sdk import get_client

from contracts.codec import EventCodec
from contracts.events import (
    CronCreated,
    CronPaused,
    OccurrenceMissed,
    OccurrenceSkipped,
    OccurrencesMissed,
    RunRequested,
)
from contracts.ledger import RawRecorded, Recorded

CRONS = 200
KILLS = 20
TERMINAL = {"success", "error", "timeout", "interrupted"}


async def create_crons(url: str) -> None:
    async with get_client(url=url) as client:
        await _create(client)


async def _create(client: Any) -> None:
    async def one(n: int) -> None:
        if n % 2:
            await client.crons.create("counter", schedule="* * * * * *", input={"wait_s": 0})
        else:
            thread = await client.threads.create()
            # One half waits its turn, the other is skipped while the thread is busy.
            strategy = "reject" if n % 4 else "enqueue"
            await client.crons.create_for_thread(
                thread["thread_id"],
                assistant_id="counter",
                schedule="* * * * * *",
                multitask_strategy=strategy,
            )

    for start in range(0, CRONS, 20):
        await asyncio.gather(*(one(n) for n in range(start, start + 20)))


async def pause_all(url: str) -> None:
    async with get_client(url=url) as client:
        for cron in await client.crons.search(limit=1000):
            await client.crons.update(cron["cron_id"], enabled=False)


def events(path: Any) -> list[Recorded]:
    codec = EventCodec()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "SELECT notification_id, originator_id, originator_version, topic, state"
            " FROM stored_events ORDER BY notification_id"
        ).fetchall()
    finally:
        connection.close()
    return [codec.recorded(RawRecorded(r[0], UUID(bytes=r[1]), r[2], r[3], bytes(r[4]))) for r in rows]


def occurrences(recorded: list[Recorded]) -> dict[UUID, Counter[int]]:
    """Cron -> how often the ledger tells of each second."""
    told: dict[UUID, Counter[int]] = {}
    for event in recorded:
        match event.body:
            case RunRequested(cron_id=UUID() as cron, scheduled_for=due) if due is not None:
                told.setdefault(cron, Counter())[int(due.timestamp())] += 1
            case (
                OccurrenceSkipped(cron_id=UUID() as cron, scheduled_for=due)
                | OccurrenceMissed(cron_id=UUID() as cron, scheduled_for=due)
            ):
                told.setdefault(cron, Counter())[int(due.timestamp())] += 1
            case OccurrencesMissed(first=first, last=last, count=count):
                stretch = range(int(first.timestamp()), int(last.timestamp()) + 1)
                # A stretch may lie around occurrences that were decided one by one; it says how many it means.
                told.setdefault(event.stream_id, Counter())
                fresh = [s for s in stretch if not told[event.stream_id][s]]
                assert len(fresh) == count, (event, len(fresh))
                told[event.stream_id].update(fresh)
    return told


def check_occurrences(recorded: list[Recorded]) -> None:
    born = {e.stream_id: int(e.meta.at.timestamp()) for e in recorded if isinstance(e.body, CronCreated)}
    told = occurrences(recorded)
    assert len(born) == CRONS
    paused = {e.stream_id: int(e.meta.at.timestamp()) for e in recorded if isinstance(e.body, CronPaused)}
    for cron, birth in born.items():
        counts = told[cron]
        doubled = [second for second, times in counts.items() if times > 1]
        assert not doubled, (cron, doubled[:5])
        until = max(counts)
        assert until >= paused[cron] - 1, (cron, paused[cron] - until)
        lost = [second for second in range(birth + 1, until + 1) if second not in counts]
        assert not lost, (cron, lost[:5], len(lost))


async def wait_for_the_end(server: Any) -> None:
    """Until no run is in flight any more."""
    async with asyncio.timeout(900):
        while True:
            connection = sqlite3.connect(f"file:{server.data / 'views.db'}?mode=ro", uri=True)
            try:
                statuses = dict(
                    connection.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall()
                )
            finally:
                connection.close()
            if statuses.keys() <= TERMINAL:
                return
            await asyncio.sleep(0.5)


class SecondScheduler:
    """Another scheduler process on the same ledger, started anew when its server was killed."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.scheduler", str(self.data)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "CRONLEDGER_CATCH_UP_SPREAD_S": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def stop(self) -> str:
        """What it said at the end."""
        assert self.process is not None
        self.process.terminate()
        return self.process.communicate(timeout=30)[0]


@pytest.mark.parametrize("schedulers", [1, 2])
def test_twenty_kills(make_server: Any, schedulers: int) -> None:
    server = make_server(
        CRONLEDGER_CRONS_PER_USER="0", CRONLEDGER_CATCH_UP_SPREAD_S="1", CRONLEDGER_LEASE_S="2"
    )
    second = SecondScheduler(server.data)
    if schedulers == 2:
        second.start()
    asyncio.run(create_crons(server.url))
    chance = random.Random(20261124)
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.2, 2.5))
        server.kill()
        if schedulers == 2:
            second.kill()
        server.start()
        if schedulers == 2:
            second.start()
    if schedulers == 2:
        time.sleep(5)
        said = second.stop()
        # Both were at it: each found occurrences that the other had decided.
        assert "duplicates" in said
        assert not said.endswith("duplicates 0\n")
    asyncio.run(pause_all(server.url))
    asyncio.run(wait_for_the_end(server))
    server.stop()
    recorded = events(server.data / "ledger.db")
    check_occurrences(recorded)
    requested = {e.stream_id for e in recorded if isinstance(e.body, RunRequested)}
    outcomes = Counter(
        e.stream_id
        for e in recorded
        if e.topic in ("run.succeeded.v1", "run.failed.v1", "run.interrupted.v1", "run.timed_out.v1")
    )
    assert set(outcomes) == requested
    assert set(outcomes.values()) == {1}
    verified = server.command("replay", "--verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def remove_nats(folder: Path) -> None:
    """Remove the folder once the orphaned nats-server has noticed that its parent is gone."""
    with (folder / "run" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    shutil.rmtree(folder)


def test_read_models_and_bus_can_be_thrown_away(make_server: Any) -> None:
    server = make_server(CRONLEDGER_CRONS_PER_USER="0")

    async def use() -> tuple[str, str]:
        async with get_client(url=server.url) as client:
            return await begin(client)

    async def begin(client: Any) -> tuple[str, str]:
        thread = await client.threads.create(metadata={"kept": 1})
        cron: Any = await client.crons.create_for_thread(
            thread["thread_id"], assistant_id="counter", schedule="0 0 1 1 *", input={"wait_s": 0}
        )
        await client.runs.join(thread["thread_id"], cron["run_id"])
        await client.runs.create(thread["thread_id"], "counter", input={"wait_s": 2})
        await client.runs.create(thread["thread_id"], "counter", input={"wait_s": 0})
        return thread["thread_id"], cron["cron_id"]

    thread_id, cron_id = asyncio.run(use())
    server.kill()
    for path in server.data.glob("views.db*"):
        path.unlink()
    remove_nats(server.data / "nats")
    server.start()

    async def look() -> None:
        async with get_client(url=server.url) as client:
            await check(client)

    async def check(client: Any) -> None:
        assert (await client.threads.get(thread_id))["metadata"]["kept"] == 1
        cron: Any = await client.http.get(f"/runs/crons/{cron_id}")
        assert cron["schedule"] == "0 0 1 1 *"
        async with asyncio.timeout(60):
            while True:
                runs = await client.runs.list(thread_id)
                if {run["status"] for run in runs} == {"success"}:
                    break
                await asyncio.sleep(0.1)
        assert len(runs) == 3
        state: Any = await client.threads.get_state(thread_id)
        assert state["values"]["count"] == 3

    asyncio.run(look())
    verified = server.command("replay", "--verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_command_line(make_server: Any) -> None:
    server = make_server()

    async def use() -> str:
        async with get_client(url=server.url) as client:
            cron: Any = await client.crons.create("counter", schedule="30 9 * * *", timezone="Asia/Tokyo")
            return str(cron["cron_id"])

    cron_id = asyncio.run(use())
    listed = server.command("crons", "list")
    assert cron_id in listed.stdout
    shown = server.command("crons", "show", cron_id)
    assert msgspec.json.decode(shown.stdout)["schedule"] == "30 9 * * *"
    coming = server.command("crons", "upcoming", cron_id, "--limit", "3")
    assert coming.stdout.count("T09:30:00+09:00") == 3
    table = server.command("audit", "--cron", cron_id)
    assert "cron.created.v1" in table.stdout
    lines = server.command("audit", "--cron", cron_id, "--json", "--type", "cron.")
    [line] = map(msgspec.json.decode, lines.stdout.splitlines())
    assert line["data"]["schedule"] == "30 9 * * *"
    for broken in (["crons", "show", "x"], ["audit", "--run", "x"]):
        failed = server.command(*broken)
        assert failed.returncode == 1
        assert "not a UUID" in failed.stderr
    rebuilt = server.command("replay")
    assert rebuilt.returncode == 0, rebuilt.stderr
