"""Many clients at once on one thread: never do two runs go on together, and every accepted one settles."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import ConflictError, NotFoundError

from contracts.events import LaneChanged, RunRequested, RunRolledBack, RunStarted, Settled
from contracts.ledger import Recorded
from tests.faults.verdict import ledger

CLIENTS = 50


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server()


def story(path: Path, thread_id: str) -> list[Recorded]:
    """What happened to the thread's runs and in its lane."""
    return [e for e in ledger(path) if str(getattr(e.body, "thread_id", "")) == thread_id]


def check_one_at_a_time(recorded: list[Recorded]) -> Counter[str]:
    """How the runs ended, by class; no run starts before the one that had the thread has ended."""
    running: set[UUID] = set()
    requested: set[UUID] = set()
    outcomes: dict[UUID, str] = {}
    for event in recorded:
        match event.body:
            case RunRequested():
                requested.add(event.stream_id)
            case RunStarted():
                running.add(event.stream_id)
                assert len(running) == 1, (event, running)
            case Settled() | RunRolledBack():
                assert event.stream_id not in outcomes, event
                outcomes[event.stream_id] = type(event.body).__name__
                running.discard(event.stream_id)
            case LaneChanged() as body if body.in_flight:
                assert sum(1 for entry in body.in_flight if entry.stopping) <= 1, event
    assert set(outcomes) == requested
    assert not running
    return Counter(outcomes.values())


async def settled(client: Any, thread_id: str) -> None:
    async with asyncio.timeout(60):
        while (await client.threads.get(thread_id))["status"] == "busy":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("strategy", ["enqueue", "reject", "interrupt", "rollback", "all"])
async def test_fifty_clients_on_one_thread(server: Any, strategy: str) -> None:
    kinds = ["enqueue", "reject", "interrupt", "rollback"]

    async with get_client(url=server.url) as client:
        thread_id = (await client.threads.create())["thread_id"]

        async def request(n: int) -> bool:
            chosen: Any = kinds[n % 4] if strategy == "all" else strategy
            try:
                await client.runs.create(
                    thread_id, "counter", input={"wait_s": 0.01}, multitask_strategy=chosen, metadata={"n": n}
                )
            except ConflictError:
                return False
            return True

        accepted = sum(await asyncio.gather(*(request(n) for n in range(CLIENTS))))
        await settled(client, thread_id)
        runs = await client.runs.list(thread_id, limit=1000)
        thread: Any = await client.threads.get(thread_id)
        state: Any = await client.threads.get_state(thread_id)
        with pytest.raises(NotFoundError):
            await client.runs.get(thread_id, thread_id)
    ended = check_one_at_a_time(story(server.data / "ledger.db", thread_id))
    assert sum(ended.values()) == accepted
    shown = Counter(run["status"] for run in runs)
    assert shown["success"] == ended["RunSucceeded"] >= 1
    assert shown["interrupted"] == ended["RunInterrupted"]
    assert shown.total() == accepted - ended["RunRolledBack"]
    if strategy in ("enqueue", "reject"):
        assert set(ended) == {"RunSucceeded"}
        assert accepted == CLIENTS if strategy == "enqueue" else accepted >= 1
    if strategy in ("enqueue", "reject", "rollback"):
        # Each run that was not undone has added 1, and nobody has trampled on another's.
        assert state["values"]["count"] == ended["RunSucceeded"]
    assert thread["values"] == state["values"]
