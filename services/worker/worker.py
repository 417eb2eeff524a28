"""The worker: takes runs, claims them, lets a graph child run them, settles them."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import msgspec

from contracts.frames import Emitted, RunEnded
from contracts.ledger import Meta, Transaction
from contracts.subjects import (
    CHORES,
    DEFAULT_POOL,
    NORMAL,
    RUNS,
    run_cancel_subject,
    run_events_subject,
    run_queue_subject,
)
from contracts.work import ATTEMPT_HEADER, Chore, LiveEvent, RunDue
from domain import assistant as assistants
from domain.assistant import RegisterGraph, assistant_of, default_assistant_id
from domain.changes import Changes
from services.kit.bus import Msg
from services.kit.bus.nats import NatsBus
from services.kit.bus.work import Delivery, PullLoop
from services.kit.clock import Clock
from services.kit.commands import Conflict, execute
from services.kit.eventlog import EventLog, LogUnavailable
from services.kit.lifecycle import Supervised
from services.kit.project import Project
from services.kit.settings import Settings
from services.worker.children import ChildPool
from services.worker.claiming import Claims
from services.worker.graph_child import ChildDied
from services.worker.job import Done, Hopeless, Job, Later, Stop
from services.worker.lease import WorkerLease
from services.worker.loading import InputErased, kwargs_of, story_of
from services.worker.outcomes import Ending, ending_of, failure
from services.worker.settling import Settlements
from services.worker.starting import start_of

ACK_WAIT_S = 30.0
MOST_EVENT_BYTES = 900_000
"""Of a live event; NATS takes messages up to 1 MB."""
log_ = logging.getLogger("cronledger.worker")


class Worker:
    """Runs graphs for everybody who asks. Any number of them may share the queue."""

    def __init__(
        self,
        log: EventLog,
        bus: NatsBus,
        children: ChildPool,
        project: Project,
        clock: Clock,
        settings: Settings,
        *,
        worker_id: str,
    ) -> None:
        self._log, self._bus, self._children, self._project = log, bus, children, project
        self._clock, self._settings, self._id = clock, settings, worker_id
        self._jobs: dict[UUID, Job] = {}
        self._executing: set[UUID] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lease = WorkerLease(log, clock, worker_id, settings.lease_s)
        self._claims = Claims(log, clock, worker_id, self._executing)
        self._settlements = Settlements(log, clock)
        self._runs = PullLoop(
            bus,
            RUNS.name,
            f"w_{DEFAULT_POOL}_{NORMAL}",
            run_queue_subject(DEFAULT_POOL, NORMAL),
            children.slots,
            ACK_WAIT_S,
        )
        self._chores = PullLoop(
            bus,
            RUNS.name,
            f"w_{DEFAULT_POOL}_{CHORES}",
            run_queue_subject(DEFAULT_POOL, CHORES),
            4,
            ACK_WAIT_S,
        )
        self._loops = [
            Supervised("worker.heartbeat", self._heartbeat),
            Supervised("worker.runs", self._take_run),
            Supervised("worker.chores", self._take_chore),
        ]
        self._cancels: list[object] = []

    async def start(self) -> None:
        """Make the graphs known, then begin to take runs; twice is harmless."""
        if self._cancels:
            return
        await self._lease.renew()
        for graph_id, name in (self._children.ready.graphs if self._children.ready else {}).items():
            await self._register(graph_id, name)
        self._cancels.append(await self._bus.subscribe(run_cancel_subject(), self._on_cancel))
        await self._runs.start()
        await self._chores.start()
        for loop in self._loops:
            await loop.start()

    async def stop(self) -> None:
        """Give up what runs (others continue it from its checkpoint) and end."""
        if not self._cancels:
            return
        self._cancels.clear()
        for loop in self._loops[1:]:
            await loop.stop()
        await self._runs.stop()
        await self._chores.stop()
        for job in self._jobs.values():
            job.ask_stop(Stop("given_up"))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._loops[0].stop()
        await self._lease.release()

    # --- taking -----------------------------------------------------------------------------------

    async def _take_run(self) -> None:
        delivery = await self._runs.next()
        self._spawn(self.handle(delivery))

    async def _take_chore(self) -> None:
        delivery = await self._chores.next()
        try:
            chore = msgspec.json.decode(delivery.data, type=Chore)
        except msgspec.DecodeError:
            await delivery.term("no chore")
            return
        try:
            if chore.forget_thread is not None:
                await self._children.forget(str(chore.forget_thread))
            await delivery.ack()
        except ChildDied:
            await delivery.nak(1.0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log_.error("worker.job_failed", exc_info=exc)

    async def handle(self, delivery: Delivery) -> None:
        """Take -> claim -> run -> settle -> release, for one delivery."""
        try:
            due = msgspec.json.decode(delivery.data, type=RunDue)
        except msgspec.DecodeError:
            await delivery.term("no run")
            return
        if due.run_id in self._jobs:
            await delivery.nak(5.0)  # a double of what we have in hand
            return
        job = self._jobs[due.run_id] = Job(delivery, due.run_id)
        try:
            await self._lease.wait_held()
            while job.verdict is None:
                await self._attempt(job)
        except LogUnavailable:
            job.verdict = Later(1.0)
        finally:
            self._jobs.pop(due.run_id, None)
            self._executing.discard(due.run_id)
            await self._release(job)

    async def _attempt(self, job: Job) -> None:
        await self._claims.claim(job)
        if job.verdict is not None:
            return
        self._executing.add(job.run_id)
        job.lost = ""
        ending = await self._run(job)
        if ending is not None:
            await self._settle(job, ending)
            job.verdict = Done()

    async def _release(self, job: Job) -> None:
        try:
            match job.verdict:
                case Done():
                    await job.delivery.ack()
                case Hopeless(reason=reason):
                    await job.delivery.term(reason)
                case Later(delay_s=delay_s):
                    await job.delivery.nak(delay_s)
                case None:
                    await job.delivery.nak()
        except ConnectionError:
            pass  # it comes again after its wait, and then finds the run settled

    # --- running ----------------------------------------------------------------------------------

    async def _run(self, job: Job) -> Ending | None:
        """What the run came to; None when there is nothing to settle (`lost` or `verdict` says why)."""
        assert job.run is not None
        try:
            start = start_of(job.run, kwargs_of(self._log, job.run.request.kwargs))
        except InputErased as exc:
            return failure(job.run, "InputErased", str(exc))
        if job.run.request.graph_id not in self._project.graphs:
            return failure(job.run, "GraphNotFound", f"the project has no graph '{job.run.request.graph_id}'")
        attempt = {ATTEMPT_HEADER: str(job.attempt)}

        async def publish(event: Emitted) -> None:
            await self._publish(job.run_id, event, attempt)

        running = asyncio.create_task(self._children.run(start, publish))
        try:
            await self._until_ended(job, running)
        finally:
            if not running.done():
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        return self._ending(job, running)

    async def _until_ended(self, job: Job, running: asyncio.Task[RunEnded]) -> None:
        stopping = asyncio.create_task(job.stop_asked.wait())
        try:
            await asyncio.wait(
                {running, stopping},
                timeout=self._settings.run_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if running.done():
                return
            job.ask_stop(Stop("timeout"))  # unless somebody asked already
            run_id = str(job.run_id)
            self._children.cancel(run_id)
            await asyncio.wait({running}, timeout=self._settings.cancel_grace_s)
            if not running.done():
                log_.warning("run.killed run_id=%s", run_id)
                self._children.kill_run(run_id)
                await asyncio.wait({running}, timeout=5.0)
        finally:
            stopping.cancel()

    def _ending(self, job: Job, running: asyncio.Task[RunEnded]) -> Ending | None:
        assert job.run is not None
        ended = None
        if not running.cancelled():
            exc = running.exception()
            if isinstance(exc, ChildDied) and job.stop is None:
                job.lost = str(exc)
                return None
            if exc is not None and not isinstance(exc, ChildDied):
                raise exc
            ended = None if exc is not None else running.result()
        if job.stop is not None and not job.stop.settles:
            job.verdict = Later(0.0)
            return None
        return ending_of(job.run, ended, job.stop, self._settings.run_timeout_s)

    async def _settle(self, job: Job, ending: Ending) -> None:
        pause_s = 0.05
        while True:
            try:
                await self._settlements.settle(job, ending)
                return
            except (LogUnavailable, Conflict) as exc:
                # The result is at hand and the lease goes on: try as long as it takes.
                log_.warning("run.not_settled run_id=%s error=%s", job.run_id, exc)
                await asyncio.sleep(pause_s)
                pause_s = min(2.0, 2 * pause_s)

    async def _publish(self, run_id: UUID, event: Emitted, headers: dict[str, str]) -> None:
        size = len(bytes(event.data))
        live = LiveEvent(event.seq, event.event, event.data)
        if size > MOST_EVENT_BYTES:
            live = LiveEvent(event.seq, event.event, None, too_large=size)
        try:
            await self._bus.publish(run_events_subject(run_id), msgspec.json.encode(live), headers)
        except ConnectionError:
            pass  # live events are for whoever is listening now

    # --- staying alive ----------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        await self._lease.renew()
        if not self._lease.held:
            for job in self._jobs.values():
                job.ask_stop(Stop("void"))
        for job in list(self._jobs.values()):
            self._look_for_cancel(job)
            try:
                await job.delivery.in_progress()
            except ConnectionError:
                break
        await asyncio.sleep(min(self._settings.lease_s, ACK_WAIT_S) / 3)

    def _look_for_cancel(self, job: Job) -> None:
        if job.run_id not in self._executing:
            return
        run = story_of(self._log, job.run_id).run
        if run is None or not run.is_active or run.attempt != job.attempt:
            job.ask_stop(Stop("void"))
        elif run.cancel:
            job.ask_stop(Stop("cancel", run.cancel_reason))

    async def _on_cancel(self, msg: Msg) -> None:
        for run_id, job in list(self._jobs.items()):
            if msg.subject == run_cancel_subject(run_id):
                self._look_for_cancel(job)

    # --- what there is to run -----------------------------------------------------------------------

    async def _register(self, graph_id: str, name: str) -> None:
        assistant_id = default_assistant_id(graph_id)
        command = RegisterGraph(
            graph_id=graph_id, name=name, description=self._project.graphs[graph_id].description
        )

        def decide() -> Transaction | None:
            known = assistant_of(assistant_id, self._log.stream(assistant_id))
            events = assistants.decide(known, command)
            changes = Changes(appends=assistants.appends(assistant_id, known, events))
            return changes.by(
                Meta(at=self._clock.now(), actor="worker", cause=self._id, corr=str(assistant_id))
            )

        await execute(self._log, decide)
