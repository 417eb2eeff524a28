"""Graphs of a project: registered by its workers, retired when nobody has them any more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from domain.assistant import Assistant, default_assistant_id
from services.kit.lifecycle import health
from services.kit.project import GraphSpec, Project
from services.kit.settings import Settings
from services.kit.tenure import FORGOTTEN_S
from services.repository import Aggregates
from services.worker.lease import PREFIX, live_workers, pool_of, worker_id_of
from services.worker.registration import GraphTaken, Registration
from tests.services.schedulers import Bench

LOOK_S = 0.05
Make = Callable[..., Registration]


@pytest.fixture
async def make(bench: Bench, tmp_path: Path) -> AsyncIterator[Make]:
    """A worker's registration of these graphs; its lease is the test's to renew."""
    made: list[Registration] = []

    def registration(worker: str, *graphs: str) -> Registration:
        spec = GraphSpec(variable="graph", path=tmp_path / "graphs.py")
        project = Project(file=tmp_path, folder=tmp_path, graphs=dict.fromkeys(graphs, spec))
        children: Any = SimpleNamespace(ready=SimpleNamespace(graphs={graph: graph for graph in graphs}))
        edges: Any = bench.edge_log, bench.edge_views
        settings = Settings(lease_s=2 * LOOK_S)
        log, views = edges
        made.append(Registration(log, views, children, project, bench.clock, settings, worker_id=worker))
        return made[-1]

    yield registration
    for each in made:
        await each.stop()


async def begin(bench: Bench, registration: Registration, worker: str) -> None:
    await registration.start()
    await bench.log.renew_lease(PREFIX + worker, worker, 30)
    await bench.projector.reached(bench.log.head())


def default(bench: Bench, graph_id: str) -> Assistant:
    found = Aggregates(bench.log).assistant_or_none(default_assistant_id(graph_id))
    assert found is not None
    return found


async def test_workers_that_are_dead_for_long_leave_no_trace(bench: Bench, make: Make) -> None:
    await begin(bench, make("w-1", "a"), "w-1")
    bench.clock.move(seconds=31 + FORGOTTEN_S)
    await begin(bench, make("w-2", "a"), "w-2")
    assert [row.holder for row in bench.log.leases(PREFIX)] == ["w-2"]


def test_ids_tell_the_pool() -> None:
    for pool in ("default", "billing", "a-b_c", "w-0123456789ab"):
        assert pool_of(worker_id_of(pool)) == pool
    assert pool_of("w-day") == "default"


async def test_what_left_the_project_is_retired_at_once_when_nobody_else_is_there(
    bench: Bench, make: Make
) -> None:
    await begin(bench, make("w-1", "a", "b"), "w-1")
    assert not default(bench, "b").missing
    bench.clock.move(seconds=31)
    await begin(bench, make("w-2", "a"), "w-2")
    assert (default(bench, "a").missing, default(bench, "b").missing) == (False, True)


async def test_others_of_the_pool_keep_what_they_have(bench: Bench, make: Make) -> None:
    """Until the last of those that were there before is gone; other pools are none of its business."""
    await begin(bench, make("w-1", "a", "b"), "w-1")
    await begin(bench, make("w-x-0123456789ab", "far"), "w-x-0123456789ab")
    await begin(bench, make("w-2", "a", "c"), "w-2")
    await asyncio.sleep(5 * LOOK_S)
    assert not default(bench, "b").missing
    await bench.log.renew_lease(PREFIX + "w-1", "w-1", 0)
    await bench.until(lambda: default(bench, "b").missing)
    # One of the former project comes back, as by a deployment that is taken back, and is itself followed.
    await begin(bench, make("w-3", "a", "b"), "w-3")
    await asyncio.sleep(5 * LOOK_S)
    assert [default(bench, graph).missing for graph in "abc"] == [False] * 3
    assert not default(bench, "far").missing


async def test_a_graph_that_somebody_retired_is_registered_again(bench: Bench, make: Make) -> None:
    await begin(bench, make("w-1", "a", "b"), "w-1")
    await bench.log.renew_lease(PREFIX + "w-1", "w-1", 0)  # taken for dead, and alive
    await begin(bench, make("w-2", "a"), "w-2")
    await bench.until(lambda: not default(bench, "b").missing)
    versions = default(bench, "b").version
    await asyncio.sleep(5 * LOOK_S)
    assert default(bench, "b").version == versions


async def test_a_graph_has_one_pool(bench: Bench, make: Make) -> None:
    first = make("w-1", "a")
    await begin(bench, first, "w-1")
    with pytest.raises(GraphTaken, match=r"'a': workers of the pool 'default'.*moves to 'x'"):
        await make("w-x-0123456789ab", "a").start()
    assert default(bench, "a").pool == "default"
    bench.clock.move(seconds=31)
    assert live_workers(bench.log) == frozenset()
    await begin(bench, make("w-x-0123456789ab", "a"), "w-x-0123456789ab")
    await asyncio.sleep(5 * LOOK_S)  # the former one lives after all, and takes nothing back
    assert default(bench, "a").pool == "x"


async def test_edges_that_fail_delay_it(bench: Bench, make: Make) -> None:
    await begin(bench, make("w-1", "a", "b"), "w-1")
    second = make("w-2", "a")
    await begin(bench, second, "w-2")
    bench.edge_log.fail("append", times=2)
    bench.edge_views.fail("all", times=2)
    await bench.log.renew_lease(PREFIX + "w-1", "w-1", 0)
    await bench.until(lambda: default(bench, "b").missing)
    await bench.until(lambda: not any(health([second]).values()))
