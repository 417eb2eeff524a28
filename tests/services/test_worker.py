"""A worker with a real log, bus and children: what it does with its runs when it loses its lease, or stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from contracts.codec import EventCodec, pack
from contracts.events import (
    RunCancelRequested,
    RunFailed,
    RunReleased,
    RunRequested,
    RunStarted,
    RunSucceeded,
)
from contracts.ledger import Append, Meta, StoredAppend, StoredTransaction, Transaction
from contracts.work import RunDue
from services.kit.bus.nats import NatsBus
from services.kit.clock import SystemClock
from services.kit.eventlog import BadTransaction, LeaseRow, LogUnavailable
from services.kit.eventlog.sqlite import SqliteLog
from services.worker.lease import lease_name
from services.worker.worker import Worker
from tests.services.graph_children import Bench, bench_of

GRAPHS = """
    import asyncio, os
    from typing import Any, TypedDict
    from langgraph.graph import START, StateGraph

    class State(TypedDict, total=False):
        value: Any

    async def wait(state):
        open(os.environ["TRAIL"], "a").write("begun ")
        await asyncio.sleep(60)
    builder = StateGraph(State)
    builder.add_node("wait", wait)
    builder.add_edge(START, "wait")
    waiting = builder.compile()
    builder = StateGraph(State)
    builder.add_node("end", lambda state: {"value": "done"})
    builder.add_edge(START, "end")
    quick = builder.compile()
"""


class Log(SqliteLog):
    """A log that renews no lease while it is told so, or slowly, and can't store that a run has succeeded."""

    broken = False
    slow_s = 0.0

    async def append(self, tx: Transaction) -> int:
        if any(isinstance(body, RunSucceeded) for append in tx.appends for body in append.bodies):
            raise BadTransaction("too large")
        return await super().append(tx)

    async def renew_lease(self, name: str, holder: str, ttl_s: float) -> LeaseRow | None:
        if self.broken:
            raise LogUnavailable("broken")
        await asyncio.sleep(self.slow_s)
        return await super().renew_lease(name, holder, ttl_s)


class Delivery:
    """A message of the run queue, and what was said to it."""

    def __init__(self, run_id: UUID) -> None:
        self.data = msgspec.json.encode(RunDue(run_id))
        self.told: list[str] = []

    async def ack(self) -> None:
        self.told.append("ack")

    async def nak(self, delay_s: float = 0.0) -> None:
        self.told.append("nak")

    async def in_progress(self) -> None:
        return

    async def term(self, reason: str) -> None:
        self.told.append("term")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_of(tmp_path, GRAPHS, ["waiting", "quick"]) as bench:
        yield bench


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = Log(tmp_path / "ledger.db", EventCodec())
    await log.start()
    yield log
    await log.stop()


async def requested(log: Log, said: Any = {"input": {}}, graph: str = "waiting") -> UUID:  # noqa: B006
    """A run on a thread of its own, in the log."""
    run_id, thread_id = uuid4(), uuid4()
    kwargs, _ = pack(said)
    request = RunRequested(
        thread_id=thread_id,
        cron_id=None,
        assistant_id=uuid4(),
        graph_id=graph,
        user_id="u",
        kwargs=kwargs,
        temporary=True,
    )
    meta = Meta(at=datetime.now(UTC), actor="test")
    await log.append(Transaction(meta=meta, appends=(Append(run_id, 0, (request,)),)))
    return run_id


async def begun(bench: Bench) -> None:
    async with asyncio.timeout(30):
        while not bench.trail.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def worker_of(bench: Bench, log: Log, bus: NatsBus, lease_s: float = 1.0) -> Worker:
    settings = msgspec.structs.replace(bench.settings, lease_s=lease_s, cancel_grace_s=1.0)
    pool = await bench.pool()
    worker = Worker(log, bus, pool, bench.project(), SystemClock(), settings, worker_id="w")
    await worker.start()
    return worker


async def test_past_its_lease_a_worker_stops_its_runs(bench: Bench, log: Log, bus: NatsBus) -> None:
    worker, delivery = await worker_of(bench, log, bus), Delivery(run_id := await requested(log))
    handling = asyncio.create_task(worker.handle(delivery))
    await begun(bench)
    log.broken = True
    async with asyncio.timeout(20):
        await handling
    assert delivery.told == ["nak"]
    assert worker.failing == "its lease has ended"
    log.broken = False
    await worker.stop()
    assert [type(e.body) for e in log.stream(run_id)] == [RunRequested, RunStarted]


async def test_a_log_that_is_slow_costs_no_lease(bench: Bench, log: Log, bus: NatsBus) -> None:
    """Each renewal takes longer than it is until the next one, and is stored in time."""
    worker = await worker_of(bench, log, bus, lease_s=3)
    delivery = Delivery(await requested(log))
    handling = asyncio.create_task(worker.handle(delivery))
    await begun(bench)
    log.slow_s = 1.2
    await asyncio.sleep(3.5)
    assert (handling.done(), worker.failing) == (False, "")
    log.slow_s = 0.0
    await worker.stop()
    await handling
    assert log.leases("worker.") == []


async def test_a_run_whose_attempts_break_ends(bench: Bench, log: Log, bus: NatsBus) -> None:
    run_id = await requested(log, {"config": "not an object"})  # no request makes one
    worker, told = await worker_of(bench, log, bus), list[str]()
    for _ in range(10):
        delivery = Delivery(run_id)
        with suppress(msgspec.ValidationError):
            await worker.handle(delivery)
        told += delivery.told
    await worker.stop()
    assert told[:4] == ["nak", "nak", "nak", "ack"]
    bodies = [e.body for e in log.stream(run_id)]
    assert [type(body) for body in bodies] == [RunRequested, *[RunStarted] * 3, RunFailed]
    assert "ValidationError: Expected `object`" in bodies[-1].message  # type: ignore[attr-defined]


async def test_a_run_that_nobody_can_read_hides_no_cancel_of_another(
    bench: Bench, log: Log, bus: NatsBus
) -> None:
    worker = await worker_of(bench, log, bus, lease_s=3)
    deliveries = [Delivery(await requested(log)) for _ in range(2)]
    runs = [msgspec.json.decode(delivery.data, type=RunDue).run_id for delivery in deliveries]
    handling = [asyncio.create_task(worker.handle(delivery)) for delivery in deliveries]
    async with asyncio.timeout(30):
        while not bench.trail.exists() or bench.trail.read_text().count("begun") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    unread = StoredAppend(runs[0], 2, ((RunReleased.TOPIC, b"nonsense"),))
    await log.append_stored([StoredTransaction((unread,), (), ())])
    thread_id = log.stream(runs[1])[0].body.thread_id  # type: ignore[attr-defined]
    asked = RunCancelRequested(thread_id=thread_id, cron_id=None, action="interrupt")
    meta = Meta(at=datetime.now(UTC), actor="test")
    await log.append(Transaction(meta=meta, appends=(Append(runs[1], 2, (asked,)),)))
    async with asyncio.timeout(20):
        await handling[1]
    assert deliveries[1].told == ["ack"]
    await worker.stop()
    with pytest.raises(msgspec.DecodeError):
        await handling[0]


async def test_what_is_lost_here_is_not_taken_from_who_has_it_by_now(
    bench: Bench, log: Log, bus: NatsBus
) -> None:
    worker, delivery = await worker_of(bench, log, bus, lease_s=60), Delivery(run_id := await requested(log))
    handling = asyncio.create_task(worker.handle(delivery))
    await begun(bench)
    thread_id = log.stream(run_id)[0].body.thread_id  # type: ignore[attr-defined]
    claimed = RunStarted(thread_id=thread_id, cron_id=None, attempt=2, worker="other", lost="as it was told")
    meta = Meta(at=datetime.now(UTC), actor="test")
    await log.append(Transaction(meta=meta, appends=(Append(run_id, 2, (claimed,)),)))
    await log.renew_lease(lease_name("other"), "other", 60)
    bench.pools[0].kill_run(str(run_id))
    async with asyncio.timeout(20):
        await handling
    assert delivery.told == ["nak"]
    assert log.stream(run_id)[-1].body == claimed
    await worker.stop()


async def test_a_stop_gives_its_runs_back(bench: Bench, log: Log, bus: NatsBus) -> None:
    worker, delivery = await worker_of(bench, log, bus), Delivery(run_id := await requested(log))
    handling = asyncio.create_task(worker.handle(delivery))
    await begun(bench)
    stopping = asyncio.create_task(worker.stop())
    async with asyncio.timeout(20):
        await handling
        await stopping
    assert delivery.told == ["nak"]
    assert [type(e.body) for e in log.stream(run_id)] == [RunRequested, RunStarted, RunReleased]


async def test_what_can_not_be_stored_is_the_end_of_the_run(bench: Bench, log: Log, bus: NatsBus) -> None:
    worker, delivery = (
        await worker_of(bench, log, bus, 60),
        Delivery(run_id := await requested(log, graph="quick")),
    )
    async with asyncio.timeout(30):
        await worker.handle(delivery)
    assert delivery.told == ["ack"]
    outcome = log.stream(run_id)[-1].body
    assert isinstance(outcome, RunFailed)
    assert (outcome.error, outcome.message) == ("OutputTooLarge", "too large")
    await worker.stop()
