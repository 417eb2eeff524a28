"""The fence around checkpoints: a later attempt takes the thread, what comes too late is refused."""

import asyncio
import contextlib
import contextvars
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from services.worker.child.checkpoints import RUN, Fenced, Saver
from services.worker.child.checkpoints.sqlite import SqliteSaver
from tests.services.graphs_places import DATABASES, Place, place_of

PLACE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
T = TypeVar("T")


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request.param, tmp_path, request.getfixturevalue)


@pytest.fixture
async def savers(place: Place) -> AsyncIterator[list[Saver]]:
    """Those of two children, on one database."""
    opened = [await place.saver() for _ in range(2)]
    yield opened
    for saver in opened:
        await saver.close()


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[list[SqliteSaver]]:
    """The same on a file, which has one lock for all that is written."""
    opened = [await SqliteSaver.opened(str(tmp_path / "checkpoints.db")) for _ in range(2)]
    yield opened
    for saver in opened:
        await saver.close()


class Attempt:
    """One try at a run: what it does, it does in a context of its own, as in a task of a child."""

    def __init__(self, saver: Saver, token: int) -> None:
        self.saver, self.token, self.context = saver, token, contextvars.copy_context()
        self.context.run(RUN.set, "r")

    def do(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        return self.context.run(asyncio.ensure_future, work)

    async def claim(self) -> None:
        # The claim belongs to the task's context, and here each step is a task.
        await asyncio.create_task(self.saver.claim("t", self.token), context=self.context)

    def put(self, place: Any = PLACE) -> "asyncio.Task[Any]":
        return self.do(self.saver.aput(place, empty_checkpoint(), {}, {}))

    def put_writes(self, checkpoint_id: str) -> "asyncio.Task[None]":
        place = {"configurable": {**PLACE["configurable"], "checkpoint_id": checkpoint_id}}
        return self.do(self.saver.aput_writes(place, [("channel", 1)], "task"))


async def attempt(saver: Saver, token: int) -> Attempt:
    made = Attempt(saver, token)
    await made.claim()
    return made


def write_elsewhere(path: Path, wait_s: float = 10) -> None:
    """What another child does. Raises OperationalError when the database is held."""
    with contextlib.closing(sqlite3.connect(path, timeout=wait_s)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.rollback()


async def test_a_later_attempt_takes_the_thread(savers: list[Saver], place: Place) -> None:
    early, late = await attempt(savers[0], 5), await attempt(savers[1], 9)
    with pytest.raises(Fenced):
        await early.put()
    with pytest.raises(Fenced):
        await early.put_writes("c")
    assert (await place.count(), await place.count("writes")) == (0, 0)
    await late.put()
    await late.put_writes("c")
    assert (await place.count(), await place.count("writes")) == (1, 1)


async def test_two_attempts_in_one_child_are_told_apart(savers: list[Saver], place: Place) -> None:
    early, late = await attempt(savers[0], 5), await attempt(savers[0], 9)
    writes = [early.put(), late.put(), early.put(), late.put()]
    ended = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(one, Fenced) for one in ended] == [True, False, True, False]
    assert await place.count() == 2


async def test_an_older_claim_is_refused_and_the_same_is_not(savers: list[Saver]) -> None:
    await attempt(savers[0], 9)
    with pytest.raises(Fenced):
        await attempt(savers[1], 5)
    await (await attempt(savers[1], 9)).put()


async def test_what_is_undone_or_forgotten_stays_so(savers: list[Saver], place: Place) -> None:
    early = await attempt(savers[0], 5)
    await early.put()
    with pytest.raises(Fenced):
        await savers[1].rollback("t", "r", 4)
    await savers[1].rollback("t", "r", 6)
    with pytest.raises(Fenced):
        await early.put()
    late = await attempt(savers[0], 7)
    await late.put()
    for _ in range(2):
        await savers[1].forget("t", 8, fence=False)
    with pytest.raises(Fenced):
        await late.put()
    assert [await place.count(table) for table in ("checkpoints", "cronledger_claims")] == [0, 0]


async def test_a_new_life_is_safe_from_the_former_one(savers: list[Saver], place: Place) -> None:
    """Who forgets late, and who claimed the thread before it was deleted."""
    former = await attempt(savers[0], 5)
    await former.put()
    await savers[1].forget("t", 8, fence=True)
    with pytest.raises(Fenced):
        await former.put()
    with pytest.raises(Fenced):
        await attempt(savers[0], 7)
    assert await place.count("checkpoints") == 0
    await (await attempt(savers[0], 9)).put()
    await savers[1].forget("t", 8, fence=False)
    assert await place.count("checkpoints") == 1


async def test_a_late_attempt_keeps_nothing_aside(savers: list[Saver], place: Place) -> None:
    await (await attempt(savers[0], 1)).put()
    early = Attempt(savers[0], 5)
    early.context.run(RUN.set, "another")
    await early.claim()
    [(checkpoint_id,)] = place.rows("SELECT checkpoint_id FROM checkpoints")
    await attempt(savers[1], 9)
    with pytest.raises(Fenced):
        await early.put_writes(checkpoint_id)
    assert await place.count("cronledger_touched") == 0


async def test_other_threads_are_nobodys_business(savers: list[Saver], place: Place) -> None:
    """A node may run another graph on a thread of its own."""
    early = await attempt(savers[0], 5)
    await attempt(savers[1], 9)
    await early.put({"configurable": {"thread_id": "other", "checkpoint_ns": ""}})
    await savers[1].copy("other", "copied")
    assert await place.count() == 2


@pytest.mark.parametrize("leaves", [False, True])
async def test_refused_write_holds_no_lock(files: list[SqliteSaver], tmp_path: Path, leaves: bool) -> None:
    early = await attempt(files[0], 5)
    late = await attempt(files[1], 9)
    writing = early.put()
    if leaves:
        await asyncio.sleep(0)
        writing.cancel()  # as when its run is cancelled: the write goes on without it
    with pytest.raises(asyncio.CancelledError if leaves else Fenced):
        await writing
    await asyncio.to_thread(write_elsewhere, tmp_path / "checkpoints.db")
    await late.put()


async def test_a_claim_that_is_cancelled_holds_no_lock(files: list[SqliteSaver], tmp_path: Path) -> None:
    for steps in range(12):
        claiming = asyncio.ensure_future(files[0].claim("t", 5))
        for _ in range(steps):
            await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        await asyncio.to_thread(write_elsewhere, tmp_path / "checkpoints.db")


async def test_the_end_of_a_run_waits_for_its_writes(files: list[SqliteSaver], tmp_path: Path) -> None:
    """Told before, it would be rolled back by another process while a write is still on its way."""
    run = await attempt(files[0], 5)
    with contextlib.closing(sqlite3.connect(tmp_path / "checkpoints.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = run.put()
        await asyncio.sleep(0)
        writing.cancel()  # as when its run is cancelled: the write goes on without it
        await asyncio.gather(writing, return_exceptions=True)
        settled = asyncio.ensure_future(files[0].settled("r"))
        await asyncio.sleep(0.05)
        assert not settled.done()
        other.rollback()
    await settled
    async with files[1].conn.execute("SELECT count(*) FROM checkpoints") as cursor:
        assert await cursor.fetchone() == (1,)


async def test_checkpoints_are_synced_though_claims_are_not(files: list[SqliteSaver]) -> None:
    [one, *_] = files
    await one.claim("t", 2)
    with pytest.raises(Fenced):
        await one.claim("t", 1)
    cancelled = asyncio.create_task(one.claim("t", 3))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    async with one.conn.execute("PRAGMA synchronous") as cursor:
        assert await cursor.fetchone() == (2,)


@pytest.mark.parametrize("what", ["checkpoint", "writes", "rollback", "claim"])
async def test_whoever_blocks_the_loop_holds_no_lock(
    files: list[SqliteSaver], tmp_path: Path, what: str
) -> None:
    """Wherever in a write a node takes the loop for itself, other processes go on."""
    saver = files[0]
    work = await attempt(saver, 5)
    place = await work.put()
    works: dict[str, Callable[[], asyncio.Task[Any]]] = {
        "checkpoint": lambda: work.put(place),
        "writes": lambda: work.put_writes(place["configurable"]["checkpoint_id"]),
        "rollback": lambda: work.do(saver.rollback("other", "r", 7)),
        "claim": lambda: work.do(saver.claim("another", 7)),
    }
    for steps in range(16):
        writing = works[what]()
        for _ in range(steps):
            await asyncio.sleep(0)
        time.sleep(0.02)  # noqa: ASYNC251 - the node: what the connection's thread has begun goes on meanwhile
        write_elsewhere(tmp_path / "checkpoints.db", wait_s=1)
        await writing
