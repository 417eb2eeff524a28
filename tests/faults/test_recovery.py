"""Processes die or stall in the middle of a run: it goes on from its checkpoint, and settles once."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from langgraph_sdk import get_client

from contracts.codec import EventCodec
from contracts.events import RunStarted, Settled
from contracts.ledger import Recorded
from services.kit.eventlog.sqlite import SqliteReader

REPOSITORY = Path(__file__).parents[2]
STEPS = 8


def children_of(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split()]
    return sorted(set(found))


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def child_named(pid: int, part: str) -> int:
    [found] = [child for child in children_of(pid) if part in command_of(child)]
    return found


def story(server: Any, run_id: str) -> list[Recorded]:
    from uuid import UUID

    reader = SqliteReader(server.data / "ledger.db", EventCodec())
    try:
        return reader.stream(UUID(run_id))
    finally:
        reader.close_readers()


def attempts(events: list[Recorded]) -> list[int]:
    return [event.body.attempt for event in events if isinstance(event.body, RunStarted)]


async def begun(client: Any, wait_s: float = 0.3, **more: Any) -> tuple[str, str]:
    """A run of `STEPS` steps that is in its third one."""
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "stepping", input={"wait_s": wait_s}, durability="sync", **more)
    await steps_done(client, thread_id, 2)
    return thread_id, run["run_id"]


async def steps_done(client: Any, thread_id: str, many: int) -> None:
    async with asyncio.timeout(60):
        while True:
            state: Any = await client.threads.get_state(thread_id)
            if len(state["values"].get("trail", ())) >= many:
                return
            await asyncio.sleep(0.05)


async def outcome(client: Any, thread_id: str, run_id: str) -> Any:
    async with asyncio.timeout(90):
        while True:
            run = await client.runs.get(thread_id, run_id)
            if run["status"] not in ("pending", "running"):
                return run
            await asyncio.sleep(0.1)


def check_settled_once(server: Any, run_id: str, tries: list[int]) -> None:
    events = story(server, run_id)
    assert attempts(events) == tries
    assert sum(isinstance(event.body, Settled) for event in events) == 1


def check_each_step_once(run: Any) -> None:
    """Every step is in the state once, in order; those before the crash were not done again."""
    trail = run["output"]["trail"]
    assert [step for step, _ in trail] == list(range(STEPS))
    processes = [process for _, process in trail]
    assert processes[0] == processes[1]
    assert processes[0] != processes[-1]


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    """A server that comes to much harm, and is well again when a test ends."""
    return make_shared_server()


@pytest.mark.parametrize("who", ["child", "server"])
def test_run_goes_on_in_a_new_process(server: Any, who: str) -> None:
    async def before() -> tuple[str, str]:
        async with get_client(url=server.url) as client:
            return await begun(client)

    thread_id, run_id = asyncio.run(before())
    if who == "child":
        os.kill(child_named(server.process.pid, "worker.child1"), signal.SIGKILL)
    else:
        server.kill()
        server.start()

    async def after() -> Any:
        async with get_client(url=server.url) as client:
            return await outcome(client, thread_id, run_id)

    run = asyncio.run(after())
    assert run["status"] == "success"
    check_each_step_once(run)
    check_settled_once(server, run_id, [1, 2])


def test_restarts_in_good_order_are_not_held_against_a_run(server: Any) -> None:
    async def before() -> tuple[str, str]:
        async with get_client(url=server.url) as client:
            thread_id = (await client.threads.create())["thread_id"]
            run = await client.runs.create(thread_id, "stepping", input={"wait_s": 0.8}, durability="sync")
            return thread_id, run["run_id"]

    async def until(status: str, thread_id: str, run_id: str) -> Any:
        async with get_client(url=server.url) as client:
            async with asyncio.timeout(60):
                while (run := await client.runs.get(thread_id, run_id))["status"] != status:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            return run

    ids = asyncio.run(before())
    for _ in range(4):
        asyncio.run(until("running", *ids))
        server.stop()
        server.start()
    run = asyncio.run(until("success", *ids))
    assert [step for step, _ in run["output"]["trail"]] == list(range(STEPS))
    check_settled_once(server, ids[1], [1, 2, 3, 4, 5])


def test_run_does_not_notice_that_nats_died(server: Any) -> None:
    async def use() -> tuple[str, Any]:
        async with get_client(url=server.url) as client:
            thread_id, run_id = await begun(client)
            os.kill(child_named(server.process.pid, "nats-server"), signal.SIGKILL)
            return run_id, await outcome(client, thread_id, run_id)

    run_id, run = asyncio.run(use())
    assert run["status"] == "success"
    assert [step for step, _ in run["output"]["trail"]] == list(range(STEPS))
    check_settled_once(server, run_id, [1])


async def follow(server: Any, path: str, since: str, seen: list[tuple[str, Any]], crash_at: int) -> bool:
    """Take the frames of a stream until it ends (True), breaks, or the crash is due (False)."""
    headers = {"Last-Event-ID": since} if since else {}
    method, body = ("GET", None) if since else ("POST", STREAMED)
    name, data = "", None
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            async with http.stream(method, path, headers=headers, json=body) as answer:
                async for line in answer.aiter_lines():
                    field, _, value = line.partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        data = msgspec.json.decode(value)
                        if name == "end":
                            return True
                    elif field == "id":
                        if name == "values":
                            seen.append((value, data))
                        if len(seen) == crash_at:
                            return False
    except httpx.TransportError:
        pass
    return False


STREAMED = {
    "assistant_id": "stepping",
    "input": {"wait_s": 0.3},
    "durability": "sync",
    "stream_mode": ["values"],
    "stream_resumable": True,
}


@pytest.mark.parametrize("who", ["nobody", "child", "server", "nats"])
def test_stream_goes_on_behind_the_last_event(server: Any, who: str) -> None:
    seen: list[tuple[str, Any]] = []

    async def new_thread() -> str:
        async with get_client(url=server.url) as client:
            return str((await client.threads.create())["thread_id"])

    thread_id = asyncio.run(new_thread())
    assert not asyncio.run(follow(server, f"/threads/{thread_id}/runs/stream", "", seen, 4))
    if who == "child":
        os.kill(child_named(server.process.pid, "worker.child1"), signal.SIGKILL)
    elif who == "nats":
        os.kill(child_named(server.process.pid, "nats-server"), signal.SIGKILL)
    elif who == "server":
        server.kill()
        server.start()

    async def run_id_of() -> str:
        async with get_client(url=server.url) as client:
            [run] = await client.runs.list(thread_id)
            return str(run["run_id"])

    path = f"/threads/{thread_id}/runs/{asyncio.run(run_id_of())}/stream"
    for _ in range(20):
        if asyncio.run(follow(server, path, seen[-1][0], seen, 0)):
            break
    else:
        pytest.fail("the stream never ended")
    assert [len(data.get("trail", ())) for _, data in seen] == list(range(STEPS + 1))
    marks = [tuple(map(int, mark.split("-"))) for mark, _ in seen]
    assert marks == sorted(set(marks))


class SecondWorker:
    """Another worker process on the same ledger."""

    def __init__(self, server: Any, environment: dict[str, str]) -> None:
        config = server.folder / "project" / "langgraph.json"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services", "worker", "--data", str(server.data), "--config", str(config)],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "is ready" in line, line
        self.id = line.split()[1]

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.wake()
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.fixture
def stalling(make_server: Callable[..., Any]) -> Iterator[tuple[Any, SecondWorker]]:
    """A server and a second worker, each with room for one run: of two runs each gets one."""
    environment = {"CRONLEDGER_LEASE_S": "2", "CRONLEDGER_RUNS_PER_CHILD": "1"}
    server = make_server(**environment)
    second = SecondWorker(server, environment)
    yield server, second
    second.stop()


def test_stalled_worker_is_replaced_and_its_result_is_void(stalling: tuple[Any, SecondWorker]) -> None:
    server, second = stalling

    async def use() -> tuple[str, str, Any, Any]:
        async with get_client(url=server.url) as client:
            return await stall(client)

    async def stall(client: Any) -> tuple[str, str, Any, Any]:
        runs = [await begun(client, 0.6) for _ in range(2)]
        mine = next(run for run in runs if worker_of(server, run[1]) == second.id)
        second.pause()
        run = await outcome(client, *mine)
        second.wake()
        # What the woken worker and its child do now must not show.
        await asyncio.sleep(3)
        return *mine, run, await client.threads.get_state(mine[0])

    _, run_id, run, state = asyncio.run(use())
    assert run["status"] == "success"
    check_each_step_once(run)
    assert state["values"] == run["output"]
    check_settled_once(server, run_id, [1, 2])


def worker_of(server: Any, run_id: str) -> str:
    """The worker that has claimed the run."""
    return next(e.body.worker for e in story(server, run_id) if isinstance(e.body, RunStarted))
