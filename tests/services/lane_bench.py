"""Lanes on a real log with its read models, a relay and a real bus; the test asks for runs and is the worker."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from contracts.codec import EventCodec
from contracts.events import RunSucceeded
from contracts.ledger import Append, Meta
from contracts.spec import RunSpec
from contracts.subjects import DEFAULT_POOL, NORMAL, RUNS, run_queue_subject
from domain import assistant as assistants
from domain import decisions
from domain.assistant import Assistant, RegisterGraph, default_assistant_id
from domain.changes import Changes
from domain.decisions import Line, Occurrence, plan_of
from domain.lane import Lane, MultitaskStrategy
from domain.run import Run, run_of
from services.kit.bus.nats import NatsBus
from services.kit.bus.work import Delivery, PullLoop
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.lifecycle import Part
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from services.relay.relay import Relay
from services.repository import Aggregates
from services.worker.claims import Claims
from services.worker.job import Done, Job, Later
from services.worker.outcomes import Ending
from services.worker.settlements import Settlements

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
INPUT = {"done": False}
ASSISTANT = Assistant(assistant_id=UUID(int=7), version=1, graph_id="agent", name="agent")


class HandClock:
    """Goes on only when the test says so; whoever waits looks often."""

    def __init__(self) -> None:
        self.at = START
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        return self.at

    def wall_s(self) -> float:
        return self.at.timestamp()

    def monotonic_s(self) -> float:
        return self.elapsed_s

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(min(0.02, timeout_s)):
                await event.wait()
        except TimeoutError:
            return False
        return True

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.elapsed_s += seconds


class Bench:
    """The parts beside a worker. `clock` is the clients' and the relay's, `store_clock` the log's."""

    def __init__(self, folder: Path, bus: NatsBus) -> None:
        self.bus = bus
        self.clock, self.store_clock = HandClock(), HandClock()
        self.log = SqliteLog(folder / "ledger.db", EventCodec())
        self.log._recorder.clock = self.store_clock.now  # type: ignore[method-assign]
        self.projector = Projector(self.log, folder / "views.db")
        self.views = SqliteViews(folder / "views.db")
        self.relays: list[Relay] = []
        self.pulls: list[PullLoop] = []

    async def open(self) -> None:
        await self.log.start()
        await self.projector.start()

    async def close(self) -> None:
        parts: list[Part] = [*self.relays, *self.pulls]
        for part in parts:
            await part.stop()
        self.views.close()
        await self.projector.stop()
        await self.log.stop()

    def move(self, seconds: float) -> None:
        """Time goes on, for everybody alike."""
        self.clock.move(seconds)
        self.store_clock.move(seconds)

    async def relay(self) -> Relay:
        """One more relay."""
        relay = Relay(self.log, self.views, self.bus, self.clock)
        self.relays.append(relay)
        await relay.start()
        return relay

    # --- asking -----------------------------------------------------------------------------------

    async def ask(
        self, thread_id: UUID, strategy: MultitaskStrategy = "enqueue", *, after_s: float = 0
    ) -> UUID:
        """A run on the thread; its id."""
        run_id = uuid7()
        now = self.clock.now()
        not_before = now + timedelta(seconds=after_s) if after_s else None
        plan = plan_of(RunSpec(multitask_strategy=strategy, input=INPUT), ASSISTANT, "alice")
        occurrence = Occurrence(run_id=run_id, thread_id=thread_id, kind="", not_before=not_before)
        lane = self.lane(thread_id)
        runs = {entry.run_id: self.run(entry.run_id) for entry in lane.in_flight}
        await self.store(decisions.request_on_thread(plan, occurrence, Line(lane=lane, runs=runs), {}, now))
        return run_id

    async def ask_alone(self, *, after_s: float = 0) -> UUID:
        """A temporary run; its id."""
        run_id, now = uuid7(), self.clock.now()
        not_before = now + timedelta(seconds=after_s) if after_s else None
        plan = plan_of(RunSpec(input=INPUT), ASSISTANT, "alice", temporary=True)
        occurrence = Occurrence(run_id=run_id, thread_id=uuid7(), kind="", not_before=not_before)
        await self.store(decisions.request_stateless(plan, occurrence, now))
        return run_id

    async def ask_in_turn(self, cron_id: UUID, *, is_kept: bool) -> UUID:
        """A run of a cron whose runs take turns, on a thread of its own; its id."""
        run_id, now = uuid7(), self.clock.now()
        plan = plan_of(
            RunSpec(input=INPUT),
            ASSISTANT,
            "alice",
            cron_id=cron_id,
            temporary=not is_kept,
            overlap="buffer_all",
        )
        line = Aggregates(self.log).line(Lane(cron_id=cron_id), plan.strategy)
        occurrence = Occurrence(run_id=run_id, thread_id=uuid7(), kind="trigger")
        await self.store(decisions.request_stateless(plan, occurrence, now, line))
        return run_id

    async def store(self, changes: Changes) -> int:
        """Append, and let the read models follow."""
        position = await self.log.append(changes.by(Meta(at=self.clock.now(), actor="test")))
        await self.projector.reached(position, 10)
        return position

    async def append(self, *appends: Append) -> int:
        """The same for bare events."""
        return await self.store(Changes(appends=appends))

    # --- looking ----------------------------------------------------------------------------------

    def lane(self, thread_id: UUID) -> Lane:
        return Aggregates(self.log).lane(thread_id)

    def run(self, run_id: UUID) -> Run:
        run = run_of(run_id, self.log.stream(run_id))
        assert run is not None
        return run

    async def queued(self) -> int:
        """How many messages are on RUNS, those that somebody has too."""
        info = await self.bus.api(f"STREAM.INFO.{RUNS.name}")
        return int(info["state"]["messages"]) if "state" in info else -1  # there is no such stream

    async def until(self, holds: Callable[[], Any], within_s: float = 20) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def until_queued(self, number: int) -> None:
        """Wait until so many messages are on RUNS."""
        async with asyncio.timeout(20):
            while await self.queued() != number:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def settled(self) -> None:
        """Wait until every relay has done what the log has, and some more."""
        await self.until_kept("relay.runs")
        await asyncio.sleep(0.05)

    async def until_kept(self, name: str) -> None:
        """Wait until a follower has come as far as the log has, and told so: it does once a second."""
        head = self.log.head()
        self.clock.elapsed_s += 1.001
        async with asyncio.timeout(20):
            while self.log.cursor(name) < head:
                self.clock.elapsed_s += 0.1
                await asyncio.sleep(0.01)

    async def waiting_in(self, pool: str) -> int:
        """How many messages wait on the queue of a pool."""
        subjects = self.bus.subject(run_queue_subject(pool, NORMAL))
        info = await self.bus.api(f"STREAM.INFO.{RUNS.name}", {"subjects_filter": subjects})
        return len(info["state"].get("subjects") or ())

    async def until_waiting(self, pool: str, number: int) -> None:
        """Wait until so many do."""
        async with asyncio.timeout(20):
            while await self.waiting_in(pool) != number:  # noqa: ASYNC110 - it is a server
                await asyncio.sleep(0.02)

    async def register(self, pool: str, graph_id: str = "agent") -> None:
        """A worker of the pool has the graph."""
        assistant_id = default_assistant_id(graph_id)
        known = Aggregates(self.log).assistant_or_none(assistant_id)
        command = RegisterGraph(graph_id=graph_id, name=graph_id, pool=pool)
        await self.append(*assistants.appends(assistant_id, known, assistants.decide(known, command)))

    # --- working ----------------------------------------------------------------------------------

    async def pull(self, slots: int = 8, ack_wait_s: float = 30) -> PullLoop:
        """Begin to take runs as a worker does."""
        every = run_queue_subject(DEFAULT_POOL, NORMAL)
        loop = PullLoop(self.bus, RUNS.name, "w_default_normal", every, slots, ack_wait_s)
        self.pulls.append(loop)
        await loop.start()
        return loop

    def claims(self, worker: str, *running: UUID) -> Claims:
        return Claims(self.log, self.store_clock, worker, running, ("agent",))

    async def claim(self, run_id: UUID, worker: str = "w1", delivery: Any = None, lease_s: float = 30) -> Job:
        """A worker's claim; the verdict is in the job."""
        await self.log.renew_lease(f"worker.{worker}", worker, lease_s)
        job = Job(delivery, run_id)
        await self.claims(worker).claim(job)
        return job

    async def settle(self, job: Job) -> int:
        """The run has succeeded; the position, 0 = the attempt was void."""
        assert job.run is not None
        outcome = RunSucceeded(thread_id=job.run.request.thread_id, attempt=job.attempt)
        position = await Settlements(self.log, self.store_clock).settle(job, Ending(outcome))
        await self.projector.reached(self.log.head(), 10)
        return position

    async def work(self, delivery: Delivery) -> Job:
        """All that a worker does with a message whose run does nothing."""
        job = await self.claim(UUID(msg_of(delivery)), delivery=delivery)
        if job.verdict is None:
            await self.settle(job)
            job.verdict = Done()
        if isinstance(job.verdict, Done):
            await delivery.ack_sync()
        else:
            assert isinstance(job.verdict, Later)
            await delivery.nak(job.verdict.delay_s)
        return job


def msg_of(delivery: Delivery) -> str:
    """The id of the run that is due."""
    return str(msgspec.json.decode(delivery.data)["run_id"])
