"""The scheduler when its edges fail, and when crons are edited while nobody schedules."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from contracts.events import (
    AssistantCreated,
    AssistantUpdated,
    CronExpired,
    CronRescheduled,
    OccurrenceMissed,
    OccurrenceSkipped,
    OccurrencesMissed,
    Rule,
    RunRequested,
    ThreadDeleted,
)
from contracts.ledger import Append, Meta, Payload, Transaction
from domain.cron import DeleteCron, UpdateCron, cron_of
from domain.identity import run_id_of
from domain.schedule import occurrences, parse_canonical, zone
from domain.timeline import shown_at
from services.kit.eventlog import LogUnavailable
from services.kit.ids import uuid7
from services.kit.settings import Settings
from services.projector.projector import Projector
from services.scheduler.scheduler import Scheduler
from tests.services.schedulers import ASSISTANT, START, Bench, Edge, MovedClock


@pytest.mark.parametrize(
    ("edge", "call"),
    [("views", "all"), ("log", "append_many"), ("log", "newest"), ("log", "head"), ("log", "read_topics")],
)
@pytest.mark.parametrize("after", [0, 1])
async def test_one_error_loses_no_occurrence(bench: Bench, edge: str, call: str, after: int) -> None:
    await bench.schedule()
    await bench.cron("* * * * *", thread_id=await bench.thread())
    bench.clock.move(minutes=1)
    await bench.until(bench.fired)
    failing = bench.edge_views if edge == "views" else bench.edge_log
    failing.fail(call, after)
    for minute in range(2, 6):
        bench.clock.move(minutes=1)
        await bench.until(partial(bench.has_fired, minute))
    assert bench.fired() == [f"12:0{n}:00" for n in range(1, 6)]
    assert bench.events(OccurrencesMissed, OccurrenceMissed, OccurrenceSkipped) == []


async def test_what_was_due_while_the_log_was_away_is_told(bench: Bench) -> None:
    await bench.schedule()
    await bench.cron("* * * * *")
    bench.clock.move(minutes=1)
    await bench.until(bench.fired)
    bench.edge_log.error = LogUnavailable("no space left")
    bench.edge_log.fail("append_many", times=1000)
    bench.edge_log.fail("append", times=1000)
    bench.clock.move(seconds=60)
    await bench.quiet()
    assert "no space left" in bench.schedulers[0].failing
    bench.clock.move(seconds=65)
    await bench.quiet()
    bench.edge_log.well()
    await bench.until(lambda: len(bench.fired()) == 2)
    assert bench.fired() == ["12:01:00", "12:03:00"]
    [missed] = bench.events(OccurrencesMissed)
    assert (missed.first.minute, missed.count, missed.reason) == (2, 1, "coalesced")
    await bench.until(lambda: not bench.schedulers[0].failing)


@pytest.mark.parametrize("edits", [[{"enabled": False}, {"enabled": True}], [{"schedule": "0 0 1 1 *"}]])
async def test_what_was_due_before_an_edit_is_decided_as_it_was_planned(
    bench: Bench, edits: list[dict[str, object]]
) -> None:
    cron_id = await bench.cron("*/30 * * * *")
    bench.clock.move(minutes=35)
    for edit in edits:
        await bench.command(cron_id, UpdateCron(**edit))  # type: ignore[arg-type]
    await bench.schedule()
    await bench.until(bench.fired)
    assert bench.fired(cron_id) == ["12:30:00"]
    assert bench.events(RunRequested)[0].kind == "catch_up"


async def test_pausing_while_a_catch_up_waits_loses_nothing(bench: Bench) -> None:
    bench.settings = Settings(catch_up_spread_s=3600)
    cron_id = await bench.cron("*/30 * * * *")
    bench.clock.move(minutes=31, seconds=30)
    await bench.schedule()
    await bench.quiet()
    assert bench.fired() == []
    await bench.command(cron_id, UpdateCron(enabled=False))
    await bench.until(lambda: bench.events(OccurrencesMissed))
    [missed] = bench.events(OccurrencesMissed)
    assert (missed.first.minute, missed.count, missed.reason) == (30, 1, "paused")


async def test_waiting_for_a_catch_up_costs_nothing(bench: Bench) -> None:
    bench.settings = Settings(catch_up_spread_s=0.9)
    for _ in range(8):
        await bench.cron("*/30 * * * *")
    bench.clock.move(minutes=31, seconds=30)
    await bench.schedule()
    await bench.quiet()
    before = bench.edge_log.calls["head"]
    await asyncio.sleep(0.5)
    assert bench.edge_log.calls["head"] - before < 100
    bench.clock.move(seconds=1)
    await bench.until(lambda: len(bench.fired()) == 8)


def told(bench: Bench) -> list[tuple[str, int, str]]:
    """Every decision in its order: (first instant, how many, what became of them)."""
    found: list[tuple[str, int, str]] = []
    for event in bench.events(RunRequested, OccurrencesMissed, OccurrenceMissed, OccurrenceSkipped):
        if isinstance(event, OccurrencesMissed):
            found.append((event.first.strftime("%H:%M:%S"), event.count, event.reason))
        elif isinstance(event, RunRequested):
            assert event.scheduled_for is not None
            found.append((event.scheduled_for.strftime("%H:%M:%S"), 1, event.kind))
        else:
            found.append((event.scheduled_for.strftime("%H:%M:%S"), 1, event.reason))
    return found


async def test_a_pause_and_a_resume_while_nobody_schedules(bench: Bench) -> None:
    cron_id = await bench.cron("*/10 * * * *")
    bench.clock.move(minutes=15)  # 12:10 is undecided
    await bench.command(cron_id, UpdateCron(enabled=False))
    bench.clock.move(minutes=40)  # 12:20 to 12:50 are in the pause
    await bench.command(cron_id, UpdateCron(enabled=True))
    bench.clock.move(minutes=10)  # 13:00
    await bench.schedule()
    await bench.until(partial(bench.has_fired, 1))
    await bench.quiet()
    assert told(bench) == [
        ("12:10:00", 1, "coalesced"),
        ("12:20:00", 4, "paused"),
        ("13:00:00", 1, "catch_up"),
    ]


async def test_deleting_while_a_catch_up_waits_ends_it(bench: Bench) -> None:
    bench.settings = Settings(catch_up_spread_s=3600)
    cron_id = await bench.cron("*/30 * * * *")
    other = await bench.cron("*/30 * * * *")
    bench.clock.move(minutes=31, seconds=30)
    await bench.schedule()
    await bench.quiet()
    await bench.command(cron_id, DeleteCron())
    bench.clock.move(minutes=28, seconds=29)
    await bench.until(lambda: bench.fired(other))
    assert bench.fired() == ["12:30:00"]


async def test_a_catch_up_that_waits_is_found_again_by_the_next_start(bench: Bench) -> None:
    bench.settings = Settings(catch_up_spread_s=3600)
    await bench.cron("*/30 * * * *")
    bench.clock.move(minutes=31, seconds=30)
    await bench.schedule()
    await bench.quiet()
    await bench.halt()
    assert told(bench) == []
    bench.settings = Settings(catch_up_spread_s=0)
    await bench.schedule()
    await bench.until(partial(bench.has_fired, 1))
    assert told(bench) == [("12:30:00", 1, "catch_up")]


async def test_a_catch_up_comes_before_the_next_occurrence(bench: Bench) -> None:
    bench.settings = Settings(catch_up_spread_s=3600)
    await bench.cron("*/10 * * * *")
    bench.clock.move(minutes=15)
    await bench.schedule()
    await bench.quiet()
    bench.clock.move(minutes=4, seconds=59)
    await bench.until(partial(bench.has_fired, 1))
    bench.clock.move(seconds=1)
    await bench.until(partial(bench.has_fired, 2))
    assert told(bench) == [("12:10:00", 1, "catch_up"), ("12:20:00", 1, "schedule")]


async def beside(bench: Bench, edge: Edge) -> MovedClock:
    """Another scheduler, whose clock stands still until the test moves it."""
    still = MovedClock()
    await bench.begin(Scheduler(cast(Any, edge), cast(Any, bench.edge_views), still, bench.settings))
    return still


async def test_a_scheduler_that_stood_still_takes_over_what_another_has_done(bench: Bench) -> None:
    """Its own cursors are an hour old; it tells of nothing as missed that the other one has fired."""
    await bench.cron("*/10 * * * *")
    still = await beside(bench, Edge(bench.log))
    await bench.schedule()
    for n in range(1, 4):
        bench.clock.move(minutes=10)
        await bench.until(partial(bench.has_fired, n))
    await bench.schedulers.pop().stop()
    bench.clock.move(minutes=30)
    still.move(hours=1)
    await bench.until(partial(bench.has_fired, 4))
    assert told(bench)[3:] == [("12:40:00", 2, "coalesced"), ("13:00:00", 1, "schedule")]


async def test_what_another_fires_between_decision_and_append_is_not_missed(bench: Bench) -> None:
    await bench.cron("*/2 * * * *")
    edge = Edge(bench.log)
    still = await beside(bench, edge)
    await bench.schedule()

    async def two_firings() -> None:
        for n in (1, 2):
            bench.clock.move(minutes=2)
            await bench.until(partial(bench.has_fired, n))

    edge.meanwhile = two_firings
    edge.clock = still.now  # type: ignore[attr-defined] # it thinks that its store has the same
    still.move(minutes=6, seconds=10)
    await bench.until(partial(bench.has_fired, 3))
    assert told(bench) == [(f"12:0{n}:00", 1, "schedule") for n in (2, 4, 6)]


@pytest.mark.parametrize("away_s", [5, 600, 40_000])
async def test_two_schedulers_that_catch_up_decide_each_once(bench: Bench, away_s: int) -> None:
    ids = [await bench.cron(text) for text in ("*/7 * * * * *", "* * * * *", "*/5 * * * *") for _ in range(3)]
    bench.clock.move(seconds=away_s)
    await bench.schedule(2)
    await bench.quiet()
    bench.clock.move(seconds=1)
    await bench.quiet()
    now = int(bench.clock.wall_s())
    for cron_id in ids:
        cron = cron_of(cron_id, bench.log.stream(cron_id))
        assert cron is not None
        due = occurrences(parse_canonical(cron.canonical), zone(None), int(START.timestamp()), now, 100_000)
        fired = [e for e in bench.events(RunRequested) if e.cron_id == cron_id]
        missed = [e.body for e in bench.log.stream(cron_id) if isinstance(e.body, OccurrencesMissed)]
        assert len(fired) + sum(e.count for e in missed) == len(due)
        assert len({e.scheduled_for for e in fired}) == len(fired)
        assert not any(m.first <= e.scheduled_for <= m.last for e in fired for m in missed)


async def test_many_behind_are_told_in_a_few_commits(bench: Bench) -> None:
    for _ in range(60):
        await bench.cron("* * * * *", end_time=START + timedelta(hours=1))
    bench.clock.move(hours=2)
    before = bench.edge_log.calls["append_many"] + bench.edge_log.calls["append"]
    await bench.schedule()
    await bench.until(lambda: len(bench.events(CronExpired)) == 60)
    assert len(bench.events(OccurrencesMissed)) == 60
    assert bench.fired() == ["13:00:00"] * 60
    assert bench.edge_log.calls["append_many"] + bench.edge_log.calls["append"] - before <= 4


async def test_a_conflict_is_passed_over_alone(bench: Bench) -> None:
    """One of a block was edited a moment before it fires, and the scheduler does not know yet."""
    ids = [await bench.cron("* * * * *") for _ in range(5)]
    await bench.schedule()
    await bench.quiet()
    bench.edge_log.frozen_head = bench.log.head()
    await bench.command(ids[2], UpdateCron(schedule="30 * * * *"))
    bench.clock.move(minutes=1)
    await bench.until(partial(bench.has_fired, 4))
    await bench.quiet()
    assert bench.fired(ids[2]) == []
    bench.edge_log.frozen_head = None
    bench.clock.move(minutes=29)
    await bench.until(lambda: bench.fired(ids[2]))
    assert bench.fired(ids[2]) == ["12:30:00"]


async def test_a_clock_that_jumps_both_ways_loses_and_doubles_nothing(bench: Bench) -> None:
    await bench.schedule()
    await bench.cron("*/2 * * * *")
    for minutes in (2, 50, -120, 70, 1, 61, -300, 301):
        bench.clock.move(minutes=minutes)
        await bench.quiet()
    decided = told(bench)
    assert sum(entry[1] for entry in decided) == (2 + 50 - 120 + 70 + 1 + 61 - 300 + 301) // 2 + 0 * len(
        decided
    )
    assert len({entry[0] for entry in decided}) == len(decided)


async def test_the_read_model_must_have_come_as_far_as_the_log(bench: Bench) -> None:
    await bench.cron("* * * * *")
    await bench.projector.stop()
    position = await bench.log.append(
        Transaction(
            meta=Meta(at=bench.clock.now(), actor="test"),
            appends=(Append(UUID(int=9), 0, (ThreadDeleted(),)),),
        )
    )
    starting = asyncio.create_task(bench.schedule())
    await bench.quiet()
    assert not bench.schedulers[0].started
    assert str(position) in bench.schedulers[0].failing
    bench.projector = Projector(bench.log, bench.folder / "views.db")
    await bench.projector.start()
    await starting
    bench.clock.move(minutes=1)
    await bench.until(partial(bench.has_fired, 1))


async def test_read_models_that_lag_put_off_only_those_that_need_them(bench: Bench) -> None:
    """After a halt it can't be known whether another scheduler went on. A catch-up that waits is decided already."""
    bench.settings = Settings(catch_up_spread_s=600)
    waiting = [await bench.cron("0 0 12 * * *") for _ in range(8)]
    bench.clock.move(hours=24, minutes=30)
    await bench.schedule()
    old = await bench.cron("0 * * * * *")
    await bench.quiet()
    await bench.projector.stop()
    bench.projector.reached = _at_once  # type: ignore[method-assign, assignment]
    await bench.store(Append(uuid7(), 0, (ThreadDeleted(),)))
    for _ in range(10):
        bench.clock.move(seconds=125)
        await bench.quiet()
    assert {cron_id for cron_id in waiting if bench.fired(cron_id) == ["12:00:00"]} == {*waiting}
    assert bench.fired(old) == []
    calls = bench.edge_log.calls["head"]
    await bench.quiet()
    assert bench.edge_log.calls["head"] - calls < 100  # it does not spin
    bench.projector = Projector(bench.log, bench.folder / "views.db")
    await bench.projector.start()
    await bench.projector.reached(bench.log.head())
    bench.clock.move(seconds=1)
    await bench.until(lambda: bench.fired(old) == ["12:50:00"])
    [missed] = bench.events(OccurrencesMissed)
    assert (missed.first.minute, missed.count) == (31, 19)


async def _at_once(*_: Any) -> bool:
    return True


async def test_a_cron_whose_zone_is_gone_is_blocked_until_it_has_another(bench: Bench) -> None:
    cron_id = await bench.former_cron("* * * * *", "Atlantis/Capital")
    sound = await bench.cron("* * * * *")
    await bench.schedule()
    bench.clock.move(minutes=1)
    await bench.until(partial(bench.has_fired, 1))
    await bench.quiet()
    assert bench.fired(cron_id) == []
    assert bench.schedulers[0].failing == ""
    await bench.command(cron_id, UpdateCron(timezone="Europe/Berlin"))
    bench.clock.move(minutes=1)
    await bench.until(partial(bench.has_fired, 3))
    assert (bench.fired(cron_id), len(bench.fired(sound))) == (["12:02:00"], 2)


async def test_a_row_that_nobody_can_read_keeps_no_other_from_its_turn(bench: Bench) -> None:
    odd, sound = await bench.cron("* * * * *"), await bench.cron("* * * * *")
    with closing(sqlite3.connect(bench.folder / "views.db")) as db, db:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'crons%'"
        [table] = db.execute(query).fetchone()
        db.execute(f"UPDATE {table} SET undecided = 'no JSON' WHERE cron_id = ?", (odd.bytes,))
    await bench.schedule()
    bench.clock.move(minutes=1)
    await bench.until(lambda: bench.fired(sound))
    assert bench.fired(odd) == []
    assert str(odd) in bench.schedulers[0].notice


def fired_times(bench: Bench, cron_id: UUID, how_many: int) -> bool:
    return len(bench.fired(cron_id)) == how_many


async def test_a_cron_that_cannot_be_planned_keeps_no_other_from_its_turn(bench: Bench) -> None:
    odd = uuid7()
    said = AssistantCreated(graph_id="agent", name="odd", config={"tags": 5})  # no request makes one
    await bench.store(Append(odd, 0, (said,)))
    poison = await bench.cron("* * * * *", assistant_id=odd)
    late = await bench.cron("30 * * * * *", assistant_id=odd, thread_id=await bench.thread())
    gone = await bench.cron("* * * * *", assistant_id=odd)
    sound = await bench.cron("* * * * *")
    await bench.schedule()
    bench.clock.move(seconds=30)
    for minute in range(1, 4):
        bench.clock.move(seconds=30)
        await bench.until(partial(fired_times, bench, sound, minute))
        bench.clock.move(seconds=30)
        await bench.quiet()
    fresh = await bench.cron("* * * * *")
    bench.clock.move(seconds=30)
    await bench.until(lambda: bench.fired(fresh) == ["12:04:00"])
    assert (bench.fired(poison), bench.fired(late)) == ([], [])
    assert bench.schedulers[0].failing == ""
    assert bench.schedulers[0].notice.startswith("3 crons set aside: ")
    await bench.command(gone, DeleteCron())
    await bench.until(lambda: bench.schedulers[0].notice.startswith("2 crons set aside: "))
    mended = AssistantUpdated(graph_id="agent", name="odd", config={})
    await bench.store(Append(odd, 1, (mended,)))
    bench.clock.move(seconds=31)
    await bench.until(lambda: bench.fired(poison) and bench.fired(late))
    assert (bench.fired(poison), bench.fired(late)) == (["12:04:00"], ["12:04:30"])
    told = [e.body for cron_id in (poison, late) for e in bench.log.stream(cron_id)]
    assert sum(body.count for body in told if isinstance(body, OccurrencesMissed)) == 7
    assert bench.schedulers[0].notice == ""


async def test_new_rules_of_a_zone_are_told_in_one_commit(bench: Bench) -> None:
    for n in range(20):
        await bench.former_cron("0 9 * * *", "America/Vancouver", enabled=n > 0)
    bench.edge_log.fail("append_many")
    await bench.schedule()
    await bench.until(lambda: bench.events(CronRescheduled))
    told_of = bench.events(CronRescheduled)
    assert (len(told_of), {e.next_at.hour for e in told_of}) == (19, {16})
    await bench.quiet()
    assert len(bench.events(CronRescheduled)) == 19


# --- new rules of a zone ------------------------------------------------------------------------------


async def vancouver(bench: Bench, fired: datetime, local: str) -> UUID:
    """A cron of 09:00 in Vancouver, which has fired by former rules of that zone."""
    bench.clock.at = fired - timedelta(days=1)
    cron_id = await bench.former_cron("0 9 * * *", "America/Vancouver")
    requested = RunRequested(
        thread_id=uuid7(),
        cron_id=cron_id,
        assistant_id=ASSISTANT,
        graph_id="agent",
        user_id="u",
        kwargs=Payload(inline=msgspec.Raw(b"{}")),
        kind="schedule",
        scheduled_for=fired,
        local=local,
        tzdata="2001a",
    )
    await bench.store(Append(run_id_of(cron_id, int(fired.timestamp())), 0, (requested,)))
    return cron_id


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_wall_time_that_comes_again_later_has_no_second_run(bench: Bench, *, restarted: bool) -> None:
    nine = datetime(2026, 11, 24, 15, tzinfo=UTC)  # by the rules of today it is 16:00
    await vancouver(bench, nine, "2026-11-24T09:00:00-06:00")
    bench.clock.at = nine + timedelta(minutes=30)
    await bench.schedule()
    await bench.until(lambda: bench.events(CronRescheduled))
    [told_of] = bench.events(CronRescheduled)
    assert told_of.next_at == datetime(2026, 11, 25, 16, tzinfo=UTC)
    if restarted:
        await bench.projector.reached(bench.log.head())
        await bench.halt()
        await bench.schedule()
    bench.clock.move(hours=1)
    await bench.quiet()
    assert bench.fired() == ["15:00:00"]
    bench.clock.move(hours=23, minutes=30)
    await bench.until(partial(bench.has_fired, 2))
    assert told(bench) == [("15:00:00", 1, "schedule"), ("16:00:00", 1, "schedule")]


async def test_a_wall_time_that_has_come_sooner_is_caught_up_once(bench: Bench) -> None:
    nine = datetime(2026, 11, 23, 17, tzinfo=UTC)
    await vancouver(bench, nine, "2026-11-23T09:00:00-08:00")
    bench.clock.at = nine + timedelta(hours=23, minutes=30)  # half an hour after it by the rules of today
    await bench.schedule()
    await bench.until(partial(bench.has_fired, 2))
    bench.clock.move(hours=1)  # over 17:00, where the former rules had it
    await bench.quiet()
    assert told(bench) == [("17:00:00", 1, "schedule"), ("16:00:00", 1, "catch_up")]


async def test_an_interval_follows_real_time_whatever_the_rules_are(bench: Bench) -> None:
    assert shown_at(Rule(canonical="0 * * * *", timezone="America/Vancouver"), 0) is None
    nine = int(datetime(2026, 11, 24, 9, tzinfo=UTC).timestamp())
    daily = Rule(canonical="0 9 * * *", timezone="America/New_York")
    assert shown_at(daily, nine) == nine + 5 * 3600
    skipped = int(datetime(2026, 3, 8, 2, 30, tzinfo=UTC).timestamp())
    assert shown_at(daily, skipped) == int(datetime(2026, 3, 8, 7, tzinfo=UTC).timestamp())
    twice = int(datetime(2026, 11, 1, 1, 30, tzinfo=UTC).timestamp())
    assert shown_at(daily, twice) == int(datetime(2026, 11, 1, 5, 30, tzinfo=UTC).timestamp())


# --- a run that is stored though nobody says so -----------------------------------------------------------


def instants(bench: Bench) -> list[str]:
    """Each minute that an event tells of, as often as one does."""
    found = [e.scheduled_for for e in bench.events(RunRequested)]
    for missed in bench.events(OccurrencesMissed):
        found += [missed.first + timedelta(minutes=n) for n in range(missed.count)]
    return sorted(at.strftime("%H:%M") for at in found)


async def test_a_catch_up_that_is_stored_unseen_is_not_missed_as_well(bench: Bench) -> None:
    await bench.cron("* * * * *")
    bench.clock.move(minutes=3)
    bench.edge_log.lose_answers(1.0, Random(0))
    await bench.schedule()
    await bench.until(bench.fired)
    bench.clock.move(minutes=9)
    bench.edge_log.well()
    await bench.until(lambda: "12:12:00" in bench.fired())
    assert instants(bench) == [f"12:{n:02}" for n in range(1, 13)]


async def test_what_a_group_fired_unseen_is_not_missed_when_it_is_edited(bench: Bench) -> None:
    cron_id = await bench.cron("* * * * *")
    await bench.schedule()
    bench.edge_log.lose_answers(1.0, Random(0))
    bench.clock.move(minutes=1)
    await bench.until(bench.fired)
    bench.edge_log.fail("head", times=1000)
    bench.clock.move(minutes=9)
    await bench.command(cron_id, UpdateCron(metadata={"edited": True}))
    await bench.command(cron_id, UpdateCron(end_time=START + timedelta(hours=1)))
    bench.edge_log.well()
    await bench.until(lambda: "12:10:00" in bench.fired())
    assert instants(bench) == [f"12:{n:02}" for n in range(1, 11)]
