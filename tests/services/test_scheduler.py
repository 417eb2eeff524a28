"""The scheduler on a real log, with a clock that the test moves."""

from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest

from contracts.events import (
    CronCreated,
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
from contracts.ledger import Append
from domain.cron import DeleteCron, UpdateCron
from domain.lane import lane_id_of
from tests.services.schedulers import START, Bench


async def test_due_occurrences_fire_once(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *", thread_id=await bench.thread())
    await bench.quiet()
    assert bench.fired() == []
    for n in range(3):
        bench.clock.move(seconds=1)
        await bench.until(lambda: bench.has_fired(n + 1))  # noqa: B023
        await bench.quiet()  # and no more
    assert bench.fired(cron_id) == ["12:00:01", "12:00:02", "12:00:03"]
    [run, *_] = bench.events(RunRequested)
    assert (run.kind, run.revision, run.tzdata) == ("schedule", 1, "2026f")
    assert run.next_at == run.scheduled_for + timedelta(seconds=1)


async def test_two_schedulers_fire_each_occurrence_once(bench: Bench) -> None:
    await bench.schedule(2)
    ids = [await bench.cron("* * * * * *") for _ in range(30)]
    for n in range(4):
        bench.clock.move(seconds=1)
        await bench.until(lambda: bench.has_fired(30 * (n + 1)))  # noqa: B023
        await bench.quiet()  # and no more
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


async def test_each_is_caught_up_oldest_first_ten_a_second(bench: Bench) -> None:
    cron_id = await bench.cron("*/10 * * * *", catch_up="all")
    bench.clock.move(minutes=65)
    await bench.schedule()
    await bench.until(bench.fired)
    await bench.quiet()
    assert bench.fired(cron_id) == ["12:10:00"]
    for n in range(2, 7):
        bench.clock.move(seconds=0.11)
        await bench.until(partial(bench.has_fired, n))
    assert bench.fired(cron_id) == [*(f"12:{m}0:00" for m in range(1, 6)), "13:00:00"]
    assert {e.kind for e in bench.events(RunRequested)} == {"catch_up"}
    assert bench.events(OccurrencesMissed) == []


async def test_none_is_caught_up(bench: Bench) -> None:
    skips = await bench.cron("*/10 * * * *", catch_up="skip")
    short = await bench.cron("*/10 * * * *", catch_up_window_s=60)
    bench.clock.move(minutes=65)
    await bench.schedule()
    await bench.until(lambda: len(bench.events(OccurrencesMissed)) == 2)
    assert {(e.count, e.reason) for e in bench.events(OccurrencesMissed)} == {(6, "skip"), (6, "window")}
    bench.clock.move(minutes=5, seconds=30)
    await bench.until(lambda: bench.has_fired(2))
    assert bench.fired(skips) == bench.fired(short) == ["13:10:00"]
    assert {e.kind for e in bench.events(RunRequested)} == {"schedule"}


async def test_what_fires_late_is_known_after_a_halt_while_it_runs(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("*/10 * * * *")
    await bench.command(cron_id, UpdateCron(catch_up="skip"))
    bench.clock.move(minutes=10)
    await bench.until(bench.fired)
    await bench.quiet()  # it is in its group, which keeps the policy
    bench.clock.move(minutes=45)
    await bench.until(lambda: bench.events(OccurrencesMissed))
    [missed] = bench.events(OccurrencesMissed)
    assert (missed.count, missed.reason) == (4, "skip")
    assert bench.fired() == ["12:10:00"]


async def test_a_change_of_what_fires_late_moves_no_cursor(bench: Bench) -> None:
    cron_id = await bench.cron("*/10 * * * *")
    bench.clock.move(minutes=35)
    await bench.command(cron_id, UpdateCron(catch_up="skip"))
    bench.clock.move(minutes=10)
    await bench.schedule()
    await bench.until(lambda: len(bench.events(OccurrencesMissed)) == 2)
    assert [(e.count, e.reason) for e in bench.events(OccurrencesMissed)] == [(3, "skip"), (1, "skip")]
    assert bench.fired() == []


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


@pytest.mark.parametrize("restarted", [False, True])
async def test_nothing_before_the_start_fires_or_is_missed(bench: Bench, restarted: bool) -> None:
    start = START + timedelta(minutes=30)
    cron_id = await bench.cron("*/10 * * * *", start_time=start.replace(microsecond=0))
    [created] = bench.events(CronCreated)
    assert created.next_at == start.replace(microsecond=0)
    await bench.schedule()
    bench.clock.move(minutes=10)
    await bench.quiet()
    if restarted:
        await bench.halt()
        await bench.schedule()
    bench.clock.move(minutes=10)
    await bench.quiet()
    assert bench.fired() == []
    for n in (1, 2):
        bench.clock.move(minutes=10)
        await bench.until(partial(bench.has_fired, n))
    assert bench.fired(cron_id) == ["12:30:00", "12:40:00"]
    assert bench.events(OccurrencesMissed) == []


async def test_a_start_that_is_taken_away_or_comes_sooner(bench: Bench) -> None:
    await bench.schedule()
    start = START.replace(microsecond=0) + timedelta(hours=9)
    gone = await bench.cron("*/10 * * * *", start_time=start)
    sooner = await bench.cron("*/10 * * * *", start_time=start)
    bench.clock.move(minutes=35)
    await bench.quiet()
    await bench.command(gone, UpdateCron(start_time=None))
    await bench.command(sooner, UpdateCron(start_time=start - timedelta(hours=8, minutes=10)))
    for n in (1, 3):
        bench.clock.move(minutes=10)
        await bench.until(partial(bench.has_fired, n))
    assert bench.fired(gone) == ["12:40:00", "12:50:00"]
    assert bench.fired(sooner) == ["12:50:00"]
    assert bench.events(OccurrencesMissed) == []


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
