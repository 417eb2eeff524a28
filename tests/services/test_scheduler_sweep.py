"""A scripted half hour of crons in which a call of an edge fails again and again; a seed replays it."""

from collections import Counter
from datetime import timedelta
from random import Random
from uuid import UUID

import pytest

from contracts.events import (
    CronCreated,
    OccurrenceMissed,
    OccurrenceSkipped,
    OccurrencesMissed,
    RuleEvent,
    RunRequested,
)
from domain.cron import UpdateCron
from domain.schedule import occurrences, parse_canonical, zone
from domain.timeline import FOREVER, Timeline, fires_at, timeline_of
from services.kit.settings import Settings
from tests.services.schedulers import START, Bench

EDGES = ("append_many", "newest", "head", "read_topics", "stream", "all", "position", "clock")


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.settings = Settings(catch_up_spread_s=20)
    return bench


def due_of(bench: Bench, cron_id: UUID) -> list[int]:
    """Every instant that a cron's stream makes an occurrence of, pauses that last left out."""
    timeline: Timeline | None = None
    for recorded in bench.log.stream(cron_id):
        at, body = int(recorded.meta.at.timestamp()), recorded.body
        if isinstance(body, CronCreated):
            timeline = timeline_of(body, at)
        elif isinstance(body, RuleEvent) and body.rule is not None:
            assert timeline is not None
            at = int(body.since(recorded.meta.at).timestamp())
            timeline = timeline.then(at, body.rule, body.made_up)
    assert timeline is not None
    found: list[int] = []
    for stretch in timeline.stretches:
        if stretch.rule.active or stretch.until != FOREVER:
            schedule, place = parse_canonical(stretch.rule.canonical), zone(stretch.rule.timezone)
            until = min(stretch.end, int(bench.clock.wall_s()))
            found += occurrences(schedule, place, stretch.after, until)
    waits = fires_at(timeline.present.rule, cron_id.bytes, found[-1]) if found else 0
    return found[:-1] if waits > bench.clock.wall_s() else found


def wrong(bench: Bench, cron_ids: list[UUID]) -> dict[str, int]:
    """Occurrences that are in no event, or in several."""
    found: dict[str, int] = {}
    runs = bench.events(RunRequested, OccurrenceSkipped, OccurrenceMissed)
    for cron_id in cron_ids:
        told = Counter(int(e.scheduled_for.timestamp()) for e in runs if e.cron_id == cron_id)
        due = due_of(bench, cron_id)
        for recorded in bench.log.stream(cron_id):
            if isinstance(body := recorded.body, OccurrencesMissed):
                first, last = int(body.first.timestamp()), int(body.last.timestamp())
                told.update(at for at in due if first <= at <= last)
        found |= {f"{cron_id} {at}": told[at] for at in {*due, *told} if told[at] != 1 or at not in due}
    return found


async def day(bench: Bench) -> list[UUID]:
    """Firing, an edit, a pause, a halt, a jump of the clock, an end."""
    thread_id = await bench.thread()
    minute = await bench.cron("* * * * *", thread_id=thread_id)
    ids = [
        minute,
        await bench.cron("*/2 * * * *", thread_id=thread_id, spec={"multitask_strategy": "interrupt"}),
        await bench.cron("*/20 * * * * *", end_time=START.replace(minute=7)),
        await bench.cron("*/5 * * * *", on_run_completed="keep"),
        await bench.cron("*/4 * * * *", jitter_s=150),
        await bench.cron("* * * * *", max_runs=7, catch_up="all"),
        await bench.cron("*/3 * * * *", jitter_s=30, max_runs=5),
    ]
    await begin(bench)
    for _ in range(3):
        bench.clock.move(minutes=1)
        await bench.settled(lambda: wrong(bench, ids))
    await bench.command(minute, UpdateCron(schedule="*/2 * * * *"))
    await bench.command(ids[3], UpdateCron(enabled=False))
    await bench.command(
        ids[4], UpdateCron(enabled=False, paused_until=bench.clock.now() + timedelta(minutes=9))
    )
    bench.clock.move(minutes=12)
    await bench.halt()
    await bench.command(ids[3], UpdateCron(enabled=True, makes_up="all"))
    bench.clock.move(minutes=15)
    await bench.command(ids[3], UpdateCron(timezone="Asia/Kathmandu"))
    await begin(bench)
    bench.clock.move(minutes=1)
    await bench.settled(lambda: wrong(bench, ids))
    bench.clock.move(minutes=9)
    return ids


async def begin(bench: Bench) -> None:
    """A start that fails holds nothing, and can be tried again."""
    for _ in range(100):
        try:
            await bench.schedule()
            return
        except OSError:
            bench.schedulers.clear()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("call", EDGES)
async def test_whatever_fails_each_occurrence_is_told_once(bench: Bench, call: str, seed: int) -> None:
    chance = Random(f"{call} {seed}")
    for edge in (bench.edge_log, bench.edge_views):
        edge.sometimes(call, 0.1 + 0.15 * seed, chance)
    await all_is_told(bench)


@pytest.mark.parametrize("seed", range(3))
async def test_what_was_stored_unseen_is_not_told_twice(bench: Bench, seed: int) -> None:
    bench.edge_log.lose_answers(0.2 + 0.2 * seed, Random(seed))
    await all_is_told(bench)


async def all_is_told(bench: Bench) -> None:
    ids = await day(bench)
    for edge in (bench.edge_log, bench.edge_views):
        edge.well()
    bench.clock.move(seconds=25)

    def is_right() -> bool:
        # What is put off until the read model has come far enough waits for it, and so does a spread catch-up.
        bench.clock.move(milliseconds=250)
        return not wrong(bench, ids)

    await bench.until(is_right)
    await bench.quiet()
    assert not wrong(bench, ids)
    assert not bench.schedulers[0].failing
