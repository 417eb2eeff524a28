"""Threads' states while no worker is there: what the read models know is told, writes are withdrawn."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from httpx import ASGITransport

from contracts.codec import EventCodec, pack
from contracts.events import (
    CheckpointRef,
    LaneChanged,
    RunFailed,
    RunInterrupted,
    RunRequested,
    RunRolledBack,
    RunSucceeded,
    RunTimedOut,
    ThreadDeleted,
)
from contracts.ledger import Append, Body, Meta, Payload, Transaction
from domain import assistant as assistants
from domain.assistant import RegisterGraph, default_assistant_id
from domain.lane import lane_id_of
from services.gateway.app import build_app
from services.kit.clock import SystemClock
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from tests.services.gateways import gateway_parts

META = Meta(at=datetime(2026, 11, 24, 12, tzinfo=UTC), actor="test")
ASSISTANT = default_assistant_id("agent")


class HastyClock(SystemClock):
    """Whoever waits for news is told at once that the time is over, or sees what happens `meanwhile`."""

    def __init__(self) -> None:
        self.waited_s = 0.0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    def monotonic_s(self) -> float:
        return self.waited_s

    async def changed(self, timeout_s: float) -> None:
        self.waited_s += timeout_s
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()


class Bench:
    """A gateway on a real log and real read models, without a bus."""

    def __init__(self, folder: Path) -> None:
        self.log = SqliteLog(folder / "ledger.db", EventCodec())
        self.projector = Projector(self.log, folder / "views.db")
        self.views = SqliteViews(folder / "views.db")
        self.clock = HastyClock()

    async def open(self) -> httpx.AsyncClient:
        await self.log.start()
        await self.projector.start()
        created = assistants.decide(None, RegisterGraph(graph_id="agent", name="agent"))
        await self.store(*assistants.appends(ASSISTANT, None, created))
        parts = gateway_parts(
            self.log, self.views, self.projector, changed=self.clock.changed, clock=self.clock
        )
        app: Any = build_app(parts)
        return httpx.AsyncClient(transport=ASGITransport(app), base_url="http://test")

    async def close(self) -> None:
        self.views.close()
        await self.projector.stop()
        await self.log.stop()

    async def store(self, *appends: Append) -> None:
        position = await self.log.append(Transaction(meta=META, appends=appends))
        await self.projector.reached(position, 10)

    async def ran(self, thread_id: str, values: Any) -> None:
        """A run of the thread that left these values."""
        requested = RunRequested(
            thread_id=UUID(thread_id),
            assistant_id=ASSISTANT,
            graph_id="agent",
            user_id="anonymous",
            kwargs=Payload(),
        )
        ended = RunSucceeded(
            thread_id=UUID(thread_id),
            attempt=1,
            output=pack(values)[0],
            checkpoint=CheckpointRef(thread_id, "c1"),
        )
        await self.store(Append(uuid7(), 0, (requested, ended)))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def http(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with await bench.open() as client:
        yield client


async def new_thread(http: httpx.AsyncClient) -> str:
    answer = await http.post("/threads", json={"metadata": {"graph_id": "agent"}})
    return str(answer.json()["thread_id"])


async def test_newest_state_is_what_the_last_run_left(bench: Bench, http: httpx.AsyncClient) -> None:
    thread_id = await new_thread(http)
    await bench.ran(thread_id, {"x": 1})
    state = (await http.get(f"/threads/{thread_id}/state")).json()
    assert (state["values"], state["checkpoint_id"]) == ({"x": 1}, "c1")
    unknown: list[tuple[str, str, Any]] = [
        ("GET", "/state?subgraphs=true", None),
        ("GET", "/state/c1", None),
        ("POST", "/state/checkpoint", {"checkpoint": {"checkpoint_id": "c1"}}),
        ("GET", "/history", None),
        ("POST", "/history", {}),
        ("POST", "/copy", None),
    ]
    for method, path, body in unknown:
        answer = await http.request(method, f"/threads/{thread_id}{path}", json=body)
        assert (answer.status_code, answer.json()["error"]) == (503, "graphs_unavailable"), path
    assert (await http.post("/threads/count", json={})).json() == 1


async def test_write_that_nobody_does_is_withdrawn(bench: Bench, http: httpx.AsyncClient) -> None:
    thread_id = await new_thread(http)
    answer = await http.post(f"/threads/{thread_id}/state", json={"values": {"x": 1}})
    assert (answer.status_code, answer.json()["error"]) == (503, "graphs_unavailable")
    assert bench.clock.waited_s >= 60
    lane_id = lane_id_of(UUID(thread_id))
    lane = bench.log.newest([lane_id])[lane_id].body
    assert isinstance(lane, LaneChanged)
    assert lane.in_flight == ()
    thread = (await http.get(f"/threads/{thread_id}")).json()
    assert (thread["status"], thread["values"]) == ("idle", None)


async def test_supersteps_that_nobody_does_leave_nothing(http: httpx.AsyncClient) -> None:
    supersteps = [{"updates": [{"values": {"x": 1}, "as_node": "__input__"}]}]
    body = {"metadata": {"graph_id": "agent"}, "supersteps": supersteps}
    answer = await http.post("/threads", json=body)
    assert answer.status_code == 503
    assert (await http.post("/threads/count", json={})).json() == 0


THREAD = UUID("01900000-0000-7000-8000-000000000001")


@pytest.mark.parametrize(
    ("outcome", "status", "named"),
    [
        (
            RunFailed(thread_id=THREAD, error="InvalidUpdateError", message="no node"),
            422,
            "values: .*no node",
        ),
        (RunFailed(thread_id=THREAD, error="WorkerLost", message="lost 3 times"), 503, "lost 3 times"),
        (RunTimedOut(thread_id=THREAD, limit_s=1), 503, "longer than 1 s"),
        (RunInterrupted(thread_id=THREAD, reason="run x took its place"), 409, "run x took its place"),
        (RunRolledBack(thread_id=THREAD), 409, "a run took its place"),
        (RunSucceeded(thread_id=THREAD), 422, "keeps no checkpoint"),
        (ThreadDeleted(), 404, "Thread not found"),
    ],
)
async def test_write_that_comes_to_nothing_says_why(
    bench: Bench, http: httpx.AsyncClient, outcome: Body, status: int, named: str
) -> None:
    async def meanwhile() -> None:
        [row] = bench.views.all("SELECT run_id FROM runs")
        if not isinstance(outcome, ThreadDeleted):
            await bench.store(Append(UUID(bytes=row["run_id"]), 1, (outcome,)))
            return
        closed = LaneChanged(thread_id=THREAD, change="closed", closed=True)
        await bench.store(Append(lane_id_of(THREAD), 1, (closed,)), Append(THREAD, 1, (outcome,)))

    await http.post("/threads", json={"thread_id": str(THREAD), "metadata": {"graph_id": "agent"}})
    bench.clock.meanwhile = meanwhile
    answer = await http.post(f"/threads/{THREAD}/state", json={"values": {"x": 1}})
    assert answer.status_code == status
    assert re.search(named, answer.json()["detail"])


async def test_searches_are_bounded(http: httpx.AsyncClient) -> None:
    refused = await http.post("/threads/search", json={"ids": ["x"] * 10_001})
    assert (refused.status_code, refused.json()["detail"][:4]) == (422, "ids:")
    for alias in ("values", "created_at", "user_id", "not an identifier"):
        answer = await http.post("/threads/search", json={"extract": {alias: "values.x"}})
        assert answer.status_code == 422, alias
    huge = await http.post("/threads/search", json={"offset": 1 << 70})
    assert huge.status_code == 422
