"""The worker: takes runs, claims them, lets a graph child run them, settles them."""

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import count
from uuid import UUID

import msgspec
from tenacity import wait_exponential

from contracts.subjects import NORMAL, RUNS, run_cancel_subject, run_queue_subject
from contracts.work import RunDue
from domain.errors import MustRollBack
from services.kit.bus import Msg, Subscription
from services.kit.bus.nats import NatsBus
from services.kit.bus.work import PullLoop, WorkQueue
from services.kit.clock import Clock
from services.kit.commands import Conflict
from services.kit.eventlog import BadTransaction, EventLog, LogUnavailable
from services.kit.lifecycle import FAULTS, Part, Supervised
from services.kit.logs import Log
from services.kit.project import Project
from services.kit.retries import pause_s
from services.kit.settings import Settings
from services.repository import Repository
from services.worker.answers import Answering
from services.worker.attempts import Attempts
from services.worker.children import ChildPool
from services.worker.chores import Chores
from services.worker.claims import Claims
from services.worker.feed import Feeds, FeedSource
from services.worker.graph_child import NoAnswer
from services.worker.job import Done, Elsewhere, Job, Later, QueueMessage, Stop
from services.worker.lease import WorkerLease, pool_of
from services.worker.outcomes import Ending, failure
from services.worker.seen import Seen, seen_of
from services.worker.settlements import Settlements

FAILED_DELAY_S = 1.0
GIVE_UP_S = 4.5
"""How long the runs in hand may take to be given back when the worker stops: a word, a kill, an append."""
RELEASE_S = 1.0
NOT_SETTLED = wait_exponential(multiplier=0.05, max=2.0)
log_ = Log("worker")


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
        self._clock, self.id = clock, worker_id
        self._jobs: dict[UUID, Job] = {}
        self._executing: set[UUID] = set()
        self._trouble = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._repository = Repository(log)
        self._lease = WorkerLease(log, clock, worker_id, settings.lease_s)
        self._claims = Claims(log, clock, worker_id, self._executing, project.graphs)
        self._settlements = Settlements(log, clock)
        self._feeds = Feeds(bus)
        self._attempts = Attempts(log, children, project, settings)
        pool = pool_of(worker_id)
        self._answering = Answering(bus, children, log, pool)
        self._queue = WorkQueue(bus, RUNS.name)
        self._runs = PullLoop(
            bus,
            RUNS.name,
            f"w_{pool}_{NORMAL}",
            run_queue_subject(pool, NORMAL),
            children.slots,
            settings.lease_s,  # whoever gets the runs of a dead worker finds that its lease has ended
        )
        self._chores = Chores(bus, children.ask, log)
        self._beat_s = settings.lease_s / 3
        self._heart = Supervised("worker.heartbeat", self._heartbeat, self._beat_s)
        # By itself: a lease is not to end because there is much to look at.
        self._looks = Supervised("worker.looks", self._look, self._beat_s)
        self._taking = Supervised("worker.runs", self._take_run)
        self._cancels: Subscription | None = None
        self.name, self.started = "worker", False
        beside: list[Part] = [self._feeds, self._answering, self._chores, self._heart, self._looks]
        self.parts: Sequence[Part] = [*beside, self._runs, self._taking]

    @property
    def failing(self) -> str:
        """Why it takes no runs, or what the newest of them failed of, whatever its parts do."""
        return self._trouble if self._lease.held or not self.started else "its lease has ended"

    async def start(self) -> None:
        """Begin to take runs; twice is harmless."""
        if self.started:
            return
        await self._lease.renew()
        self._cancels = await self._bus.subscribe(run_cancel_subject(), self._on_cancel)
        for part in self.parts:
            await part.start()
        self.started = True

    async def stop(self) -> None:
        """Give up what runs (others continue it from its checkpoint) and end, within seconds. Safe unstarted."""
        self.started = False
        cancels, self._cancels = self._cancels, None
        if cancels is not None:
            await cancels.unsubscribe()
        await self._taking.stop()
        await self._runs.stop()
        for job in self._jobs.values():
            job.ask_stop(Stop("given_up"))
        await self._given_back()
        for part in (self._chores, self._answering, self._feeds, self._looks, self._heart):
            await part.stop()
        await self._lease.cease()
        if self._lease.held:
            with contextlib.suppress(TimeoutError, LogUnavailable):  # then it ends by itself
                async with asyncio.timeout(RELEASE_S):
                    await self._lease.release()

    async def _given_back(self) -> None:
        """Wait until no run is in hand; one for which that takes too long is left to the end of the lease."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=GIVE_UP_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=RELEASE_S)

    # --- taking -----------------------------------------------------------------------------------

    async def _take_run(self) -> None:
        delivery = await self._runs.next()
        task = asyncio.create_task(self.handle(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._trouble = f"a run could not be seen to: {type(exc).__name__}: {exc}"
            log_.error("worker.job_failed", exc)

    async def handle(self, delivery: QueueMessage) -> None:
        """Take -> claim -> run -> settle -> release, for one delivery.

        It is the only message of its run, and leaves the queue when the run is over: in all other cases it comes
        again, to whoever can go on with the run.
        """
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
        except LogUnavailable as exc:
            self._trouble = f"a run could not be claimed: {exc}"
            job.verdict = Later(1.0)
        except FAULTS as exc:
            self._claims.broke(due.run_id, exc)  # an edge that fails counts against no run
            raise
        finally:
            self._jobs.pop(due.run_id, None)
            self._executing.discard(due.run_id)
            self._children.over(str(due.run_id))
            await self._release(job)

    async def _attempt(self, job: Job) -> None:
        await self._claims.claim(job)
        if job.verdict is not None:
            return
        self._executing.add(job.run_id)
        job.loss = None
        if job.attempt > 1 and job.seen is None:
            job.seen = await seen_of(self._bus, job.run_id)
        job.feed = self._feeds.open(
            FeedSource(
                run_id=job.run_id,
                attempt=job.attempt,
                began_ms=job.began_ms,
                began_at=job.token,
                seen=job.seen or Seen(),
            )
        )
        try:
            ending = await self._carried_out(job)
            if ending is not None and await self._settle(job, ending):
                job.verdict = Done()
            elif job.loss is None:
                job.verdict = Later(0.0)  # somebody else has it, or is to have it
                if job.stop is not None and job.stop.kind == "given_up":
                    await self._give_back(job)
        finally:
            self._feeds.close(job.run_id, job.feed)

    async def _carried_out(self, job: Job) -> Ending | None:
        try:
            return await self._attempts.carry_out(job)
        except NoAnswer as exc:
            if not job.rolls_back:
                raise
            log_.warning("run.not_rolled_back", run_id=job.run_id, error=exc)
            return await self._undone(job)

    async def _give_back(self, job: Job) -> None:
        try:
            await self._settlements.give_back(job)
        except (LogUnavailable, Conflict) as exc:
            log_.warning("run.not_given_back", run_id=job.run_id, error=exc)

    async def _release(self, job: Job) -> None:
        try:
            match job.verdict:
                case Done():
                    await job.delivery.ack()
                case Later(delay_s=delay_s):
                    await job.delivery.nak(delay_s)
                case Elsewhere(pool=pool):
                    await self._queue.put(run_queue_subject(pool, NORMAL, job.run_id), job.delivery.data)
                    await job.delivery.ack()
                case None:
                    await job.delivery.nak(FAILED_DELAY_S)
        except ConnectionError as exc:
            # It comes again after its wait, and then finds the run settled.
            self._trouble = f"a message of the queue was not answered: {exc}"
        else:
            if isinstance(job.verdict, Done):
                self._trouble = ""

    async def _settle(self, job: Job, ending: Ending) -> bool:
        """True when the outcome is in the log; False when the run is not ours any more."""
        for attempt in count(1):
            try:
                position = await self._settlements.settle(job, ending)
                break
            except MustRollBack:
                # It came to its end before it heard that it is to be undone.
                undone = await self._undone(job)
                if undone is None:
                    return False
                ending = undone
            except BadTransaction as exc:
                # What it came to can't be stored, today or later: that is how it ends.
                assert job.run is not None
                ending = failure(job.run, "OutputTooLarge", str(exc))
            except (LogUnavailable, Conflict) as exc:
                # The result is at hand and the lease goes on: try as long as it takes.
                self._trouble = f"an outcome could not be stored: {exc}"
                log_.warning("run.not_settled", run_id=job.run_id, error=exc)
                await asyncio.sleep(pause_s(NOT_SETTLED, attempt))
        if position and job.feed is not None:
            await job.feed.settled(position)
        return position > 0

    async def _undone(self, job: Job) -> Ending | None:
        """The end of a run whose checkpoints are taken back; None when it is not ours any more."""
        while job.stop is None or job.stop.settles:
            try:
                return await self._attempts.roll_back(job)
            except NoAnswer as exc:
                log_.warning("run.not_rolled_back", run_id=job.run_id, error=exc)
                await asyncio.sleep(1.0)
        return None

    # --- staying alive ----------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        began_s = self._clock.monotonic_s()
        try:
            await self._lease.ask(self._beat_s)
        finally:
            # Whatever the log does: past the lease the runs are anybody's, and go on here for nothing.
            if not self._lease.held:
                for job in self._jobs.values():
                    job.ask_stop(Stop("void"))
        await asyncio.sleep(max(0.0, began_s + self._beat_s - self._clock.monotonic_s()))

    async def _look(self) -> None:
        for job in list(self._jobs.values()):
            with contextlib.suppress(ConnectionError):
                await job.delivery.in_progress()
        for job in list(self._jobs.values()):
            await self._look_for_cancel(job)
        await asyncio.sleep(self._beat_s)

    async def _look_for_cancel(self, job: Job) -> None:
        if job.run_id not in self._executing:
            return
        try:
            run = await self._repository.load(lambda log: log.run_or_none(job.run_id))
        except FAULTS as exc:  # this one alone is not heard; its attempt ends of it
            log_.error("run.unreadable", exc, run_id=job.run_id)
            return
        if run is None or not run.is_active or run.attempt != job.attempt:
            job.ask_stop(Stop("void"))
        elif run.cancel:
            job.ask_stop(Stop("cancel", run.cancel_reason, run.cancel))

    async def _on_cancel(self, msg: Msg) -> None:
        for run_id, job in list(self._jobs.items()):
            if msg.subject == run_cancel_subject(run_id):
                await self._look_for_cancel(job)
