"""Graphs that block, leave or crash, and the runs, questions and signals beside them."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

LEASE_S = 3.0
Runs = list[tuple[str, str]]


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server("bulkheads", CRONLEDGER_LEASE_S=str(LEASE_S), CRONLEDGER_QUESTION_TIMEOUT_S="6")


async def new_thread(client: Any) -> str:
    return str((await client.threads.create())["thread_id"])


async def begun(client: Any, graph: str, count: int = 1, **given: Any) -> Runs:
    """Runs on threads of their own, once they are running."""
    runs: Runs = []
    for _ in range(count):
        thread_id = await new_thread(client)
        runs.append((thread_id, (await client.runs.create(thread_id, graph, input=given))["run_id"]))
    await asyncio.gather(*(until(client, run, "running") for run in runs))
    return runs


async def until(client: Any, run: tuple[str, str], *statuses: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (found := await client.runs.get(*run))["status"] not in statuses:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return dict(found)


async def ended(client: Any, run: tuple[str, str]) -> dict[str, Any]:
    return await until(client, run, "success", "error", "interrupted", "timeout")


async def attempts(client: Any, run: tuple[str, str]) -> list[dict[str, Any]]:
    """The bodies of the run's RunStarted events."""
    told = await client.http.get(f"/threads/{run[0]}/runs/{run[1]}/ledger")
    return [event for event in told if event["type"] == "run.started.v1"]


@contextmanager
def there(path: Path) -> Iterator[None]:
    path.touch()
    try:
        yield
    finally:
        path.unlink()


async def test_a_node_that_blocks_longer_than_the_lease_acts_once(server: Any, client: Any) -> None:
    acted = server.folder / "project" / "acted"
    acted.unlink(missing_ok=True)
    [kept] = await begun(client, "block", seconds=2 * LEASE_S)
    await client.runs.wait(None, "block", input={"seconds": 1})
    assert (await ended(client, kept))["status"] == "success"
    assert acted.read_text().split() == ["acted", "acted"]
    assert len(await attempts(client, kept)) == 1
    assert (await client.threads.get_state(kept[0]))["values"]["log"] == ["held"]


async def test_states_and_histories_are_told_while_every_run_process_is_blocked(
    server: Any, client: Any
) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "slow", input={"seconds": 0})
    held = await new_thread(client)
    made = await client.runs.create(held, "block", input={"seconds": 90})
    blocked = (held, made["run_id"])
    await until(client, blocked, "running")
    await asyncio.sleep(1)  # its node has the loop by now
    assert (await client.threads.get_state(thread_id))["values"]["log"] == ["waited"]
    assert len(await client.threads.get_history(thread_id)) == 3
    assert (await client.runs.get(*blocked))["status"] == "running"
    # A run that comes when it is known that the process does not answer has another one.
    await asyncio.sleep(4)
    await client.runs.wait(thread_id, "slow", input={"seconds": 0})
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=server.url) as http:
        while (health := (await http.get("/health")).json())["services"]["worker.child1"] == "ok":  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    assert "has not answered" in health["services"]["worker.child1"]
    assert (
        health["status"] == "healthy"
    )  # or whoever watches the server would restart it, and the run with it
    assert (await client.runs.get(*blocked))["status"] == "running"
    with there(server.folder / "project" / "enough"):
        assert (await ended(client, blocked))["status"] == "success"


async def test_a_factory_that_blocks_costs_its_own_answer(server: Any, client: Any) -> None:
    [neighbour] = await begun(client, "slow", seconds=90)
    with there(server.folder / "project" / "dawdle"):
        assistants = await client.assistants.search(graph_id="dawdling")
        asking = asyncio.create_task(client.assistants.get_schemas(assistants[0]["assistant_id"]))
        await asyncio.sleep(0.5)
        run = await client.runs.wait(None, "slow", input={"seconds": 0})
        assert run["log"] == ["waited"]
        with pytest.raises(Exception, match="did not answer any more"):
            await asking
    assert await client.assistants.get_schemas(assistants[0]["assistant_id"])
    with there(server.folder / "project" / "enough"):
        assert (await ended(client, neighbour))["status"] == "success"
    assert len(await attempts(client, neighbour)) == 1


@pytest.mark.parametrize(("how", "word"), [("exit", "3"), ("ctrl-c", "")])
async def test_who_leaves_leaves_alone(server: Any, client: Any, how: str, word: str) -> None:
    neighbours = await begun(client, "slow", 3, seconds=90)
    [left] = await begun_or_over(client, how)
    told = await ended(client, left)
    name = {"exit": "SystemExit", "ctrl-c": "KeyboardInterrupt"}[how]
    assert (told["status"], told["error_message"]) == ("error", f"{name}: {word}")
    with there(server.folder / "project" / "enough"):
        for run in neighbours:
            assert (await ended(client, run))["status"] == "success"
            assert len(await attempts(client, run)) == 1


async def test_a_crash_ends_the_run_that_crashes_and_no_other(server: Any, client: Any) -> None:
    neighbours = await begun(client, "slow", 3, seconds=90)
    [crashing] = await begun_or_over(client, "os._exit")
    async with asyncio.timeout(60):
        while not all([len(await attempts(client, run)) > 1 for run in neighbours]):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    with there(server.folder / "project" / "enough"):
        told = await ended(client, crashing)
        assert (told["status"], told["error_message"].endswith("exit code 9")) == ("error", True)
        for run in neighbours:
            assert (await ended(client, run))["status"] == "success"
            assert all(event["data"].get("excused") for event in (await attempts(client, run))[1:])


async def begun_or_over(client: Any, how: str) -> Runs:
    thread_id = await new_thread(client)
    return [(thread_id, (await client.runs.create(thread_id, "leave", input={"how": how}))["run_id"])]


async def test_signals_to_the_group_end_no_run(make_server: Callable[..., Any]) -> None:
    server = make_server("bulkheads")
    async with get_client(url=server.url) as client:
        [run] = await begun(client, "slow", seconds=90)
    for count, number in enumerate((signal.SIGINT, signal.SIGTERM), 1):
        async with get_client(url=server.url) as client, asyncio.timeout(60):
            while len(await attempts(client, run)) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        os.killpg(server.process.pid, number)
        assert await asyncio.to_thread(server.process.wait, 30) in (0, None)
        server.process.stdout.close()
        await asyncio.to_thread(server.start)
    async with get_client(url=server.url) as client:
        with there(server.folder / "project" / "enough"):
            assert (await ended(client, run))["status"] == "success"
        excused = [event["data"].get("excused", False) for event in await attempts(client, run)]
        assert excused == [False, True, True]


async def test_a_stop_waits_for_no_process_that_hangs(make_server: Callable[..., Any]) -> None:
    server = make_server("bulkheads")
    async with get_client(url=server.url) as client:
        [blocked] = await begun(client, "block", seconds=30)
        [slow] = await begun(client, "slow", seconds=0)
        with there(server.folder / "project" / "dawdle"):
            assistants = await client.assistants.search(graph_id="dawdling")
            asking = asyncio.create_task(client.assistants.get_schemas(assistants[0]["assistant_id"]))
            await asyncio.sleep(4)
            began = time.monotonic()
            await asyncio.to_thread(server.stop)
            assert time.monotonic() - began < 10
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.to_thread(server.start)
    async with get_client(url=server.url) as client:
        for run in (blocked, slow):
            events = await client.http.get(f"/threads/{run[0]}/runs/{run[1]}/ledger")
            assert "run.failed.v1" not in {event["type"] for event in events}
        assert "run.released.v1" in {
            event["type"]
            for event in await client.http.get(f"/threads/{blocked[0]}/runs/{blocked[1]}/ledger")
        }
