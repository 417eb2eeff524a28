"""What follows the log behind a read model: it waits for that, and nothing of what it could not take is lost."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.codec import EventCodec
from contracts.events import ThreadCreated, ThreadDeleted
from contracts.ledger import Append, Meta, Recorded, Transaction
from services.kit.clock import SystemClock
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.follower import PAGE, Follower, Tail
from services.kit.ids import uuid7
from services.kit.lifecycle import NotYet
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector

META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")


class House:
    """A log, its read models, and who takes over from those of the threads what is deleted."""

    def __init__(self, folder: Path) -> None:
        self.log = SqliteLog(folder / "ledger.db", EventCodec())
        self.views = SqliteViews(folder / "views.db")
        self.projector = Projector(self.log, folder / "views.db")
        self.tail = Tail(self.log, "thread.deleted.")
        self.taken: list[int] = []
        self.refused = 0

    async def deleted(self, count: int) -> None:
        bodies = (ThreadCreated(user_id="u"), ThreadDeleted())
        txs = [Transaction(meta=META, appends=(Append(uuid7(), 0, bodies),)) for _ in range(count)]
        await self.log.append_many(txs)

    async def take(self, events: list[Recorded]) -> None:
        if self.refused:
            self.refused -= 1
            raise OSError("as the test says")
        self.taken += [recorded.position for recorded in events]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.log.start()
    yield house
    await house.projector.stop()
    house.views.close()
    await house.log.stop()


async def test_what_a_read_model_has_is_not_told_again(house: House) -> None:
    await house.deleted(2)
    await house.projector.start()
    async with asyncio.timeout(20):
        while house.views.position("threads") < 4:  # noqa: ASYNC110 - nothing else tells it
            await asyncio.sleep(0.01)
    await house.tail.follow(house.take)  # nothing, as long as nobody has looked at the read model
    await house.tail.reached(house.views, "threads")
    await house.deleted(PAGE + 1)
    await house.tail.follow(house.take)
    assert house.taken == list(range(6, 6 + 2 * (PAGE + 1), 2))


async def test_what_raises_comes_again(house: House) -> None:
    await house.projector.start()
    await house.tail.reached(house.views, "threads")
    await house.deleted(PAGE + 1)
    house.refused = 1
    with pytest.raises(OSError, match="as the test says"):
        await house.tail.follow(house.take)
    await house.tail.follow(house.take)
    await house.tail.follow(house.take)
    assert house.taken == list(range(2, 2 + 2 * (PAGE + 1), 2))


async def test_to_wait_for_a_read_model_is_no_error(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await house.projector.start()
    await house.projector.stop()
    await house.deleted(1)
    done = asyncio.Event()

    async def work() -> None:
        await house.tail.reached(house.views, "threads")
        done.set()
        await follower.rest()

    follower = Follower("follower", house.log, SystemClock(), work, most_s=0.1)
    await follower.start()
    async with asyncio.timeout(20):
        while not follower.failing:  # noqa: ASYNC110 - nothing else tells it
            await asyncio.sleep(0.01)
        assert follower.failing == f"{NotYet.__name__}: threads: waiting for position 2"
        await house.projector.start()
        await done.wait()
    await follower.stop()
    told = [record for record in caplog.records if record.name == "cronledger.follower"]
    assert {(record.levelname, record.getMessage().split()[0]) for record in told} == {
        ("INFO", "follower.waits")
    }
