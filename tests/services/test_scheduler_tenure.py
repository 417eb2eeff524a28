"""Several schedulers: one decides, the others keep up, and one of them goes on when it is gone."""

import asyncio

import pytest

from contracts.events import RunRequested
from services.scheduler import scheduler as module
from services.scheduler.scheduler import LEASE_S, Scheduler
from tests.services.schedulers import Bench


async def die(scheduler: Scheduler) -> None:
    """As SIGKILL would: nothing is given back."""
    await scheduler._renewing.stop()
    await scheduler._loop.stop()


async def test_one_decides_and_the_others_append_nothing(bench: Bench) -> None:
    first, second, third = await bench.rivals(3)
    await bench.cron("* * * * * *")
    await bench.cron("* * * * * *", jitter_s=1)
    for n in range(3):
        bench.clock.move(seconds=1)
        await bench.until(lambda: len(bench.fired()) >= n)  # noqa: B023
        await bench.quiet()
    assert first.counts.fired == len(bench.fired()) >= 4
    for other in (second, third):
        assert (other.decides, other.counts.fired, other.counts.duplicates, other.failing) == (
            False,
            0,
            0,
            "",
        )


async def test_the_next_one_decides_what_was_due_when_one_died(bench: Bench) -> None:
    """It dies at the instant of many, with none of them decided: each is, once."""
    first, second = await bench.rivals(2)
    ids = [await bench.cron("3 0 12 * * *") for _ in range(150)]
    limited = await bench.cron("* * * * * *", max_runs=2)
    await bench.until(lambda: len(first._timer) == 151 == len(second._timer))
    bench.edge_log.fail("append_many", times=1000)
    bench.clock.move(seconds=3)
    await bench.until(lambda: first._loop.failing)
    await die(first)
    bench.edge_log.well()
    await bench.quiet()
    assert second.counts.fired == 0 == len(bench.fired())
    bench.clock.move(seconds=LEASE_S + 0.1)
    await bench.until(lambda: second.decides and len({e.cron_id for e in bench.events(RunRequested)}) == 151)
    await bench.quiet()
    by_cron = [e.cron_id for e in bench.events(RunRequested) if e.cron_id != limited]
    assert sorted(by_cron) == sorted(ids)
    assert second.counts.fired == len(bench.fired())
    assert len([e for e in bench.events(RunRequested) if e.cron_id == limited]) <= 2
    await first._backfills.stop()


async def test_one_that_ends_in_order_is_followed_at_once(bench: Bench) -> None:
    first, second = await bench.rivals(2)
    await bench.cron("* * * * * *")
    await first.stop()
    await bench.until(lambda: second.decides)
    bench.clock.move(seconds=1)
    await bench.until(lambda: bench.has_fired(1))


async def test_one_that_stands_by_for_long_keeps_little_and_loses_nothing(bench: Bench) -> None:
    first, second = await bench.rivals(2)
    await bench.cron("* * * * * *")
    for n in range(1, 4):
        for _ in range(20):
            bench.clock.move(seconds=1)
            await asyncio.sleep(0.01)
        await bench.until(lambda: len(bench.fired()) >= 15 * n)  # noqa: B023
    await bench.quiet()
    fired = len(bench.fired())
    await die(first)
    bench.clock.move(seconds=LEASE_S + 0.1)
    await bench.until(lambda: len(bench.fired()) >= fired + 5)
    await bench.quiet()
    times = bench.fired()
    assert len(times) == len(set(times))
    assert second.counts.duplicates < len(times)
    await first._backfills.stop()


async def test_one_that_hangs_does_not_keep_the_lease(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANGS_S", 0.3)
    monkeypatch.setattr("services.kit.tenure.RENEWALS", 100)
    first, second = await bench.rivals(2)
    await bench.cron("* * * * * *")
    await bench.until(lambda: len(second._timer) == 1)
    on = asyncio.Event()

    async def hang() -> None:
        await on.wait()

    bench.edge_log.meanwhile = hang
    bench.clock.move(seconds=1)
    await asyncio.sleep(0.6)
    assert bench.fired() == []
    bench.clock.move(seconds=LEASE_S + 0.1)
    await bench.until(lambda: second.decides and len(bench.fired()) == 6)
    on.set()
    await bench.until(lambda: first.counts.duplicates)
    await bench.quiet()
    assert len(bench.fired()) == len(set(bench.fired())) == 6
