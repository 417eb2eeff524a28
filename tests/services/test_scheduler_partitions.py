"""Several schedulers: each decides its partitions, and when one is gone the others go on with what was its own."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import RunRequested, ThreadCreated
from contracts.ledger import Append, Meta, Transaction
from domain.cron import UpdateCron
from services.kit import tenure
from services.kit.ids import uuid7
from services.kit.tenure import FORGOTTEN_S, Membership
from services.scheduler import scheduler as module
from services.scheduler.intake import KEPT_S
from services.scheduler.partitions import EVERY, PARTITIONS, partition_of, partitions_of
from services.scheduler.scheduler import LEASE, LEASE_S, Scheduler
from tests.services.schedulers import Bench, MovedClock, die, is_shared


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are renewed by a clock that the tests do not move."""
    monkeypatch.setattr(tenure, "RENEWALS", 200)


async def seconds(bench: Bench, how_many: int) -> None:
    for _ in range(how_many):
        bench.clock.move(seconds=1)
        await asyncio.sleep(0.05)


async def one_each(bench: Bench, schedulers: Sequence[Scheduler], schedule: str, **fields: Any) -> list[UUID]:
    """For each scheduler a cron that is in a partition of its own."""
    made: dict[int, UUID] = {}
    while len(made) < len(schedulers):
        cron_id = await bench.cron(schedule, **fields)
        [owner] = [n for n, s in enumerate(schedulers) if partition_of(cron_id.bytes) in s.partitions]
        made.setdefault(owner, cron_id)
    return [made[n] for n in range(len(schedulers))]


def is_whole(times: list[str], at_least: int) -> bool:
    """Whether a cron of each second has fired each second, so many at least."""
    ours = sorted(times)
    parts = [[int(part) for part in text.split(":")] for text in ours]
    seconds_of = [hours * 3600 + minutes * 60 + rest for hours, minutes, rest in parts]
    return len(ours) >= at_least and seconds_of == list(range(seconds_of[0], seconds_of[0] + len(ours)))


@given(st.lists(st.uuids().map(str), min_size=1, max_size=20, unique=True))
def test_shares_are_even_and_whole(members: list[str]) -> None:
    shares = [partitions_of(member, members) for member in members]
    assert sorted(n for share in shares for n in share) == list(range(PARTITIONS))
    assert max(map(len, shares)) <= -(-PARTITIONS // len(members))
    assert partitions_of("nobody", members) == frozenset()


@given(st.lists(st.uuids().map(str), min_size=3, max_size=8, unique=True))
def test_most_stay_where_they_are_when_one_leaves(members: list[str]) -> None:
    left = members[1:]
    moved = sum(len(partitions_of(m, left) - partitions_of(m, members)) for m in left)
    lost = len(partitions_of(members[0], members))
    assert lost <= moved <= lost + PARTITIONS // 2


def test_crons_are_spread_evenly() -> None:
    counts = [0] * PARTITIONS
    for _ in range(16_000):
        counts[partition_of(uuid7().bytes)] += 1
    assert min(counts) > 800
    assert max(counts) < 1200


async def test_each_decides_its_own_and_nothing_else(bench: Bench) -> None:
    schedulers = await bench.rivals(3)
    ids = await one_each(bench, schedulers, "* * * * * *")
    ids += await one_each(bench, schedulers, "* * * * * *", jitter_s=1)
    await seconds(bench, 5)
    await bench.until(lambda: all(is_whole(bench.fired(cron_id), 4) for cron_id in ids))
    await bench.quiet()
    for scheduler in schedulers:
        assert scheduler.counts.fired >= 8
        assert (scheduler.counts.duplicates, scheduler.failing) == (0, "")
    assert sum(s.counts.fired for s in schedulers) == len(bench.fired())


async def test_the_others_decide_what_was_due_when_one_died(bench: Bench) -> None:
    """It dies at the instant of many, with none of them decided: each is, once."""
    first, second = await bench.rivals(2)
    ids = [await bench.cron("3 0 12 * * *") for _ in range(150)]
    limited = await bench.cron("* * * * * *", max_runs=2)
    await bench.until(lambda: len(first._timer) == 151 == len(second._timer))
    own = [c for c in (*ids, limited) if partition_of(c.bytes) in first.partitions]
    bench.edge_log.fail("append_many", times=1000)
    bench.clock.move(seconds=3)
    await bench.until(lambda: first._loop.failing)
    await die(first)
    await bench.quiet()
    assert second.counts.fired > 50
    assert not {e.cron_id for e in bench.events(RunRequested)} & {*own}
    bench.clock.move(seconds=LEASE_S + 0.1)
    await bench.until(lambda: len({e.cron_id for e in bench.events(RunRequested)}) == 151)
    await bench.quiet()
    by_cron = [e.cron_id for e in bench.events(RunRequested) if e.cron_id != limited]
    assert sorted(by_cron) == sorted(ids)
    assert second.partitions == EVERY
    assert second.counts.fired == len(bench.fired())
    assert len([e for e in bench.events(RunRequested) if e.cron_id == limited]) <= 2


async def test_one_that_ends_in_order_is_followed_at_once(bench: Bench) -> None:
    first, second = await bench.rivals(2)
    ids = await one_each(bench, [first, second], "* * * * * *")
    await first.stop()
    await bench.until(lambda: second.partitions == EVERY)
    bench.clock.move(seconds=1)
    await bench.until(lambda: all(bench.fired(cron_id) for cron_id in ids))


async def test_one_that_comes_gets_its_share_and_nothing_is_lost(bench: Bench) -> None:
    first, second = await bench.rivals(2)
    ids = [await bench.cron("* * * * * *") for _ in range(20)]
    for _ in range(3):
        await seconds(bench, 2)
        await bench.member()
    schedulers = bench.schedulers
    await bench.until(lambda: is_shared(schedulers))
    await seconds(bench, 2)
    await bench.until(lambda: all(is_whole(bench.fired(cron_id), 7) for cron_id in ids))
    assert len(first.partitions) <= 4 >= len(second.partitions)


async def test_what_is_kept_for_long_is_little_and_nothing_is_lost(bench: Bench) -> None:
    first, second = await bench.rivals(2)
    ids = await one_each(bench, [first, second], "* * * * * *")
    for n in range(1, 4):
        await seconds(bench, 20)
        await bench.until(lambda: len(bench.fired(ids[0])) >= 15 * n)  # noqa: B023
    fired = len(bench.fired(ids[0]))
    await die(first)
    bench.clock.move(seconds=LEASE_S + 0.1)
    await bench.until(lambda: is_whole(bench.fired(ids[0]), fired + 5))
    assert is_whole(bench.fired(ids[1]), fired)
    assert second.counts.duplicates == 0  # what was decided, the read model had told


async def test_what_its_owner_left_undecided_for_long_is_not_lost(bench: Bench) -> None:
    """It renews its lease, and stores nothing, for longer than the others keep what is due."""
    first, second = await bench.rivals(2)
    [cron_id, _] = await one_each(bench, [first, second], "* * * * * *")
    await seconds(bench, 2)
    await bench.until(lambda: bench.fired(cron_id))
    bench.edge_log.fail("append_many", times=10_000)
    await seconds(bench, KEPT_S + 10)
    await bench.until(lambda: first._loop.failing)
    await bench.quiet()
    before = bench.fired(cron_id)
    await die(first)
    bench.clock.move(seconds=LEASE_S + 0.1)
    await bench.until(lambda: is_whole(bench.fired(cron_id), len(before) + KEPT_S + 10))


async def test_a_read_model_that_is_behind_delays_the_take_over_alone(bench: Bench) -> None:
    first, second = await bench.rivals(2)
    ids = await one_each(bench, [first, second], "* * * * * *")
    await bench.projector.stop()
    unseen = Append(uuid7(), 0, (ThreadCreated(user_id="u"),))
    await bench.log.append(Transaction(meta=Meta(at=bench.clock.now(), actor="test"), appends=(unseen,)))
    await die(first)
    bench.clock.move(seconds=LEASE_S + 0.1)
    await bench.until(lambda: second._standby.waiting_s > 0.1)
    bench.clock.move(seconds=1)
    await bench.until(lambda: len(bench.fired(ids[1])) >= 6)
    assert bench.fired(ids[0]) == []
    await bench.projector.start()
    await bench.until(lambda: is_whole(bench.fired(ids[0]), 6))


async def test_crons_of_others_stand_ready_in_their_groups(bench: Bench) -> None:
    first, second = await bench.rivals(2)
    made = await one_each(bench, [first, second], "0 0 13 * * *")
    edited = await one_each(bench, [first, second], "0 0 14 * * *")
    await bench.command(edited[0], UpdateCron(schedule="0 0 15 * * *", seconds=True))
    bench.clock.move(seconds=1)
    await bench.quiet()
    for cron_id in (made[0], edited[0]):
        assert second._timer.stands_apart(cron_id.bytes)
    await seconds(bench, KEPT_S + 2)
    await bench.until(lambda: all(second._timer.is_grouped(c.bytes) for c in (made[0], edited[0])))


async def test_one_that_hangs_does_not_keep_its_lease(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANGS_S", 0.3)
    first, second = await bench.rivals(2)
    ids = await one_each(bench, [first, second], "* * * * * *")
    on = asyncio.Event()

    async def hang() -> None:
        await on.wait()

    bench.edge_log.meanwhile = hang
    bench.clock.move(seconds=1)
    await bench.until(lambda: second.partitions == EVERY)
    bench.clock.move(seconds=1)
    await bench.until(lambda: all(len(bench.fired(cron_id)) == 2 for cron_id in ids))
    on.set()
    await bench.until(lambda: first.counts.duplicates)
    await bench.until(lambda: is_shared([first, second]))
    assert all(is_whole(bench.fired(cron_id), 2) for cron_id in ids)


async def test_one_whose_clock_is_wrong_leaves_its_share_to_the_others(bench: Bench) -> None:
    class Ahead(MovedClock):
        def __init__(self, ahead_s: float) -> None:
            super().__init__()
            self.ahead_s = ahead_s

        def wall_s(self) -> float:
            return bench.clock.wall_s() + self.ahead_s

    clock = Ahead(0)
    first, second = await bench.member(), await bench.member(clock=clock)
    await bench.until(lambda: is_shared([first, second]))
    ids = await one_each(bench, [first, second], "* * * * * *")
    clock.ahead_s = 3600
    await bench.until(lambda: first.partitions == EVERY)
    await seconds(bench, 3)
    await bench.until(lambda: all(is_whole(bench.fired(cron_id), 3) for cron_id in ids))
    assert "clock" in second.failing
    clock.ahead_s = 0
    await bench.until(lambda: is_shared([first, second]))


async def test_members_that_are_dead_for_long_leave_no_trace(bench: Bench) -> None:
    for n in range(3):
        await bench.log.renew_lease(f"{LEASE}.gone{n}", "x", 5)
    members = Membership(bench.log, bench.clock, LEASE, LEASE_S)
    await members.renew()
    assert len(seen(members)) == 4
    bench.clock.move(seconds=10)
    await members.renew()
    assert seen(members) == [members.name]
    assert len(bench.log.leases(LEASE)) == 4
    bench.clock.move(seconds=FORGOTTEN_S)
    await members.renew()
    assert len(bench.log.leases(LEASE)) == 1
    await members.release()
    assert seen(members) == []
    assert bench.log.leases(LEASE) == []


def seen(members: Membership) -> list[str]:
    return list(members.members)
