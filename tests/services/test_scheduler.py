"""The scheduler on a real log, with a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contracts.codec import EventCodec
from contracts.events import (
    AssistantCreated,
    CronDeleted,
    CronExpired,
    LaneChanged,
    LaneRun,
    OccurrenceSkipped,
    OccurrencesMissed,
    RunRequested,
    ThreadCreated,
    ThreadDeleted,
)
from contracts.ledger import Append, Body, Meta, Transaction
from domain import cron as crons
from domain.cron import CreateCron, CronCommand, DeleteCron, UpdateCron, cron_of
from domain.lane import lane_id_of
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.settings import Settings
from services.kit.views import Views
from services.projector.projector import Projector
from services.scheduler.scheduler import Scheduler

START = datetime(2026, 11, 24, 12, 0, 0, 500_000, tzinfo=UTC)
ASSISTANT = UUID(int=7)


class MovedClock:
    """Goes forward only when the test says so; whoever waits is woken then."""

    def __init__(self) -> None:
        self.at = START
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        return self.at

    def wall_s(self) -> float:
        return self.at.timestamp()

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        woken = [asyncio.create_task(event.wait()), asyncio.create_task(self._moved.wait())]
        await asyncio.wait(woken, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
        for task in woken:
            task.cancel()
        self._moved.clear()
        return event.is_set()

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)
        self._moved.set()


class Bench:
    """A log with its read models, and schedulers on them."""

    def __init__(self, folder: Path) -> None:
        self.clock = MovedClock()
        self.log = SqliteLog(folder / "ledger.db", EventCodec())
        self.log.clock = self.clock.now  # type: ignore[method-assign]
        self.projector = Projector(self.log, folder / "views.db")
        self.views = Views(folder / "views.db")
        self.settings = Settings(catch_up_spread_s=0)
        self.schedulers: list[Scheduler] = []

    async def open(self) -> None:
        await self.log.start()
        await self.projector.start()
        created = AssistantCreated(graph_id="agent", name="agent", system=True)
        await self.store(Append(ASSISTANT, 0, (created,)))

    async def close(self) -> None:
        for scheduler in self.schedulers:
            await scheduler.stop()
        self.views.close()
        await self.projector.stop()
        await self.log.close()

    async def schedule(self, how_many: int = 1) -> None:
        for _ in range(how_many):
            scheduler = Scheduler(self.log, self.views, self.clock, self.settings)
            self.schedulers.append(scheduler)
            await scheduler.start()

    async def halt(self) -> None:
        for scheduler in self.schedulers:
            await scheduler.stop()
        self.schedulers.clear()

    async def store(self, *appends: Append) -> None:
        meta = Meta(at=self.clock.now(), actor="test")
        position = await self.log.append(Transaction(meta=meta, appends=appends))
        await self.projector.reached(position)

    async def thread(self) -> UUID:
        thread_id = uuid7()
        await self.store(Append(thread_id, 0, (ThreadCreated(user_id="u"),)))
        return thread_id

    async def cron(self, schedule: str, **fields: Any) -> UUID:
        cron_id = uuid7()
        command = CreateCron(
            cron_id=cron_id,
            assistant_id=ASSISTANT,
            graph_id="agent",
            user_id="u",
            schedule=schedule,
            spec=fields.pop("spec", {}),
            seconds=True,
            **fields,
        )
        await self.command(cron_id, command)
        return cron_id

    async def command(self, cron_id: UUID, command: CronCommand) -> None:
        cron = cron_of(cron_id, self.log.stream(cron_id))
        changes = crons.changes(cron_id, cron, crons.decide(cron, command, self.clock.now()))
        position = await self.log.append(changes.by(Meta(at=self.clock.now(), actor="test")))
        await self.projector.reached(position)

    def events(self, *kinds: type[Body]) -> list[Any]:
        return [e.body for e in self.log.read(0, 100_000) if isinstance(e.body, kinds)]

    def fired(self, cron_id: UUID | None = None) -> list[str]:
        requested = [e for e in self.events(RunRequested) if cron_id in (None, e.cron_id)]
        return [e.scheduled_for.strftime("%H:%M:%S") for e in requested]

    async def until(self, done: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not done():  # noqa: ASYNC110 - the log has no event for what a test looks for
                await asyncio.sleep(0.01)

    async def quiet(self) -> None:
        """Until every scheduler has looked twice at what there is."""
        await asyncio.sleep(0.3)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.open()
    yield made
    await made.close()


async def test_due_occurrences_fire_once(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *", thread_id=await bench.thread())
    await bench.quiet()
    assert bench.fired() == []
    for _ in range(3):
        bench.clock.move(seconds=1)
        await bench.quiet()
    assert bench.fired(cron_id) == ["12:00:01", "12:00:02", "12:00:03"]
    [run, *_] = bench.events(RunRequested)
    assert (run.kind, run.revision, run.tzdata) == ("schedule", 1, "2026f")
    assert run.next_at == run.scheduled_for + timedelta(seconds=1)


async def test_two_schedulers_fire_each_occurrence_once(bench: Bench) -> None:
    await bench.schedule(2)
    ids = [await bench.cron("* * * * * *") for _ in range(30)]
    for _ in range(4):
        bench.clock.move(seconds=1)
        await bench.quiet()
    assert sorted(bench.fired()) == sorted(["12:00:01", "12:00:02", "12:00:03", "12:00:04"] * 30)
    assert {e.cron_id for e in bench.events(RunRequested)} == set(ids)


async def test_downtime_fires_the_newest_and_tells_of_the_rest(bench: Bench) -> None:
    cron_id = await bench.cron("*/10 * * * *")
    bench.clock.move(minutes=65)
    await bench.schedule()
    await bench.until(bench.fired)
    assert bench.fired(cron_id) == ["13:00:00"]
    assert bench.events(RunRequested)[0].kind == "catch_up"
    [missed] = bench.events(OccurrencesMissed)
    assert (missed.count, missed.reason) == (5, "coalesced")
    bench.clock.move(minutes=5)
    await bench.until(lambda: len(bench.fired()) == 2)
    assert bench.fired() == ["13:00:00", "13:10:00"]


async def test_a_restart_does_not_fire_again(bench: Bench) -> None:
    await bench.cron("* * * * * *")
    await bench.schedule()
    bench.clock.move(seconds=2)
    await bench.until(lambda: len(bench.fired()) == 2)
    await bench.halt()
    bench.clock.move(seconds=3)
    await bench.schedule(2)
    await bench.until(lambda: len(bench.fired()) == 5)
    assert bench.fired() == [f"12:00:0{n}" for n in range(1, 6)]
    assert bench.events(OccurrencesMissed) == []


async def test_end_time_is_inclusive_and_then_it_expires(bench: Bench) -> None:
    await bench.schedule()
    end = START.replace(microsecond=0) + timedelta(seconds=2)
    cron_id = await bench.cron("* * * * * *", end_time=end)
    for _ in range(4):
        bench.clock.move(seconds=1)
        await bench.quiet()
    assert bench.fired(cron_id) == ["12:00:01", "12:00:02"]
    assert len(bench.events(CronExpired)) == 1


async def test_new_schedule_counts_from_the_change(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("0 9 * * *")
    bench.clock.move(hours=20, minutes=30)  # the next day, 08:30
    await bench.quiet()
    await bench.command(cron_id, UpdateCron(schedule="0 8 * * *"))
    bench.clock.move(hours=1)
    await bench.quiet()
    assert bench.fired() == []  # 09:00 is gone, and 08:00 had passed
    bench.clock.move(hours=22, minutes=30)
    await bench.until(bench.fired)
    assert bench.fired() == ["08:00:00"]


async def test_paused_cron_is_silent_and_resuming_fires_nothing(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *")
    bench.clock.move(seconds=1)
    await bench.until(bench.fired)
    await bench.command(cron_id, UpdateCron(enabled=False))
    bench.clock.move(seconds=5)
    await bench.quiet()
    await bench.command(cron_id, UpdateCron(enabled=True))
    await bench.quiet()
    assert bench.fired() == ["12:00:01"]
    [missed] = bench.events(OccurrencesMissed)
    assert (missed.reason, missed.count) == ("paused", 5)
    bench.clock.move(seconds=1)
    await bench.until(lambda: len(bench.fired()) == 2)
    assert bench.fired() == ["12:00:01", "12:00:07"]


async def test_deleted_cron_fires_no_more(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *")
    await bench.command(cron_id, DeleteCron())
    bench.clock.move(seconds=3)
    await bench.quiet()
    assert bench.fired() == []


async def test_clock_that_steps_back_fires_nothing_twice(bench: Bench) -> None:
    await bench.schedule()
    await bench.cron("* * * * * *")
    bench.clock.move(seconds=2)
    await bench.until(lambda: len(bench.fired()) == 2)
    bench.clock.move(hours=-1)
    await bench.quiet()
    bench.clock.move(hours=1, seconds=1)
    await bench.until(lambda: len(bench.fired()) == 3)
    assert bench.fired() == ["12:00:01", "12:00:02", "12:00:03"]


async def test_clock_that_steps_forward_is_downtime(bench: Bench) -> None:
    await bench.schedule()
    await bench.cron("* * * * *")
    bench.clock.move(hours=1)
    await bench.until(lambda: len(bench.fired()) == 2)
    assert bench.fired() == ["12:59:00", "13:00:00"]  # both not later than a minute
    [missed] = bench.events(OccurrencesMissed)
    assert missed.count == 58


async def test_busy_thread_skips_or_waits(bench: Bench) -> None:
    await bench.schedule()
    thread_id = await bench.thread()
    line = tuple(LaneRun(UUID(int=n)) for n in range(1, 3))
    await bench.store(
        Append(lane_id_of(thread_id), 0, (LaneChanged(thread_id=thread_id, change="joined", in_flight=line),))
    )
    rejecting = await bench.cron("*/2 * * * * *", thread_id=thread_id, spec={"multitask_strategy": "reject"})
    waiting = await bench.cron("*/2 * * * * *", thread_id=thread_id)
    bench.clock.move(seconds=2)
    await bench.until(bench.fired)
    await bench.quiet()
    assert [e.cron_id for e in bench.events(OccurrenceSkipped)] == [rejecting]
    assert bench.events(OccurrenceSkipped)[0].reason == "overlap"
    [run] = bench.events(RunRequested)
    assert run.cron_id == waiting
    joined = bench.events(LaneChanged)[-1]
    assert [entry.run_id for entry in joined.in_flight][:2] == [UUID(int=1), UUID(int=2)]
    assert len(joined.in_flight) == 3


async def test_thread_that_is_gone_ends_the_cron(bench: Bench) -> None:
    await bench.schedule()
    thread_id = await bench.thread()
    await bench.cron("* * * * * *", thread_id=thread_id)
    await bench.store(Append(thread_id, 1, (ThreadDeleted(),)))
    bench.clock.move(seconds=1)
    await bench.until(lambda: bench.events(CronDeleted))
    assert [e.reason for e in bench.events(OccurrenceSkipped)] == ["refused"]
    assert bench.fired() == []


async def test_kept_runs_have_a_thread_each(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *", on_run_completed="keep", spec={"metadata": {"team": "x"}})
    bench.clock.move(seconds=2)
    await bench.until(lambda: len(bench.fired()) == 2)
    threads = bench.events(ThreadCreated)
    assert [t.metadata["cron_id"] for t in threads] == [str(cron_id)] * 2
    assert len({run.thread_id for run in bench.events(RunRequested)}) == 2
