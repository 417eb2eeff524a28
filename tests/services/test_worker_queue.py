"""A worker and its queue: a message stays on RUNS until its run is over, whatever happens to the worker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.events import RunReleased, RunStarted
from contracts.subjects import RUNS, STREAMS
from services.kit.bus.nats import NatsBus
from services.kit.bus.streams import ensure_streams
from services.kit.clock import SystemClock
from services.kit.ids import uuid7
from services.kit.lifecycle import health
from services.kit.settings import Settings
from services.worker.claims import Claims
from services.worker.worker import Worker
from tests.services import graph_children
from tests.services.lane_bench import Bench

SOURCE = '''
    """A graph that waits until it may go on."""
    import asyncio
    import os
    from pathlib import Path
    from typing import TypedDict

    from langgraph.graph import END, START, StateGraph


    class State(TypedDict, total=False):
        done: bool


    async def node(state: State) -> State:
        while not Path(os.environ["GO"]).exists():
            await asyncio.sleep(0.02)
        return {"done": True}


    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    agent = builder.compile()
'''


class Place(Bench):
    """A bench with real workers."""

    def __init__(self, folder: Path, bus: NatsBus, graphs: graph_children.Bench) -> None:
        super().__init__(folder, bus)
        self.graphs = graphs
        self.workers: list[Worker] = []

    async def worker(self, name: str) -> Worker:
        pool = await self.graphs.pool()
        settings = Settings(lease_s=2, cancel_grace_s=0.2)
        project = self.graphs.project()
        worker = Worker(self.log, self.bus, pool, project, SystemClock(), settings, worker_id=name)
        self.workers.append(worker)
        await worker.start()
        return worker

    async def close(self) -> None:
        for worker in self.workers:
            await worker.stop()
        await super().close()

    def started(self, run_id: Any) -> list[str]:
        """The workers that have claimed the run."""
        return [e.body.worker for e in self.log.stream(run_id) if isinstance(e.body, RunStarted)]


@pytest.fixture
async def place(tmp_path: Path, bus: NatsBus) -> AsyncIterator[Place]:
    (tmp_path / "project").mkdir()
    async with graph_children.bench_of(tmp_path / "project", SOURCE, ["agent"]) as graphs:
        made = Place(tmp_path, bus, graphs)
        await made.open()
        await made.relay()
        yield made
        await made.close()


async def test_a_message_leaves_when_its_run_is_over(place: Place) -> None:
    await place.worker("w1")
    runs = [await place.ask(uuid7()), await place.ask_alone()]
    await place.until(lambda: all(place.started(run_id) for run_id in runs))
    assert await place.queued() == 2
    place.graphs.go.touch()
    await place.until_queued(0)
    assert [place.run(run_id).status for run_id in runs] == ["success"] * 2


async def test_a_worker_that_stops_leaves_its_runs_to_others(place: Place) -> None:
    first = await place.worker("w1")
    run_id = await place.ask(uuid7())
    await place.until(lambda: place.started(run_id))
    await first.stop()
    assert await place.queued() == 1
    assert any(isinstance(e.body, RunReleased) for e in place.log.stream(run_id))
    place.graphs.go.touch()
    await place.worker("w2")
    await place.until_queued(0)
    assert place.started(run_id) == ["w1", "w2"]
    assert place.run(run_id).status == "success"


async def test_a_worker_that_was_taken_for_dead_takes_no_message_away(place: Place) -> None:
    await place.worker("w1")
    run_id = await place.ask(uuid7())
    await place.until(lambda: place.started(run_id))
    place.store_clock.move(60)  # its lease has ended, and it does not know
    other = await place.claim(run_id, "w2", lease_s=3)
    assert other.verdict is None
    place.graphs.go.touch()  # the void attempt comes to its end, too
    await asyncio.sleep(2)
    assert await place.queued() == 1
    assert place.run(run_id).status == "running"
    place.store_clock.move(60)  # whoever took it dies without a word
    await place.until_queued(0)
    assert place.started(run_id) == ["w1", "w2", "w1"]
    assert place.run(run_id).status == "success"


async def test_a_claim_that_raises_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, failures = Claims.claim, 0

    async def failing(claims: Claims, job: Any) -> None:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise OSError("the disk has a bad moment")
        await claim(claims, job)

    monkeypatch.setattr(Claims, "claim", failing)
    place.graphs.go.touch()
    await place.worker("w1")
    run_id = await place.ask(uuid7())
    await place.until(lambda: place.run(run_id).status == "success")
    await place.until_queued(0)
    assert failures == 3


async def test_a_worker_that_can_not_start_holds_nothing_when_it_was_stopped(place: Place) -> None:
    await place.bus.api(f"STREAM.DELETE.{RUNS.name}")
    with pytest.raises(ConnectionError):
        await place.worker("w1")
    [worker] = place.workers
    await worker.stop()
    told = health([worker])
    assert set(told.values()) == {"not started"}, told
    assert {"bus.pull.w_default_normal", "bus.pull.w_default_chores", "worker.heartbeat"} <= told.keys()
    assert place.log.leases("worker.") == []
    await ensure_streams(place.bus, STREAMS)
    await worker.start()
    assert not any(health([worker]).values())
