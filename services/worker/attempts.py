"""One attempt at a run: what the graph child is told, what it streams, what it came to."""

import asyncio
from functools import partial
from typing import Any

import msgspec

from contracts.frames import RunEnded, StartRun
from contracts.queries import Query, Rollback, State
from services.kit.eventlog import EventLog
from services.kit.logs import Log
from services.kit.project import Project
from services.kit.reads import read
from services.kit.settings import Settings
from services.worker.children import ChildPool, NoPlace
from services.worker.graph_child import ChildDied, NoAnswer
from services.worker.job import Job, Stop
from services.worker.outcomes import Ending, ended_of, ending_of, failure, undone
from services.worker.start import start_of
from services.worker.stories import InputErased, kwargs_of

KILLED_S = 3.0
GIVEN_UP_S = 1.0
"""How long a run may take to stop when nobody here waits for what it comes to: the worker stops, or lost it."""
STATE_S = 10.0
log_ = Log("worker")


class Attempts:
    """Carries out attempts that this worker has claimed."""

    def __init__(self, log: EventLog, children: ChildPool, project: Project, settings: Settings) -> None:
        self._log, self._children = log, children
        self._project, self._settings = project, settings

    async def carry_out(self, job: Job) -> Ending | None:
        """What the run came to; None when there is nothing to settle (`loss`, `stop` or `verdict` says why)."""
        assert job.run is not None
        try:
            asked = job.run.request.kwargs
            kwargs = await read(self._log, lambda: kwargs_of(self._log, asked))
            start = start_of(job.run, kwargs, job.token)
        except InputErased as exc:
            return failure(job.run, "InputErased", str(exc))
        if job.run.request.graph_id not in self._project.graphs:
            return failure(job.run, "GraphNotFound", f"the project has no graph '{job.run.request.graph_id}'")
        if job.run.cancel:
            # It was asked to stop and its worker is gone: what it left is all that is to be seen to.
            return await self._stopped(job, start, None)
        return await self._ending(job, start, await self._run(job, start))

    async def roll_back(self, job: Job) -> Ending:
        """The end of a run that is undone: its checkpoints are taken back. Raises NoAnswer."""
        run = job.run
        assert run is not None
        if not run.request.temporary:
            # One more than the attempt itself has, so that even a write of its own comes too late; later claims,
            # being later in the log, have at least as much.
            ids = {"thread_id": str(run.request.thread_id), "run_id": str(run.run_id)}
            await self._ask(Rollback(**ids, token=job.token + 1))
        return undone(run)

    async def _run(self, job: Job, start: StartRun) -> "asyncio.Task[RunEnded]":
        feed, begun = job.feed, asyncio.Event()
        assert feed is not None
        feed.on_taken = partial(self._children.taken, start.run_id)
        running = asyncio.create_task(self._children.run(start, feed.emit, begun.set))
        try:
            await self._until_ended(job, running, begun)
        finally:
            if not running.done():
                running.cancel()
                await asyncio.wait({running}, timeout=KILLED_S)
        job.seen = feed.seen
        return running

    async def _until_ended(self, job: Job, running: "asyncio.Task[RunEnded]", begun: asyncio.Event) -> None:
        stopping, taken = asyncio.create_task(job.stop_asked.wait()), asyncio.create_task(begun.wait())
        try:
            # Its time does not run while it waits for a process.
            await asyncio.wait({running, stopping, taken}, return_when=asyncio.FIRST_COMPLETED)
            if begun.is_set():
                await asyncio.wait(
                    {running, stopping},
                    timeout=self._settings.run_timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                await self._stop(job, running)
        finally:
            stopping.cancel()
            taken.cancel()

    async def _stop(self, job: Job, running: "asyncio.Task[RunEnded]") -> None:
        """See to it that it ends, if it has not: by a word, then by force."""
        if running.done():
            return
        job.ask_stop(Stop("timeout"))  # unless somebody asked already
        assert job.stop is not None
        run_id, grace_s = str(job.run_id), self._settings.cancel_grace_s
        self._children.cancel(run_id)
        await asyncio.wait({running}, timeout=grace_s if job.stop.settles else min(grace_s, GIVEN_UP_S))
        if not running.done():
            log_.warning("run.killed", run_id=run_id)
            self._children.kill_run(run_id)
            await asyncio.wait({running}, timeout=KILLED_S)

    async def _ending(self, job: Job, start: StartRun, running: "asyncio.Task[RunEnded]") -> Ending | None:
        ended: RunEnded | None = None
        try:
            ended = running.result()
        except (asyncio.CancelledError, asyncio.InvalidStateError):
            pass  # it had to be left
        except NoPlace as exc:
            log_.warning("run.not_placed", run_id=job.run_id, error=exc)
            job.ask_stop(Stop("given_up", str(exc)))
        except ChildDied as exc:
            if job.stop is None:
                job.loss = exc.loss
                return None
        if job.stop is not None and not job.stop.settles:
            return None
        return await self._stopped(job, start, ended)

    async def _stopped(self, job: Job, start: StartRun, ended: RunEnded | None) -> Ending:
        """The ending by what the graph came to; what is not known of its state is asked for."""
        assert job.run is not None
        if job.rolls_back:
            return await self.roll_back(job)
        if ended is None and not start.temporary:
            ended = await self._left(start)
        stop = job.stop or Stop("cancel", job.run.cancel_reason)
        return ending_of(job.run, ended, stop, self._settings.run_timeout_s)

    async def _left(self, start: StartRun) -> RunEnded | None:
        query = State(
            graph_id=start.graph_id, thread_id=start.thread_id, config=start.config, context=start.context
        )
        try:
            async with asyncio.timeout(STATE_S):
                state: dict[str, Any] = msgspec.json.decode(await self._ask(query))
        except (NoAnswer, TimeoutError) as exc:
            log_.warning("run.state_unknown", run_id=start.run_id, error=exc)
            return None
        return ended_of(start.run_id, state) if state["checkpoint"] else None

    async def _ask(self, query: Query) -> msgspec.Raw:
        return await self._children.ask(query.VERB, msgspec.Raw(msgspec.json.encode(query)))
