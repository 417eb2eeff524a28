"""The scheduler when its edges fail, and when crons are edited while nobody schedules."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from contracts.events import OccurrenceMissed, OccurrenceSkipped, OccurrencesMissed, RunRequested
from domain.cron import UpdateCron
from services.kit.eventlog import LogUnavailable
from services.kit.settings import Settings
from tests.services.schedulers import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.open()
    yield made
    await made.close()


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
