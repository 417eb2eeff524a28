"""The rules of exactly once that no other test of the scheduler shows: identity, cursors, clocks, versions."""

from datetime import timedelta
from functools import partial

import msgspec
import pytest

from contracts.events import CronCreated, CronRescheduled, OccurrencesMissed, RunRequested
from contracts.ledger import Append
from contracts.spec import RunSpec
from domain.cron import UpdateCron
from domain.cron_grammar import parse
from domain.errors import InvalidSchedule
from domain.identity import run_id_of
from tests.services.schedulers import START, Bench


async def test_an_edit_that_lands_on_the_same_instant_does_not_fire_again(bench: Bench) -> None:
    """Revision, zone and schedule are no part of an occurrence's identity."""
    await bench.schedule()
    cron_id = await bench.cron("0 * * * *")
    bench.clock.move(hours=1)
    await bench.until(lambda: bench.fired(cron_id))
    bench.clock.at -= timedelta(minutes=5)  # and the clock of the gateway that takes the edit is late
    await bench.command(cron_id, UpdateCron(schedule="0 18 * * *", timezone="Asia/Kolkata"))
    await bench.command(cron_id, UpdateCron(schedule="0 13 * * *", timezone=None))
    bench.clock.move(minutes=10)
    await bench.quiet()
    assert bench.fired(cron_id) == ["13:00:00"]
    requested = next(e for e in bench.log.read(0, 100) if isinstance(e.body, RunRequested))
    assert requested.stream_id == run_id_of(cron_id, int(START.timestamp()) + 3600)


async def test_the_second_of_its_creation_is_none_of_its_occurrences(bench: Bench) -> None:
    await bench.schedule()
    bench.clock.at = START.replace(microsecond=0)
    cron_id = await bench.cron("0 * * * *")
    await bench.quiet()
    assert bench.fired(cron_id) == []
    bench.clock.move(hours=1)
    await bench.until(lambda: bench.fired(cron_id))
    assert bench.fired(cron_id) == ["13:00:00"]


@pytest.mark.parametrize("is_running", [True, False])
async def test_an_edit_at_the_very_second_of_an_occurrence(bench: Bench, *, is_running: bool) -> None:
    """What is due at that second is decided by the rule that ends, and by it alone."""
    edited = await bench.cron("30 12 * * *")
    paused = await bench.cron("30 12 * * *")
    deleted_rule = await bench.cron("0 9 * * *")
    bench.clock.at = START.replace(minute=29, second=59, microsecond=0)
    if is_running:
        await bench.schedule()
    bench.clock.at = START.replace(minute=30, microsecond=0)
    await bench.command(edited, UpdateCron(schedule="30 12,13 * * *"))
    await bench.command(paused, UpdateCron(enabled=False))
    await bench.command(deleted_rule, UpdateCron(schedule="30 12 * * *"))
    if not is_running:
        await bench.schedule()
    await bench.until(partial(bench.has_fired, 2))
    bench.clock.move(seconds=30)
    await bench.quiet()
    assert (bench.fired(edited), bench.fired(paused)) == (["12:30:00"], ["12:30:00"])
    assert bench.fired(deleted_rule) == []  # strictly after the edit
    assert bench.events(OccurrencesMissed) == []
    bench.clock.move(hours=1)
    await bench.until(partial(bench.has_fired, 3))
    assert bench.fired(edited) == ["12:30:00", "13:30:00"]


async def test_another_input_moves_no_occurrence(bench: Bench) -> None:
    cron_id = await bench.cron("*/10 * * * *")
    bench.clock.move(minutes=9, seconds=59)
    await bench.command(cron_id, UpdateCron(spec=RunSpec(input={"n": 2}), metadata={"k": 1}, note="why"))
    bench.clock.move(seconds=5)
    await bench.schedule()
    await bench.until(lambda: bench.fired(cron_id))
    assert bench.fired(cron_id) == ["12:10:00"]


@pytest.mark.parametrize(
    "off", [timedelta(seconds=6), timedelta(hours=1), timedelta(days=3653), -timedelta(hours=1)]
)
async def test_a_host_whose_clock_is_wrong_decides_nothing(bench: Bench, off: timedelta) -> None:
    """A single one that is wrong by years can't move a cursor into the future."""
    await bench.schedule()
    [scheduler] = bench.schedulers
    cron_id = await bench.cron("*/5 * * * * *")
    bench.clock.move(seconds=5)
    await bench.until(lambda: bench.fired(cron_id))
    right = bench.clock.at
    bench.log._recorder.clock = lambda: right  # type: ignore[method-assign]
    bench.clock.at = right + off
    bench.clock.move()
    await bench.quiet()
    assert "clock" in scheduler.failing
    assert bench.fired(cron_id) == ["12:00:05"]
    assert bench.events(OccurrencesMissed) == []
    bench.clock.at = right
    bench.log._recorder.clock = bench.clock.now  # type: ignore[method-assign]
    bench.clock.move(seconds=5)
    await bench.until(partial(bench.has_fired, 2))
    assert (bench.fired(cron_id), scheduler.failing) == (["12:00:05", "12:00:10"], "")


@pytest.mark.parametrize("years", [0, 10])
async def test_when_both_clocks_step_forward_it_is_downtime(bench: Bench, years: int) -> None:
    await bench.schedule()
    cron_id = await bench.cron("0 * * * *")
    bench.clock.move(days=3653 * years / 10, hours=1, seconds=90)
    await bench.until(lambda: bench.fired(cron_id))
    assert bench.fired(cron_id) == ["13:00:00"]
    told = bench.events(OccurrencesMissed)
    assert [e.reason for e in told] == (["window", "coalesced"] if years else [])
    assert sum(e.count for e in told if e.reason == "coalesced") == (23 if years else 0)
    bench.clock.at -= timedelta(hours=1)  # and back again: nothing fires twice
    bench.clock.move(minutes=30)
    await bench.quiet()
    assert len(bench.fired(cron_id)) == 1


async def test_a_second_that_the_clock_shows_twice_fires_once(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *")
    for step in (1, -1, 1, 1):  # a leap second
        bench.clock.move(seconds=step)
        await bench.quiet()
    assert bench.fired(cron_id) == ["12:00:01", "12:00:02"]
    with pytest.raises(InvalidSchedule):
        parse("60 * * * * *", seconds=True)


@pytest.mark.parametrize("known_at", ["its start", "a change"])
async def test_one_with_older_zones_than_the_ledger_decides_nothing(bench: Bench, known_at: str) -> None:
    cron_id = await bench.cron("*/5 * * * * *")
    [created] = bench.log.stream(cron_id)
    assert isinstance(created.body, CronCreated)
    if known_at == "its start":
        newer = msgspec.structs.replace(created.body, tzdata="2027a")
        await bench.store(Append(run_id_of(cron_id, 0), 0, (newer,)))
        await bench.schedule()
    else:
        await bench.schedule()
        moved = CronRescheduled(next_at=None, tzdata="2027a")
        await bench.store(Append(cron_id, 1, (moved,)))
    bench.clock.move(seconds=6)
    await bench.quiet()
    assert bench.fired() == []
    assert "2027a" in bench.schedulers[0].failing
