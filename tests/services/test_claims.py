"""Claims, settlements and leases on a real log: what one worker may do beside others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.events import LaneChanged, RunInterrupted, RunReleased, RunStarted, RunSucceeded
from contracts.ledger import Append, Transaction
from domain import decisions
from domain.errors import MustRollBack
from domain.run import MAX_LOSSES, CancelRun
from services.kit.eventlog import LogUnavailable
from services.kit.ids import uuid7
from services.repository import Aggregates
from services.worker.job import Done, Job, Later
from services.worker.lease import WorkerLease, live_until, void_leases
from services.worker.settlements import Settlements
from services.worker.stories import story_of
from tests.services.lane_bench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    no_bus: Any = None  # nothing here goes over it
    made = Bench(tmp_path, no_bus)
    await made.open()
    yield made
    await made.close()


def cancel(bench: Bench, job: Job, **fields: Any) -> Any:
    assert job.run is not None
    places = Aggregates(bench.log).lanes(job.run.lanes)
    return bench.store(decisions.cancel(bench.run(job.run_id), CancelRun(**fields), places))


# --- claims ---------------------------------------------------------------------------------------------


async def test_only_the_head_is_claimed(bench: Bench) -> None:
    thread_id = uuid7()
    first, second = await bench.ask(thread_id), await bench.ask(thread_id)
    assert isinstance((await bench.claim(second)).verdict, Later)
    job = await bench.claim(first)
    assert (job.verdict, job.attempt) == (None, 1)
    assert isinstance((await bench.claim(second)).verdict, Later)
    await bench.settle(job)
    assert (await bench.claim(second)).verdict is None
    assert isinstance((await bench.claim(first)).verdict, Done)
    assert isinstance((await bench.claim(uuid7())).verdict, Done)  # nobody knows it


@pytest.mark.parametrize("is_alone", [True, False])
async def test_due_is_by_the_clock_of_the_store(bench: Bench, is_alone: bool) -> None:
    run_id = await (bench.ask_alone(after_s=10) if is_alone else bench.ask(uuid7(), after_s=10))
    bench.clock.move(20)
    bench.store_clock.move(9.75)
    early = await bench.claim(run_id)
    assert early.verdict == Later(0.25)
    bench.store_clock.move(0.25)
    assert (await bench.claim(run_id)).verdict is None


async def test_whoever_joins_with_a_slow_clock_goes_before_nobody_who_started(bench: Bench) -> None:
    thread_id = uuid7()
    delayed = await bench.ask(thread_id, after_s=10)
    bench.store_clock.move(10)
    job = await bench.claim(delayed)
    assert job.verdict is None
    second = await bench.ask(thread_id)  # by this clock the delay is not over
    assert [entry.run_id for entry in bench.lane(thread_id).in_flight] == [delayed, second]
    assert isinstance((await bench.claim(second, "w2")).verdict, Later)


async def test_a_join_between_the_look_and_the_claim_is_seen(bench: Bench) -> None:
    thread_id = uuid7()
    delayed = await bench.ask(thread_id, after_s=10)
    bench.store_clock.move(10)
    append, joined = bench.log.append, uuid7()

    async def late(tx: Transaction) -> int:
        nonlocal joined
        if any(isinstance(body, RunStarted) for a in tx.appends for body in a.bodies):
            bench.log.append = append  # type: ignore[method-assign]
            joined = await bench.ask(thread_id)
        return await append(tx)

    bench.log.append = late  # type: ignore[method-assign]
    job = await bench.claim(delayed)
    assert isinstance(job.verdict, Later)
    assert bench.lane(thread_id).head == joined


async def test_one_of_many_claims_wins(bench: Bench) -> None:
    run_id = await bench.ask(uuid7())
    jobs = await asyncio.gather(*(bench.claim(run_id, f"w{n}") for n in range(8)))
    assert sum(job.verdict is None for job in jobs) == 1
    assert sum(isinstance(e.body, RunStarted) for e in bench.log.stream(run_id)) == 1


async def test_the_run_of_a_living_worker_is_left_alone(bench: Bench) -> None:
    run_id = await bench.ask(uuid7())
    await bench.claim(run_id, "w1")
    bench.move(25)
    later = await bench.claim(run_id, "w2")
    assert later.verdict == Later(5.25)
    bench.move(5.5)
    job = await bench.claim(run_id, "w2")
    assert (job.verdict, job.attempt) == (None, 2)
    started = bench.log.stream(run_id)[-1].body
    assert isinstance(started, RunStarted)
    assert (started.lost, started.excused) == ("lease of w1 expired", False)


async def test_what_this_worker_has_in_hand_is_not_claimed_again(bench: Bench) -> None:
    run_id = await bench.ask(uuid7())
    await bench.claim(run_id, "w1")
    job: Job = Job(None, run_id)  # type: ignore[arg-type]
    await bench.claims("w1", run_id).claim(job)
    assert isinstance(job.verdict, Later)
    again = await bench.claim(run_id, "w1")  # it knows nothing of it any more
    assert (again.verdict, again.attempt) == (None, 2)


async def test_a_run_that_is_lost_too_often_fails_and_leaves_the_lane(bench: Bench) -> None:
    thread_id = uuid7()
    first, second = await bench.ask(thread_id), await bench.ask(thread_id)
    for n in range(MAX_LOSSES):
        assert (await bench.claim(first, f"w{n}")).verdict is None
        bench.move(31)
    assert isinstance((await bench.claim(first, "last")).verdict, Done)
    assert bench.run(first).status == "error"
    assert bench.lane(thread_id).head == second


async def test_a_run_goes_on_when_its_thread_is_deleted_until_it_is_stopped(bench: Bench) -> None:
    thread_id = uuid7()
    job = await bench.claim(await bench.ask(thread_id), "w1")
    await cancel(bench, job, reason="thread deleted")
    closed = LaneChanged(thread_id=thread_id, change="closed", closed=True)
    lane = bench.lane(thread_id)
    await bench.append(Append(lane.stream_id, lane.version, (closed,)))
    bench.move(31)
    again = await bench.claim(job.run_id, "w2")
    assert again.verdict is None
    assert await bench.settle(again)
    assert bench.run(job.run_id).status == "interrupted"


# --- settlements ----------------------------------------------------------------------------------------


async def test_a_void_attempt_settles_nothing(bench: Bench) -> None:
    run_id = await bench.ask(uuid7())
    slow = await bench.claim(run_id, "w1")
    bench.move(31)
    quick = await bench.claim(run_id, "w2")
    assert await bench.settle(slow) == 0
    assert bench.run(run_id).status == "running"
    assert await bench.settle(quick) > 0
    assert await bench.settle(slow) == 0
    outcomes = [e for e in bench.log.stream(run_id) if isinstance(e.body, RunSucceeded)]
    assert len(outcomes) == 1


async def test_an_answer_that_was_lost_is_found_again(bench: Bench) -> None:
    job = await bench.claim(await bench.ask(uuid7()))
    append = bench.log.append

    async def deaf(tx: Transaction) -> int:
        bench.log.append = append  # type: ignore[method-assign]
        await append(tx)
        raise LogUnavailable("stored, and nobody heard it")

    bench.log.append = deaf  # type: ignore[method-assign]
    with pytest.raises(LogUnavailable):
        await bench.settle(job)
    head = bench.log.head()
    assert await bench.settle(job) == head
    assert bench.log.head() == head


async def test_many_who_join_do_not_keep_a_run_from_its_end(bench: Bench) -> None:
    thread_id = uuid7()
    job = await bench.claim(await bench.ask(thread_id))
    append, joins = bench.log.append, 0

    async def busy(tx: Transaction) -> int:
        nonlocal joins
        if joins < 10 and any(isinstance(body, RunSucceeded) for a in tx.appends for body in a.bodies):
            joins += 1
            await bench.ask(thread_id)
        return await append(tx)

    bench.log.append = busy  # type: ignore[method-assign]
    assert await bench.settle(job)
    assert len(bench.lane(thread_id).in_flight) == joins == 10


async def test_whoever_is_to_be_undone_or_was_stopped_has_that_outcome(bench: Bench) -> None:
    undone, stopped = [await bench.claim(await bench.ask(uuid7())) for _ in range(2)]
    await cancel(bench, undone, action="rollback")
    with pytest.raises(MustRollBack):
        await bench.settle(undone)
    await cancel(bench, stopped, reason="enough")
    await bench.settle(stopped)
    assert isinstance(bench.log.stream(stopped.run_id)[-1].body, RunInterrupted)


async def test_a_run_that_is_given_back_is_anybodys_at_once(bench: Bench) -> None:
    job = await bench.claim(await bench.ask(uuid7()), "w1")
    settlements = Settlements(bench.log, bench.store_clock)
    for _ in range(2):  # twice is harmless
        await settlements.give_back(job)
    story = story_of(Aggregates(bench.log), job.run_id)
    assert sum(isinstance(e.body, RunReleased) for e in story.events) == 1
    again = await bench.claim(job.run_id, "w2")
    assert (again.verdict, again.attempt) == (None, 2)
    await settlements.give_back(job)  # not ours any more
    assert not bench.run(job.run_id).released


# --- leases ---------------------------------------------------------------------------------------------


async def test_a_lease_is_held_for_less_than_others_see_it(bench: Bench) -> None:
    lease = WorkerLease(bench.log, bench.clock, "w1", 10)
    assert not lease.held
    await lease.renew()
    assert lease.held
    bench.clock.move(9)  # its holder stops
    assert not lease.held
    assert live_until(bench.log, "w1") == 10  # before anybody else may go on
    bench.store_clock.move(10)
    assert live_until(bench.log, "w1") is None
    await lease.renew()
    assert lease.held


async def test_a_claim_waits_for_the_lease(bench: Bench) -> None:
    lease = WorkerLease(bench.log, bench.clock, "w1", 10)
    waiting = asyncio.create_task(lease.wait_held())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await lease.renew()
    await asyncio.wait_for(waiting, 10)


async def test_a_lease_that_can_not_be_renewed_is_not_held(bench: Bench) -> None:
    lease = WorkerLease(bench.log, bench.clock, "w1", 10)
    await lease.renew()
    await bench.log.stop()
    bench.clock.move(9)
    with pytest.raises(LogUnavailable):
        await lease.renew()
    assert not lease.held
    await bench.log.start()
    await lease.renew()
    assert lease.held


async def test_leases_of_the_dead_are_void(bench: Bench) -> None:
    for worker in ("w1", "w2"):
        await WorkerLease(bench.log, bench.clock, worker, 10).renew()
    released = WorkerLease(bench.log, bench.clock, "w2", 10)
    await released.release()
    assert live_until(bench.log, "w2") is None
    assert await void_leases(bench.log, "worker.") == 1
    assert live_until(bench.log, "w1") is None
