"""Processes are killed again and again; afterwards the ledger tells of each occurrence exactly once."""

import asyncio
import fcntl
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from langgraph_sdk import get_client

from contracts.codec import EventCodec
from contracts.events import AssistantCreated, CronCreated
from contracts.ledger import Append
from domain.assistant import default_assistant_id
from domain.changes import Changes
from services.kit.clock import SystemClock
from services.kit.eventlog.beside import Beside
from services.kit.eventlog.sqlite import SqliteLog
from services.projector.replay import verify
from tests.faults.client import Client
from tests.faults.verdict import ledger, unsettled, untold, untrue

SEED = 20261124
TERMINAL = {"success", "error", "timeout", "interrupted"}


class Sibling:
    """A process on a data folder. It says so when it is ready."""

    def __init__(self, command: tuple[str, ...], data: Path) -> None:
        self._command, self._data = command, data
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._command, str(self._data)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "CRONLEDGER_CATCH_UP_SPREAD_S": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def await_ready(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert "is ready" in self._process.stdout.readline()

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def stop(self) -> str:
        """What it said at the end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        said = self._process.communicate(timeout=30)[0]
        self._process = None
        return said


MakeSibling = Callable[[tuple[str, ...], Path], Sibling]
OWNER = ("tests.faults.owner",)
SCHEDULER = ("services", "scheduler", "--data")


@pytest.fixture
def make_sibling() -> Iterator[MakeSibling]:
    """Siblings of one test: none outlives it."""
    made: list[Sibling] = []

    def make(command: tuple[str, ...], data: Path) -> Sibling:
        made.append(Sibling(command, data))
        return made[-1]

    yield make
    for each in made:
        each.kill()


# --- where it is decided: a ledger, two schedulers, no graphs ----------------------------------------


async def make_crons(data: Path, many: int) -> None:
    """One half without threads, a quarter that wait in lanes, a quarter that are skipped while it is busy."""
    beside = Beside(data, "test")
    await beside.start()
    client, log = Client(beside.log, SystemClock()), beside.log
    assistant = AssistantCreated(graph_id="counter", name="counter", system=True)
    append = Append(default_assistant_id("counter"), 0, (assistant,))
    await client.do(lambda: Changes(appends=() if log.stream(append.stream_id) else (append,)))
    for n in range(many):
        thread_id = await client.thread() if n % 2 == 0 else None
        strategy = "reject" if n % 4 else "enqueue"
        await client.cron("* * * * * *", "counter", {"multitask_strategy": strategy}, thread_id=thread_id)
    await beside.stop()


async def pause_each(data: Path) -> None:
    beside = Beside(data, "test")
    await beside.start()
    client, log = Client(beside.log, SystemClock()), beside.log
    for event in log.read_topics("cron.created", 0, log.head(), 1000):
        await client.change(event.stream_id, enabled=False)
    await beside.stop()


def await_told(data: Path, most_s: float = 60) -> None:
    """Until each cron has told of all that it was due at before now."""
    until, deadline = int(time.time()), time.monotonic() + most_s
    while left := untold(ledger(data / "ledger.db"), until):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


async def differences(data: Path) -> list[Any]:
    log = SqliteLog(data / "ledger.db", EventCodec())
    try:
        return list(verify(log, data / "views.db"))
    finally:
        await log.stop()


@pytest.mark.parametrize(("crons", "kills"), [(100, 8), pytest.param(200, 20, marks=pytest.mark.long)])
def test_kills_of_schedulers(tmp_path: Path, make_sibling: MakeSibling, crons: int, kills: int) -> None:
    owner = make_sibling(OWNER, tmp_path)
    pair = [make_sibling(SCHEDULER, tmp_path) for _ in range(2)]
    all_three = [owner, *pair]
    chance = random.Random(SEED)

    def begin(processes: list[Sibling]) -> None:
        for group in ([owner], pair):  # the pair needs the owner
            begun = [process for process in group if process in processes]
            for process in begun:
                process.start()
            for process in begun:
                process.await_ready()

    begin(all_three)
    asyncio.run(make_crons(tmp_path, crons))
    for _ in range(kills):
        time.sleep(chance.uniform(0.1, 1.3))
        # Without the owner the others could do nothing: they go with it.
        victims = chance.choice([all_three, pair, pair[:1], pair[1:]])
        for process in victims:
            process.kill()
        begin(victims)
    await_told(tmp_path)
    time.sleep(3)  # both have several instants to decide, whoever was started last
    asyncio.run(pause_each(tmp_path))
    await_told(tmp_path)
    for process in (*pair, owner):
        process.stop()
    recorded = ledger(tmp_path / "ledger.db")
    assert len([e for e in recorded if isinstance(e.body, CronCreated)]) == crons
    assert untrue(recorded, int(time.time())) == []
    assert asyncio.run(differences(tmp_path)) == []


# --- the whole server ---------------------------------------------------------------------------------


async def create_crons(url: str, many: int) -> None:
    async with get_client(url=url) as client:
        await asyncio.gather(*(_create(client, n) for n in range(many)))


async def _create(client: Any, n: int) -> None:
    if n % 2:
        # One half of them runs beside each other, the other waits, or takes the place of who is before it.
        overlap = {1: "buffer_one", 5: "cancel_other"}.get(n % 8, "allow")
        await client.crons.create(
            "counter",
            schedule="* * * * * *",
            input={"wait_s": 0},
            on_run_completed="keep" if overlap == "cancel_other" else "delete",
            params={"overlap": overlap},
        )
        return
    thread = await client.threads.create()
    # One half waits its turn, the other is skipped while the thread is busy.
    strategy = "reject" if n % 4 else "enqueue"
    await client.crons.create_for_thread(
        thread["thread_id"], assistant_id="counter", schedule="* * * * * *", multitask_strategy=strategy
    )


async def pause_all(url: str) -> None:
    async with get_client(url=url) as client:
        for cron in await client.crons.search(limit=1000):
            await client.crons.update(cron["cron_id"], enabled=False)


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


@pytest.mark.parametrize(
    ("crons", "kills", "schedulers"),
    [
        (20, 5, 2),
        pytest.param(200, 20, 1, marks=pytest.mark.long),
        pytest.param(200, 20, 2, marks=pytest.mark.long),
    ],
)
def test_kills_of_a_whole_server(
    make_server: Any, make_sibling: MakeSibling, crons: int, kills: int, schedulers: int
) -> None:
    server = make_server(
        CRONLEDGER_CRONS_PER_USER="0", CRONLEDGER_CATCH_UP_SPREAD_S="1", CRONLEDGER_LEASE_S="2"
    )
    others = [make_sibling(SCHEDULER, server.data) for _ in range(schedulers - 1)]
    for other in others:
        other.start()
    asyncio.run(create_crons(server.url, crons))
    chance = random.Random(SEED)
    for _ in range(kills):
        time.sleep(chance.uniform(0.2, 2.5))
        for other in others:
            other.kill()
        server.kill()
        server.start()
        for other in others:
            other.start()
    await_told(server.data)
    for other in others:
        other.stop()
    asyncio.run(pause_all(server.url))
    asyncio.run(wait_for_the_end(server))
    server.stop()
    recorded = ledger(server.data / "ledger.db")
    assert len([e for e in recorded if isinstance(e.body, CronCreated)]) == crons
    assert untrue(recorded, int(time.time())) == []
    assert unsettled(recorded) == []
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
