"""Chores: each is done some time, and one that can't be does not hold up the others."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from contracts.codec import EventCodec
from contracts.events import ThreadCreated, ThreadDeleted
from contracts.ledger import Append, Meta, Transaction
from contracts.queries import Forget, QueryFailed
from contracts.subjects import CHORES, DEFAULT_POOL, RUNS, run_queue_subject
from contracts.work import Chore
from services.kit.bus.nats import NatsBus
from services.kit.bus.work import WorkQueue
from services.kit.eventlog import EventLog
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.retries import pause_s
from services.worker.chores import AT_ONCE, NOT_DONE, Chores
from services.worker.graph_child import NoAnswer


class Child:
    """Forgets threads; some hang, some are refused the first time."""

    def __init__(self) -> None:
        self.hanging: set[UUID] = set()
        self.refused: set[UUID] = set()
        self.odd: set[UUID] = set()
        self.asked: list[UUID] = []
        self.news = asyncio.Event()

    async def ask(self, verb: str, body: msgspec.Raw) -> msgspec.Raw:
        assert verb == Forget.VERB
        thread_id = UUID(msgspec.json.decode(body, type=Forget).thread_id)
        self.asked.append(thread_id)
        self.news.set()
        if thread_id in self.hanging:
            await asyncio.Event().wait()
        if thread_id in self.refused:
            self.refused.discard(thread_id)
            raise NoAnswer(QueryFailed("failed", "not now"))
        if thread_id in self.odd:
            raise KeyError("a bug")
        return msgspec.Raw(b"null")

    async def until(self, *asked: UUID) -> None:
        async with asyncio.timeout(30):
            while any(self.asked.count(thread_id) < asked.count(thread_id) for thread_id in asked):
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    opened = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await opened.start()
    yield opened
    await opened.stop()


async def put(bus: NatsBus, thread_id: UUID) -> None:
    chore = msgspec.json.encode(Chore(forget_thread=thread_id))
    await WorkQueue(bus, RUNS.name).put(run_queue_subject(DEFAULT_POOL, CHORES, thread_id), chore)


async def test_one_that_hangs_holds_up_none_and_no_stop(bus: NatsBus, log: EventLog) -> None:
    child, threads = Child(), [uuid4() for _ in range(3)]
    child.hanging = {threads[0]}
    chores = Chores(bus, child.ask, log)
    await chores.start()
    for thread_id in threads:
        await put(bus, thread_id)
    await child.until(*threads)
    async with asyncio.timeout(5):
        await chores.stop()
        await chores.stop()


async def test_one_that_is_refused_comes_again_later(bus: NatsBus, log: EventLog) -> None:
    child, threads = Child(), [uuid4() for _ in range(AT_ONCE + 1)]
    child.refused = set(threads)
    chores = Chores(bus, child.ask, log)
    await chores.start()
    for thread_id in threads:
        await put(bus, thread_id)
    await child.until(*threads, *threads)
    await chores.stop()
    assert sorted(child.asked) == sorted([*threads, *threads])


async def test_those_that_break_keep_no_slot(bus: NatsBus, log: EventLog) -> None:
    child, threads = Child(), [uuid4() for _ in range(AT_ONCE + 1)]
    child.odd = set(threads[:AT_ONCE])
    chores = Chores(bus, child.ask, log)
    await chores.start()
    for thread_id in threads:
        await put(bus, thread_id)
    await child.until(*threads)
    await chores.stop()


async def test_a_thread_that_lives_again_is_not_forgotten(bus: NatsBus, log: EventLog) -> None:
    """Its deletion's chore comes late, or a second time."""
    child, alive, dead = Child(), uuid4(), uuid4()
    created = ThreadCreated(user_id="u")
    for append in (
        Append(alive, 0, (created, ThreadDeleted(), created)),
        Append(dead, 0, (created, ThreadDeleted())),
    ):
        await log.append(Transaction(meta=Meta(at=datetime.now(UTC), actor="test"), appends=(append,)))
    chores = Chores(bus, child.ask, log)
    await chores.start()
    for thread_id in (alive, dead):
        await put(bus, thread_id)
    await child.until(dead)
    await chores.stop()
    assert child.asked == [dead]


@pytest.mark.parametrize(("deliveries", "seconds"), [(1, 2), (3, 8), (10, 600), (10_000, 600)])
def test_the_pause_grows_and_has_an_end(deliveries: int, seconds: float) -> None:
    assert pause_s(NOT_DONE, deliveries) == seconds
