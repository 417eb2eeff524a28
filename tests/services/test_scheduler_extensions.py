"""What a cron may have beyond its schedule: pauses that end, jitter, a number of runs, a stop after failures."""

from datetime import timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import pytest

from contracts.events import (
    CronExhausted,
    CronPaused,
    CronResumed,
    OccurrenceSkipped,
    OccurrencesMissed,
    RunFailed,
    RunInterrupted,
    RunRequested,
    RunSucceeded,
    RunTimedOut,
)
from contracts.ledger import Append
from domain.cron import UpdateCron, cron_of
from domain.errors import InvalidField
from domain.identity import run_id_of
from domain.timeline import fires_at
from tests.services.schedulers import START, Bench


def missed(bench: Bench) -> list[tuple[str, int, str]]:
    return [(e.first.strftime("%H:%M"), e.count, e.reason) for e in bench.events(OccurrencesMissed)]


def state(bench: Bench, cron_id: UUID) -> str:
    cron = cron_of(cron_id, bench.log.stream(cron_id))
    assert cron is not None
    return cron.state


def pause(**until: float) -> UpdateCron:
    return UpdateCron(enabled=False, paused_until=START + timedelta(**until) if until else None, note="why")


# --- pauses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["it runs", "it was edited meanwhile", "it was restarted meanwhile"])
async def test_a_pause_ends_by_itself(bench: Bench, when: str) -> None:
    await bench.schedule()
    cron_id = await bench.cron("*/10 * * * *")
    await bench.command(cron_id, pause(minutes=29, seconds=59.5))
    bench.clock.move(minutes=15)
    await bench.quiet()
    if when == "it was edited meanwhile":
        await bench.command(cron_id, UpdateCron(schedule="10,20,30,40 * * * *"))
    if when == "it was restarted meanwhile":
        await bench.halt()
        await bench.schedule()
    assert state(bench, cron_id) == "paused"
    bench.clock.move(minutes=15)  # to the very second at which it ends, and at which it is due
    await bench.until(lambda: bench.fired(cron_id))
    assert bench.fired(cron_id) == ["12:30:00"]
    await bench.until(lambda: missed(bench))
    paused = {"it was edited meanwhile": [("12:10", 1, "paused"), ("12:20", 1, "paused")]}
    assert missed(bench) == paused.get(when, [("12:10", 2, "paused")])
    assert state(bench, cron_id) == "active"
    [resumed] = [e for e in bench.log.stream(cron_id) if isinstance(e.body, CronResumed)]
    assert resumed.meta.actor == "scheduler"
    bench.clock.move(minutes=10)
    await bench.until(partial(bench.has_fired, 2))


async def test_what_a_halt_covered_after_the_end_of_a_pause_is_caught_up(bench: Bench) -> None:
    cron_id = await bench.cron("*/10 * * * *")
    await bench.command(cron_id, pause(minutes=25))
    bench.clock.move(minutes=57)
    await bench.schedule()
    await bench.until(lambda: bench.fired(cron_id))
    await bench.quiet()
    assert bench.fired(cron_id) == ["12:50:00"]
    assert missed(bench) == [("12:10", 2, "paused"), ("12:30", 2, "coalesced")]


async def test_a_pause_is_taken_back_or_made_longer(bench: Bench) -> None:
    await bench.schedule()
    back, longer, open_end = [await bench.cron("*/10 * * * *") for _ in range(3)]
    for cron_id in (back, longer, open_end):
        await bench.command(cron_id, pause(minutes=15))
    await bench.command(back, UpdateCron(enabled=True))
    await bench.command(longer, pause(minutes=25))
    await bench.command(open_end, pause())
    bench.clock.move(minutes=10)
    await bench.until(lambda: bench.fired(back))
    bench.clock.move(minutes=10)
    await bench.until(partial(bench.has_fired, 2))
    bench.clock.move(minutes=10)
    await bench.until(partial(bench.has_fired, 4))
    await bench.quiet()
    assert bench.fired(longer) == ["12:30:00"]
    assert bench.fired(open_end) == []


@pytest.mark.parametrize(
    ("makes_up", "fired", "told"),
    [
        ("skip", [], [("12:10", 5, "paused")]),
        ("latest", ["12:50:00"], [("12:10", 4, "coalesced")]),
        ("all", [f"12:{m}0:00" for m in range(1, 6)], []),
    ],
)
@pytest.mark.parametrize("is_running", [True, False])
async def test_what_is_made_up_for_after_a_pause(
    bench: Bench, makes_up: Any, fired: list[str], told: list[Any], *, is_running: bool
) -> None:
    if is_running:
        await bench.schedule()
    cron_id = await bench.cron("*/10 * * * *", catch_up="skip")  # the policy of halts is another matter
    await bench.command(cron_id, pause())
    bench.clock.move(minutes=55)
    await bench.command(cron_id, UpdateCron(enabled=True, makes_up=makes_up))
    if not is_running:
        await bench.schedule()
    for _ in fired:
        await bench.quiet()
        bench.clock.move(seconds=0.2)
    await bench.until(lambda: (bench.fired(cron_id), missed(bench)) == (fired, told))
    assert {e.kind for e in bench.events(RunRequested)} <= {"catch_up"}


async def test_a_pause_must_end_later(bench: Bench) -> None:
    cron_id = await bench.cron("*/10 * * * *")
    for until in ({"seconds": -1}, {"days": 4000}):
        with pytest.raises(InvalidField, match="until"):
            await bench.command(cron_id, pause(**until))


# --- jitter ---------------------------------------------------------------------------------------------


async def test_jitter_moves_the_firing_and_never_the_occurrence(bench: Bench) -> None:
    await bench.schedule()
    ids = [await bench.cron("*/10 * * * *", jitter_s=300) for _ in range(20)]
    due = int(START.timestamp()) + 600
    rule = cron_of(ids[0], bench.log.stream(ids[0])).rule  # type: ignore[union-attr]
    when = {cron_id: fires_at(rule, cron_id.bytes, due) for cron_id in ids}
    assert len({int(at) for at in when.values()}) > 10
    assert all(due <= at < due + 300 for at in when.values())
    bench.clock.at = START + timedelta(seconds=599.5)
    while bench.clock.wall_s() < due + 300:
        bench.clock.move(seconds=50)
        ripe = sum(at <= bench.clock.wall_s() for at in when.values())
        await bench.until(partial(bench.has_fired, ripe))
    assert bench.fired() == ["12:10:00"] * 20
    runs = bench.events(RunRequested)
    assert {(e.kind, e.next_at.minute) for e in runs} == {("schedule", 20)}
    assert {e.cron_id: e.fires_at.timestamp() for e in runs} == pytest.approx(when)


async def test_jitter_survives_halts_edits_and_pauses(bench: Bench) -> None:
    due = int(START.timestamp()) + 600
    ids = [await bench.cron("*/10 * * * *", jitter_s=600) for _ in range(30)]
    rule = cron_of(ids[0], bench.log.stream(ids[0])).rule  # type: ignore[union-attr]
    late = [cron_id for cron_id in ids if fires_at(rule, cron_id.bytes, due) > due + 200]
    waits, edited, paused = late[:3]
    await bench.schedule()
    bench.clock.at = START + timedelta(seconds=700)
    await bench.quiet()
    await bench.halt()
    await bench.schedule()
    assert not {waits, edited, paused} & {e.cron_id for e in bench.events(RunRequested)}
    await bench.command(edited, UpdateCron(schedule="0 3 * * *"))
    await bench.command(paused, pause())
    await bench.until(lambda: bench.fired(edited))  # what was due before it fires at once
    assert bench.fired(edited) == ["12:10:00"]
    await bench.until(lambda: missed(bench))
    assert missed(bench) == [("12:10", 1, "paused")]
    bench.clock.at = START + timedelta(seconds=1199)
    await bench.until(lambda: bench.fired(waits))
    assert bench.fired(waits) == ["12:10:00"]
    assert bench.fired(paused) == []


# --- a number of runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedulers", [1, 2])
async def test_the_last_of_its_runs_ends_it(bench: Bench, schedulers: int) -> None:
    await bench.schedule(schedulers)
    cron_id = await bench.cron("* * * * * *", max_runs=3)
    for _ in range(5):
        bench.clock.move(seconds=1)
        await bench.quiet()
    assert bench.fired(cron_id) == ["12:00:01", "12:00:02", "12:00:03"]
    [over] = bench.events(CronExhausted)
    assert (over.runs, state(bench, cron_id)) == (3, "exhausted")
    assert missed(bench) == []
    with pytest.raises(InvalidField, match="max_runs"):
        await bench.command(cron_id, UpdateCron(enabled=True))
    await bench.command(cron_id, UpdateCron(enabled=True, max_runs=4))
    bench.clock.move(seconds=2)
    await bench.until(partial(bench.has_fired, 4))
    await bench.quiet()
    assert len(bench.events(CronExhausted)) == 2
    assert missed(bench) == []


async def test_runs_are_counted_over_halts_and_lost_answers(bench: Bench) -> None:
    chance = Random(3)
    cron_id = await bench.cron("* * * * *", max_runs=4)
    bench.edge_log.lose_answers(0.4, chance)
    for _ in range(4):
        while not bench.schedulers:
            await bench.schedule()
        bench.clock.move(minutes=2)
        await bench.quiet()
        await bench.halt()
    bench.edge_log.well()
    await bench.schedule()
    await bench.until(lambda: state(bench, cron_id) == "exhausted")
    bench.clock.move(minutes=5)
    await bench.quiet()
    assert len(bench.fired(cron_id)) == 4
    [over] = bench.events(CronExhausted)
    assert over.rule.end_time == bench.events(RunRequested)[-1].scheduled_for


async def test_a_number_that_is_set_later_counts_what_it_has_run(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *")
    for n in range(3):
        bench.clock.move(seconds=1)
        await bench.until(partial(bench.has_fired, n + 1))
    await bench.command(cron_id, UpdateCron(max_runs=4))
    bench.clock.move(seconds=2)
    await bench.until(lambda: bench.events(CronExhausted))
    await bench.quiet()
    assert bench.fired(cron_id) == [f"12:00:0{n}" for n in range(1, 5)]
    await bench.command(cron_id, UpdateCron(max_runs=None, enabled=True))
    bench.clock.move(seconds=1)
    await bench.until(partial(bench.has_fired, 5))


async def test_only_runs_count(bench: Bench) -> None:
    await bench.schedule()
    thread_id = await bench.thread()
    skips = await bench.cron(
        "* * * * * *", thread_id=thread_id, max_runs=2, spec={"multitask_strategy": "reject"}
    )
    bench.clock.move(seconds=1)
    await bench.until(partial(bench.has_fired, 1))
    bench.clock.move(seconds=1)
    await bench.until(lambda: bench.events(OccurrenceSkipped))
    await bench.quiet()
    assert state(bench, skips) == "active"


async def test_fewer_than_it_has_had_ends_it(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *")
    for n in range(3):
        bench.clock.move(seconds=1)
        await bench.until(partial(bench.has_fired, n + 1))
    await bench.command(cron_id, UpdateCron(max_runs=2))
    await bench.quiet()
    bench.clock.move(seconds=3)
    await bench.until(lambda: bench.events(CronExhausted))
    await bench.quiet()
    assert len(bench.fired()) == 3
    assert bench.events(CronExhausted)[0].runs == 3


# --- failures ---------------------------------------------------------------------------------------------


async def end(bench: Bench, cron_id: UUID, kind: str) -> None:
    """The newest run of the cron ends so."""
    run = next(e for e in reversed(bench.events(RunRequested)) if e.cron_id == cron_id)
    its: dict[str, Any] = {"thread_id": run.thread_id, "cron_id": cron_id}
    body = {
        "failed": RunFailed(**its, error="ValueError", message="no"),
        "timed_out": RunTimedOut(**its, limit_s=1.0),
        "succeeded": RunSucceeded(**its),
        "interrupted": RunInterrupted(**its),
    }[kind]
    assert run.scheduled_for is not None
    run_id = run_id_of(cron_id, int(run.scheduled_for.timestamp()))
    await bench.store(Append(run_id, len(bench.log.stream(run_id)), (body,)))


async def after(bench: Bench, cron_id: UUID, *kinds: str) -> None:
    for kind in kinds:
        fired = len(bench.fired(cron_id))
        bench.clock.move(minutes=1)
        await bench.until(lambda: len(bench.fired(cron_id)) > fired)  # noqa: B023
        await end(bench, cron_id, kind)
    await bench.quiet()


async def test_it_pauses_itself_after_failures_in_a_row(bench: Bench) -> None:
    await bench.schedule()
    cron_id = await bench.cron("* * * * *", pause_after_failures=2)
    await after(bench, cron_id, "failed", "succeeded", "failed", "interrupted")
    assert state(bench, cron_id) == "active"
    await after(bench, cron_id, "timed_out")
    [paused] = [e for e in bench.log.stream(cron_id) if isinstance(e.body, CronPaused)]
    last = bench.events(RunRequested)[-1].scheduled_for
    assert last is not None
    assert paused.meta.actor == "scheduler"
    assert paused.meta.cause == f"{run_id_of(cron_id, int(last.timestamp()))}/2"
    assert isinstance(paused.body, CronPaused)
    assert "2" in paused.body.note
    bench.clock.move(minutes=3)
    await bench.quiet()
    assert len(bench.fired()) == 5
    await bench.command(cron_id, UpdateCron(enabled=True))
    await after(bench, cron_id, "failed")  # they are counted anew
    assert state(bench, cron_id) == "active"
    await after(bench, cron_id, "failed")
    assert state(bench, cron_id) == "paused"


@pytest.mark.parametrize("why", ["it was away", "its reads fail", "its answer is lost", "it was set later"])
async def test_it_pauses_itself_whatever_fails(bench: Bench, why: str) -> None:
    cron_id = await bench.cron(
        "* * * * *", **{} if why == "it was set later" else {"pause_after_failures": 2}
    )
    await bench.schedule()
    await after(bench, cron_id, "failed")
    if why == "it was away":
        bench.clock.move(minutes=1)
        await bench.until(partial(bench.has_fired, 2))
        await bench.halt()
        await end(bench, cron_id, "failed")
        await bench.schedule()
    elif why == "its reads fail":
        bench.edge_views.fail("all", times=3)
        await after(bench, cron_id, "failed")
    elif why == "its answer is lost":
        bench.clock.move(minutes=1)
        await bench.until(partial(bench.has_fired, 2))
        bench.edge_log.lose_answers(1.0, Random(1))
        await end(bench, cron_id, "failed")
        await bench.quiet()
        bench.edge_log.well()
    else:
        await after(bench, cron_id, "failed")
        await bench.command(cron_id, UpdateCron(pause_after_failures=2))
    await bench.until(lambda: state(bench, cron_id) == "paused")
    bench.clock.move(minutes=2)
    await bench.quiet()
    assert len(bench.events(CronPaused)) == 1
    assert len(bench.fired()) == 2
