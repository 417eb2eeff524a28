"""The relay on real edges: each event once for subscribers, one message for each run that may run."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from contracts.events import LaneChanged, RunRequested, ThreadCreated, ThreadDeleted
from contracts.ledger import Append, Recorded, StoredAppend, StoredTransaction
from contracts.subjects import CHORES, LEDGER, NORMAL, RUNS, STREAMS, run_queue_subject
from domain import decisions
from domain.lane import Lane, lane_id_of
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.nats import NatsBus
from services.kit.bus.streams import Streams, ensure_streams
from services.kit.bus.work import WorkQueue
from services.kit.eventlog import LogUnavailable
from services.kit.ids import uuid7
from services.kit.lifecycle import Whole, health
from services.relay import turns as turns_module
from services.repository import Aggregates
from services.worker.claims import OTHERS_DELAY_S, Claims
from services.worker.job import Done, Elsewhere, Job, Later
from tests.services.lane_bench import Bench, msg_of

MANY = 500


@pytest.fixture
async def bench(tmp_path: Path, bus: NatsBus) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, bus)
    await made.open()
    yield made
    await made.close()


async def published(bus: NatsBus) -> dict[str, Any]:
    """The state of LEDGER: `messages` that are there, `last_seq` = how many ever were."""
    state: dict[str, Any] = (await bus.api(f"STREAM.INFO.{LEDGER.name}"))["state"]
    return state


async def until_published(bus: NatsBus, ever: int) -> None:
    async with asyncio.timeout(20):
        while (await published(bus))["last_seq"] < ever:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def threads(bench: Bench, how_many: int) -> None:
    for _ in range(how_many):
        await bench.append(Append(uuid7(), 0, (ThreadCreated(user_id="u"),)))


# --- the ledger -----------------------------------------------------------------------------------------


async def test_two_relays_publish_each_event_once(bench: Bench) -> None:
    await bench.relay()
    await bench.relay()
    await threads(bench, 30)
    await until_published(bench.bus, 30)
    await bench.settled()
    assert (await published(bench.bus))["last_seq"] == 30


async def test_a_quiet_month_publishes_nothing_again(bench: Bench) -> None:
    await bench.bus.api(f"STREAM.DELETE.{LEDGER.name}")
    await asyncio.sleep(0.05)
    await ensure_streams(bench.bus, [replace(LEDGER, max_age_s=1)])  # for thirty days
    relay = await bench.relay()
    await threads(bench, 5)
    await until_published(bench.bus, 5)
    await bench.until_kept("relay.ledger")
    await relay.stop()
    async with asyncio.timeout(20):
        while (await published(bench.bus))["messages"]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await bench.relay()
    await threads(bench, 1)
    await until_published(bench.bus, 6)
    await asyncio.sleep(0.3)
    assert (await published(bench.bus))["last_seq"] == 6


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_lost_stream_begins_where_the_log_is(bench: Bench, is_running: bool) -> None:
    relay = await bench.relay()
    await threads(bench, 5)
    await until_published(bench.bus, 5)
    await bench.until_kept("relay.ledger")
    if not is_running:
        await relay.stop()
    await bench.bus.api(f"STREAM.DELETE.{LEDGER.name}")
    await ensure_streams(bench.bus, STREAMS)
    if not is_running:
        await bench.relay()
    await threads(bench, 1)
    await until_published(bench.bus, 1)
    await asyncio.sleep(0.3)
    assert (await published(bench.bus))["last_seq"] == 1


async def test_a_log_that_was_put_back_is_published_from_where_it_was(bench: Bench, tmp_path: Path) -> None:
    relay = await bench.relay()
    await threads(bench, 2)
    await until_published(bench.bus, 2)
    await bench.until_kept("relay.ledger")
    await relay.stop()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        db.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    await bench.relay()
    await threads(bench, 3)
    await until_published(bench.bus, 5)
    await bench.close()
    (tmp_path / "again").mkdir()
    (tmp_path / "backup.db").rename(tmp_path / "again" / "ledger.db")
    again = Bench(tmp_path / "again", bench.bus)
    await again.open()
    try:
        await again.relay()
        await threads(again, 1)
        await until_published(bench.bus, 6)
    finally:
        await again.close()


async def test_a_refusal_is_told_and_tried_with_a_back_off(bench: Bench) -> None:
    attempts = 0
    ask = bench.bus.request_msg

    async def counted(subject: str, *args: Any) -> Any:
        nonlocal attempts
        attempts += subject.startswith("ledger.")
        return await ask(subject, *args)

    bench.bus.request_msg = counted  # type: ignore[method-assign, assignment]
    config = (await bench.bus.api(f"STREAM.INFO.{LEDGER.name}"))["config"]
    await bench.bus.api(f"STREAM.UPDATE.{LEDGER.name}", {**config, "max_msg_size": 10})
    relay = await bench.relay()
    await threads(bench, 3)
    await bench.until(lambda: "size exceeds" in health([relay])["relay.ledger"])
    attempts = 0
    await asyncio.sleep(1)
    assert attempts < 50  # 730 a second without
    assert health([relay])["relay.runs"] == ""
    await bench.bus.api(f"STREAM.UPDATE.{LEDGER.name}", {**config, "max_msg_size": -1})
    await until_published(bench.bus, 3)
    await bench.until(lambda: not health([relay])["relay.ledger"])


# --- turns ----------------------------------------------------------------------------------------------


async def test_one_message_for_each_run_that_may_run(bench: Bench) -> None:
    await bench.relay()
    await bench.relay()
    thread_id = uuid7()
    first = await bench.ask(thread_id)
    for _ in range(4):
        await bench.ask(thread_id)
    await bench.ask_alone()
    await bench.until_queued(2)
    pull = await bench.pull()
    jobs = []
    for _ in range(6):
        async with asyncio.timeout(20):
            jobs.append(await bench.work(await pull.next()))
    assert next(job.run_id for job in jobs if job.run and not job.run.request.temporary) == first
    assert len({job.run_id for job in jobs}) == 6
    await bench.settled()
    assert await bench.queued() == 0
    assert not bench.lane(thread_id).in_flight


@pytest.mark.parametrize("is_running", [True, False])
async def test_runs_that_take_turns_are_on_the_queue_one_after_the_other(
    bench: Bench, is_running: bool
) -> None:
    """In their order, whether their threads are kept or not, and whoever waits on these."""
    if is_running:
        await bench.relay()
    cron_id = uuid7()
    runs = [await bench.ask_in_turn(cron_id, is_kept=n % 2 == 0) for n in range(4)]
    beside = await bench.ask(bench.run(runs[2]).request.thread_id)
    if not is_running:
        await bench.relay()
    await bench.settled()
    assert await bench.queued() == 1
    done: list[UUID] = []
    pull = await bench.pull()
    async with asyncio.timeout(20):
        for due in (1, 1, 2):  # nobody comes to a worker in vain
            done.append((await bench.work(await pull.next())).run_id)
            await bench.until_queued(due)
        while len(done) < 5:
            done.append((await bench.work(await pull.next())).run_id)
    assert done[:3] == runs[:3]
    assert set(done[3:]) == {runs[3], beside}
    assert not Aggregates(bench.log).lanes([Lane(cron_id=cron_id)])[0].in_flight


async def test_waiting_for_a_worker_costs_nothing(bench: Bench) -> None:
    for n in range(MANY):
        await (bench.ask_alone() if n % 2 else bench.ask(uuid7()))
    await bench.relay()
    await bench.until_queued(MANY)
    for _ in range(6):
        bench.move(60)
        await asyncio.sleep(0.05)
    await bench.settled()
    assert await bench.queued() == MANY


async def test_a_run_that_is_delayed_comes_when_it_is_due(bench: Bench) -> None:
    early = [
        await bench.ask(uuid7(), after_s=30),
        await bench.ask_alone(after_s=60),
    ]  # before there is a relay
    await bench.relay()
    late = [await bench.ask(uuid7(), after_s=90), await bench.ask_alone(after_s=120)]
    await bench.settled()
    bench.move(1)
    pull = await bench.pull()
    for run_id in early + late:
        assert await bench.queued() == 0
        bench.move(30)
        async with asyncio.timeout(20):
            assert (await bench.work(await pull.next())).run_id == run_id


async def test_a_delayed_run_waits_for_whoever_is_before_it(bench: Bench) -> None:
    relay = await bench.relay()
    thread_id = uuid7()
    delayed = await bench.ask(thread_id, after_s=10)
    first = await bench.ask(thread_id)
    pull = await bench.pull()
    delivery = await pull.next()
    job = await bench.claim(first, delivery=delivery)
    bench.move(20)
    await bench.settled()
    assert await bench.queued() == 1  # the one that runs
    await relay.stop()  # whoever saw it come need not be there any more
    await bench.relay()
    await bench.settled()  # it puts the head once more, which is refused as long as that one is on the queue
    await bench.settle(job)
    await delivery.ack_sync()
    async with asyncio.timeout(20):
        assert (await bench.work(await pull.next())).run_id == delayed


async def test_a_settlement_by_a_slow_clock_forgets_nobody(bench: Bench) -> None:
    """A7: the run before it ends 2 ms before the delayed one is due, and that one is due meanwhile."""
    await bench.relay()
    thread_id = uuid7()
    first = await bench.ask(thread_id)
    delayed = await bench.ask(thread_id, after_s=10)
    pull = await bench.pull()
    delivery = await pull.next()
    job = await bench.claim(first, delivery=delivery)
    bench.store_clock.move(9.998)  # who settles
    bench.clock.move(10.002)  # who follows
    await bench.settled()
    await bench.settle(job)
    await delivery.ack_sync()
    async with asyncio.timeout(20):
        early = await bench.work(await pull.next())
        assert (early.run_id, early.verdict) == (delayed, Later(0.002))
        bench.move(1)
        assert isinstance((await bench.work(await pull.next())).verdict, Done)
    assert not bench.lane(thread_id).in_flight


async def test_a_run_that_was_put_too_early_gives_way_and_is_not_forgotten(bench: Bench) -> None:
    """By the relay's clock it is due; by the clock of who joins it is not, and that one goes first."""
    await bench.relay()
    thread_id = uuid7()
    delayed = await bench.ask(thread_id, after_s=10)
    bench.clock.move(10.5)
    await bench.until_queued(1)
    bench.clock.move(-10.5)
    first = await bench.ask(thread_id)
    assert bench.lane(thread_id).head == first
    await bench.until_queued(2)
    early = await bench.claim(delayed)
    assert isinstance(early.verdict, Later)
    assert early.run is not None
    assert early.run.status == "pending"
    job = await bench.claim(first)
    assert job.verdict is None
    await bench.settle(job)
    bench.move(11)
    pull = await bench.pull()
    done: set[UUID] = set()
    async with asyncio.timeout(20):
        while len(done) < 2:
            done.add((await bench.work(await pull.next())).run_id)
    assert done == {first, delayed}
    assert not bench.lane(thread_id).in_flight


# --- pools ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_running", [True, False])
async def test_runs_wait_for_the_pool_that_has_their_graph(bench: Bench, is_running: bool) -> None:
    """Also those that waited for another one, whether or not a relay was there when the graph moved."""
    await bench.register("default", "other")
    await bench.register("billing")
    relay = await bench.relay()
    await bench.ask(uuid7())
    await bench.ask_alone()
    await bench.until_waiting("billing", 2)
    await bench.ask(uuid7(), after_s=5)
    if not is_running:
        await relay.stop()
    await bench.register("ledgers")
    if not is_running:
        await bench.projector.reached(bench.log.head())
        await bench.relay()
    await bench.ask(uuid7())
    await bench.until_waiting("ledgers", 3)
    bench.move(6)
    await bench.until_waiting("ledgers", 4)
    assert (await bench.waiting_in("billing"), await bench.waiting_in("default")) == (2, 0)


async def test_a_look_for_the_pool_that_fails_forgets_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.register("billing")
    relay = await bench.relay()
    await bench.until(lambda: not any(health([relay]).values()))
    stream, failures = bench.log.stream, [LogUnavailable("away")] * 2

    def failing(stream_id: UUID) -> list[Recorded]:
        if failures:
            raise failures.pop()
        return stream(stream_id)

    monkeypatch.setattr(bench.log, "stream", failing)
    for _ in range(5):
        await bench.ask(uuid7())
    await bench.until_waiting("billing", 5)
    assert not failures
    assert await bench.waiting_in("default") == 0


async def test_a_run_of_a_graph_that_the_worker_lacks_is_for_whoever_has_it(bench: Bench) -> None:
    """The queue is a hint: what another pool has goes to its queue, what others of the same pool have comes again."""
    await bench.register("billing", "agent")
    run_id = await bench.ask(uuid7())

    async def verdict(worker: str) -> Any:
        job = Job(None, run_id)  # type: ignore[arg-type]
        await bench.log.renew_lease(f"worker.{worker}", worker, 30)
        await Claims(bench.log, bench.store_clock, worker, (), ()).claim(job)
        return job.verdict

    assert await verdict("w-0123456789ab") == Elsewhere("billing")
    await bench.log.renew_lease("worker.w-billing-0123456789ab", "w-billing-0123456789ab", 30)
    assert await verdict("w-billing-ffffffffffff") == Later(OTHERS_DELAY_S)
    bench.move(31)
    assert (
        await verdict("w-billing-ffffffffffff") is None
    )  # the only one: it takes it, and says what it lacks
    assert bench.run(run_id).worker == "w-billing-ffffffffffff"


# --- what is lost in between ----------------------------------------------------------------------------


async def test_a_put_that_fails_once_or_for_a_while_forgets_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = WorkQueue.put, 0

    async def failing(queue: WorkQueue, subject: str, data: bytes) -> bool:
        nonlocal calls
        calls += 1
        if calls in (3, 4, 5, 9):
            raise ConnectionError("the 3rd")
        return await put(queue, subject, data)

    monkeypatch.setattr(WorkQueue, "put", failing)
    for _ in range(5):
        await bench.ask(uuid7())
    relay = await bench.relay()
    for n in range(5):
        await bench.ask(uuid7(), after_s=n)
    bench.move(10)
    await bench.until_queued(10)
    await bench.until(lambda: not any(health([relay]).values()))
    assert calls > 9


async def test_a_relay_that_dies_between_two_steps_forgets_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies in the middle of its puts; what it has not put, and what it has, is on the queue once."""
    put = WorkQueue.put
    seen = 0

    async def hanging(queue: WorkQueue, subject: str, data: bytes) -> bool:
        nonlocal seen
        seen += 1
        if seen > 3:
            await asyncio.Event().wait()
        return await put(queue, subject, data)

    relay = await bench.relay()
    await bench.settled()
    monkeypatch.setattr(WorkQueue, "put", hanging)
    runs = [await bench.ask(uuid7()) for _ in range(6)]
    deleted = uuid7()
    await bench.append(Append(deleted, 0, (ThreadCreated(user_id="u"), ThreadDeleted())))
    await bench.until(lambda: seen > 3)
    await relay.stop()
    monkeypatch.setattr(WorkQueue, "put", put)
    await bench.relay()
    await bench.until_queued(len(runs) + 1)  # and the chore


async def test_what_the_queue_has_lost_is_missed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though no connection was: a cluster may forget what it has acknowledged. What is in hand is left in peace."""
    monkeypatch.setattr(turns_module, "SWEEP_S", 5.0)
    await bench.relay()
    await bench.relay()
    thread_id = uuid7()
    for _ in range(3):
        await bench.ask(thread_id)
    await bench.ask(uuid7(), after_s=20)
    in_hand = await bench.ask_alone()
    await bench.ask_alone()
    await bench.until_queued(3)
    pull = await bench.pull()
    held = {}
    for _ in range(3):
        delivery = await pull.next()
        held[UUID(msg_of(delivery))] = delivery
    lost = [delivery for run_id, delivery in held.items() if run_id != in_hand]
    for delivery in lost:
        await delivery.ack()  # as if it had never been
    await bench.until_queued(1)
    await bench.settled()
    assert await bench.queued() == 1
    failures = [ConnectionError("away")]
    items = WorkQueue.items

    async def failing(queue: WorkQueue, subject: str) -> set[str]:
        if failures:
            raise failures.pop()
        return await items(queue, subject)

    monkeypatch.setattr(WorkQueue, "items", failing)
    bench.move(6)
    await bench.until_queued(3)
    await bench.settled()
    assert await bench.queued() == 3
    assert held[in_hand].num_delivered == 1


async def test_many_are_missed_by_pages(bench: Bench, bus: NatsBus, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = WorkQueue(bus, RUNS.name)
    await ensure_streams(bus, STREAMS)
    ids = [uuid7() for _ in range(30)]
    for run_id in ids:
        await queue.put(run_queue_subject("default", NORMAL, run_id), b"{}")
    await queue.put(run_queue_subject("other", NORMAL, uuid7()), b"{}")
    await queue.put(run_queue_subject("default", CHORES, uuid7()), b"{}")
    assert len(await queue.items(run_queue_subject("*", NORMAL))) == 31
    assert await queue.items(run_queue_subject("default", NORMAL)) == {str(run_id) for run_id in ids}


async def test_a_queue_that_is_lost_is_made_again(bench: Bench, nats: EmbeddedNats) -> None:
    streams = Streams(bench.bus, STREAMS)
    await streams.start()
    relay = await bench.relay()
    runs = {await bench.ask(uuid7()) for _ in range(3)} | {await bench.ask_alone()}
    await bench.until_queued(4)
    await bench.bus.api(f"STREAM.DELETE.{RUNS.name}")
    assert nats.pid is not None
    os.kill(nats.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while True:
            try:
                if await bench.queued() == 4:
                    break
            except (ConnectionError, TimeoutError, KeyError):
                pass
            await asyncio.sleep(0.05)
        pull = await bench.pull()
        assert {UUID(msg_of(await pull.next())) for _ in range(4)} == runs
    await streams.stop()
    await bench.until(lambda: not any(health([relay]).values()))


async def test_a_run_that_outlives_its_thread_is_not_forgotten(bench: Bench) -> None:
    """Its worker dies, and the queue is lost; nobody sees it any more, and it must come to its end."""
    thread_id = uuid7()
    await bench.append(Append(thread_id, 0, (ThreadCreated(user_id="u"),)))
    job = await bench.claim(await bench.ask(thread_id))
    waiting = await bench.ask(thread_id)
    log = Aggregates(bench.log)
    line = log.whole_line(log.lane(thread_id))
    await bench.store(decisions.delete_thread(log.thread(thread_id), line, ()))
    assert bench.run(waiting).status == "interrupted"
    relay = await bench.relay()
    await bench.settled()
    await relay.stop()
    await bench.bus.api(f"STREAM.DELETE.{RUNS.name}")
    await ensure_streams(bench.bus, STREAMS)
    await bench.relay()
    await bench.until_queued(1)
    pull = await bench.pull()
    delivery = await pull.next()
    assert msg_of(delivery) == str(job.run_id)
    bench.move(31)
    await bench.work(delivery)
    assert bench.run(job.run_id).status == "interrupted"
    assert not bench.lane(thread_id).in_flight
    assert bench.views.all("SELECT * FROM runs") == []


async def test_read_models_that_lag_hide_nobody(bench: Bench) -> None:
    await bench.projector.stop()
    position = bench.views.position("runs")
    bench.projector.reached = _at_once  # type: ignore[method-assign, assignment]
    for _ in range(3):
        await bench.ask(uuid7())
    assert bench.views.position("runs") == position
    await bench.relay()
    await bench.until_queued(3)


async def test_an_event_that_nobody_can_read_is_passed_over_alone(bench: Bench, bus: NatsBus) -> None:
    bench.projector.reached = _at_once  # type: ignore[method-assign, assignment]
    await bench.relay()
    odd = uuid7()
    await bench.ask(odd, after_s=60)
    await bench.settled()
    await bench.projector.stop()  # it can't pass over anything
    unread = [
        StoredAppend(
            lane_id_of(odd), 1, ((LaneChanged.TOPIC, b'{"at":"2026-11-24T12:00:00Z","actor":"u"}'),)
        ),
        StoredAppend(uuid7(), 0, ((RunRequested.TOPIC, b"\xff"),)),
        StoredAppend(
            uuid7(), 0, (("run.dreamt.v1", b'{"at":"2026-11-24T12:00:00Z","actor":"u","data":{}}'),)
        ),
    ]
    await bench.log.append_stored([StoredTransaction(tuple(unread), (), ())])
    bench.move(61)  # the head of the lane that can't be read is due
    first = await bench.ask(uuid7())
    await bench.until_queued(1)
    await bench.settled()
    await bench.until_kept("relay.ledger")
    await bench.relays[0].stop()
    await bench.relay()
    second = await bench.ask(uuid7())
    await bench.until_queued(2)
    pull = await bench.pull()
    assert {msg_of(await pull.next()), msg_of(await pull.next())} == {str(first), str(second)}


async def _at_once(*_: Any) -> bool:
    return True


async def test_a_relay_is_a_part(bench: Bench) -> None:
    relay: Whole = await bench.relay()
    assert health([relay]) == {"relay": "", "relay.ledger": "", "relay.runs": ""}
    await relay.start()
    await relay.stop()
    await relay.stop()
    assert set(health([relay]).values()) == {"not started"}
