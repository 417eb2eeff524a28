"""Who waits for the end of a run is told whatever ends it, and costs nothing while something else happens."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from contracts.codec import EventCodec
from contracts.events import (
    LaneChanged,
    LaneRun,
    RunDeleted,
    RunFailed,
    RunRolledBack,
    RunStarted,
    RunSucceeded,
    ThreadDeleted,
    ThreadUpdated,
)
from contracts.ledger import Append, Body, Meta, Transaction
from domain.lane import lane_id_of
from services.gateway.streams.ends import Ends
from services.kit.clock import SystemClock
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.views import Row
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from tests.populated import populate, run_id, thread_id

ACTIVE = 40


class CountedViews(SqliteViews):
    """Views that count the runs which are asked for, and may be told to be behind or to fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked = 0
        self.lags = False
        self.broken: list[OSError] = []

    def one(self, query: str, params: Sequence[Any] = ()) -> Row | None:
        if "FROM runs" not in query:
            return super().one(query, params)
        if self.broken:
            raise self.broken.pop()
        self.asked += 1
        return {"thread_id": b"somewhere"} if self.lags else super().one(query, params)


class Watch:
    """Ends over a real log and real read models, with runs that are active."""

    def __init__(self, log: SqliteLog, projector: Projector, views: CountedViews) -> None:
        self._log, self._projector, self.views = log, projector, views
        self.ends = Ends(views, projector.changed)

    async def tell(self, stream: UUID, version: int, *bodies: Body) -> None:
        tx = Transaction(
            meta=Meta(at=SystemClock().now(), actor="t"), appends=(Append(stream, version, bodies),)
        )
        assert await self._projector.reached(await self._log.append(tx), 10)

    async def looked(self) -> None:
        """Return when everything that has happened was looked at: somebody who came later was told."""
        await self.ends.wait(UUID(int=7), 30)  # no such run


@pytest_asyncio.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    await populate(tmp_path, threads=ACTIVE, some_crons=0, active=ACTIVE)
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await log.start()
    projector = Projector(log, tmp_path / "views.db")
    await projector.start()
    views = CountedViews(tmp_path / "views.db")
    made = Watch(log, projector, views)
    await made.ends.start()
    yield made
    await made.ends.stop()
    await projector.stop()
    views.close()
    await log.stop()


async def test_who_comes_between_two_looks_at_a_far_store_is_told_too(watch: Watch) -> None:
    """After those that are to be asked are known, and before the answer."""
    answer, one = threading.Event(), watch.views.one
    looking = threading.Event()

    def slow(query: str, params: Sequence[Any] = ()) -> Row | None:
        if "FROM runs" in query:
            looking.set()
            assert answer.wait(10)
        return one(query, params)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watch.views, "is_near", False, raising=False)
        patched.setattr(watch.views, "one", slow)
        first = asyncio.create_task(watch.ends.wait(UUID(int=7), 10))
        while not looking.is_set():  # noqa: ASYNC110 - it is told in the thread
            await asyncio.sleep(0.01)
        second = asyncio.create_task(watch.ends.wait(UUID(int=8), 3))
        await asyncio.sleep(0.05)
        answer.set()
        assert await first
        assert await second


def outcome(n: int) -> Body:
    return RunSucceeded(thread_id=thread_id(n), attempt=1)


@pytest.mark.parametrize(
    "body",
    [
        outcome(0),
        RunFailed(thread_id=thread_id(0), attempt=1, error="E", message="m"),
        RunRolledBack(thread_id=thread_id(0)),
        RunDeleted(thread_id=thread_id(0)),
    ],
    ids=lambda body: type(body).__name__,
)
async def test_told_of_each_end(watch: Watch, body: Body) -> None:
    told: list[int] = []
    for n in range(2):
        watch.ends.watch(run_id(n), partial(told.append, n))
    await watch.looked()
    await watch.tell(run_id(0), 1, RunStarted(thread_id=thread_id(0), attempt=1, worker="w"))
    await watch.looked()
    assert told == []
    await watch.tell(run_id(0), 2, body)
    await watch.looked()
    assert told == [0]


@pytest.mark.parametrize("at_work", [True, False])
async def test_told_when_the_thread_is_deleted(watch: Watch, at_work: bool) -> None:
    """At once, whether a worker has the run still or not."""
    told: list[int] = []
    watch.ends.watch(run_id(0), lambda: told.append(0))
    watch.ends.watch(run_id(1), lambda: told.append(1))
    await watch.looked()
    line = (LaneRun(run_id(0)),) if at_work else ()
    closed = LaneChanged(thread_id=thread_id(0), change="closed", in_flight=line, closed=True)
    await watch.tell(lane_id_of(thread_id(0)), 1, closed)
    await watch.tell(thread_id(0), 1, ThreadDeleted())
    await watch.looked()
    assert told == [0]


async def test_one_that_is_over_is_told_at_once(watch: Watch) -> None:
    await watch.tell(run_id(0), 1, outcome(0))
    assert await watch.ends.wait(run_id(0), 30)
    assert await watch.ends.wait(UUID(int=3), 30)  # no such run
    assert not await watch.ends.wait(run_id(1), 0.01)


async def test_only_runs_of_which_something_happened_are_looked_at(watch: Watch) -> None:
    told: list[int] = []
    for n in range(ACTIVE):
        watch.ends.watch(run_id(n), lambda: told.append(1))
    await watch.looked()
    before = watch.views.asked
    for version in range(1, 21):
        await watch.tell(thread_id(ACTIVE - 1), version, ThreadUpdated(metadata={"n": version}))
        await watch.looked()
    assert watch.views.asked - before == 20  # the one that `looked` asks for each time
    assert told == []


async def test_a_read_model_that_is_behind_is_looked_at_again(watch: Watch) -> None:
    told: list[int] = []
    watch.ends.watch(run_id(0), lambda: told.append(0))
    await watch.looked()
    watch.views.lags = True
    await watch.tell(run_id(0), 1, outcome(0))
    await watch.ends.wait(UUID(int=7), 0.2)
    assert told == []
    watch.views.lags = False
    await watch.tell(thread_id(1), 1, ThreadUpdated(metadata={}))
    assert await watch.ends.wait(run_id(0), 30)
    assert told == [0]


async def test_a_failed_read_is_made_up_for(watch: Watch) -> None:
    """What happened while the views could not be read is looked at when they can."""
    told: list[int] = []
    watch.ends.watch(run_id(0), lambda: told.append(0))
    await watch.looked()
    watch.views.broken = [OSError("disk"), OSError("disk")]
    await watch.tell(run_id(0), 1, outcome(0))
    assert await watch.ends.wait(run_id(0), 30)
    assert (told, watch.views.broken) == ([0], [])
