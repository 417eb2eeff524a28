"""The claim: RunStarted at the expected version. A delivery is only a hint, this append is what counts."""

import logging
from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from contracts.ledger import Transaction
from domain.changes import Changes
from domain.decisions import claim, may_claim
from domain.lane import Lane
from domain.run import ClaimRun, Run, evolve, is_outcome
from services.kit.clock import Clock
from services.kit.commands import Conflict, execute
from services.kit.eventlog import EventLog
from services.worker.graph_child import Loss
from services.worker.job import Done, Job, Later, Verdict
from services.worker.lease import live_until
from services.worker.loading import Story, lane_for, story_of

log_lines = logging.getLogger("cronledger.worker")

CONFLICT_DELAY_S = 0.5
TURN_DELAY_S = 1.0
"""When to look again whether it is a run's turn: one whose message came too early, because clocks differ."""
AFTER_LEASE_S = 0.25
"""Looked at this long after a lease should have ended: never a moment too early."""


class Claims:
    """Claims runs for one worker; `running` are the ones that it has in hand."""

    def __init__(self, log: EventLog, clock: Clock, worker: str, running: Collection[UUID]) -> None:
        self._log = log
        self._clock = clock
        self._worker = worker
        self._running = running
        self._broken: dict[UUID, str] = {}

    def broke(self, run_id: UUID, exc: Exception) -> None:
        """Note that the attempt at the run failed of what nobody foresaw: it counts against it, lest it is for ever."""
        self._broken[run_id] = f"{type(exc).__name__}: {exc}"

    async def claim(self, job: Job) -> None:
        """Make the run this worker's, as a new attempt; or set the verdict that says why not.

        Raises LogUnavailable: then nobody knows whether the claim was stored.
        """
        try:
            lost = job.attempt
            job.token = await execute(self._log, lambda: self._decide(job, lost)) or 0
            self._broken.pop(job.run_id, None)
        except Conflict:
            job.verdict = Later(CONFLICT_DELAY_S)

    async def _decide(self, job: Job, lost: int) -> Transaction | None:
        story = story_of(self._log, job.run_id)
        job.run, job.corr = story.run, story.corr
        if story.run is None or not story.run.is_active:
            job.verdict = Done()
            return None
        # What we have lost is not to be taken from somebody who has it by now.
        loss = job.loss if job.loss and story.run.attempt == lost else self._loss(story.run)
        if isinstance(loss, Later):
            job.verdict = loss
            return None
        lane, now = lane_for(self._log, story.run), self._log.clock()
        if not may_claim(story.run, lane, now):
            job.verdict = _later(story.run, lane, now)
            return None
        meta = story.meta(self._clock, "worker")
        changes = claim(story.run, self._command(loss), lane, now)
        job.run, job.verdict = _after(story, changes)
        job.began_ms = int(meta.at.timestamp() * 1000)
        return changes.by(meta)

    def _loss(self, run: Run) -> Loss | Later | None:
        """Why a former claim is void, None without one; or when to ask again, while it is not.

        A worker's death counts against its runs, one of them may have used up the host; so does what broke here.
        """
        if run.status != "running":
            return None
        if run.released:
            return Loss(f"given back by {run.worker}")
        if run.worker == self._worker:
            if run.run_id in self._running:
                return Later(5.0)  # delivered a second time while we are at it
            broke = self._broken.get(run.run_id)
            return Loss(broke or f"given up by {run.worker}", counts=broke is not None)
        left_s = live_until(self._log, run.worker)
        if left_s is not None:
            return Later(left_s + AFTER_LEASE_S)
        return Loss(f"lease of {run.worker} expired", counts=True)

    def _command(self, loss: Loss | None) -> ClaimRun:
        if loss is None:
            return ClaimRun(worker=self._worker)
        return ClaimRun(worker=self._worker, lost=loss.why, excused=not loss.counts)


def _later(run: Run, lane: Lane, now: datetime) -> Later:
    """When the turn of a run may come that waits for its instant, or for whoever is before it."""
    not_before = run.request.not_before
    if not_before is None or not (run.request.temporary or lane.head == run.run_id):
        return Later(TURN_DELAY_S)
    return Later(min(TURN_DELAY_S, max(0.0, (not_before - now).total_seconds())))


def _after(story: Story, changes: Changes) -> tuple[Run | None, Verdict | None]:
    """The run as the changes leave it; when they end it, there is nothing to run."""
    run = story.run
    assert run is not None
    run_id = run.run_id
    bodies = [body for append in changes.appends if append.stream_id == run_id for body in append.bodies]
    after: Run | None = run
    for body in bodies:
        after = evolve(after, run_id, body)
    ended = any(is_outcome(body) for body in bodies)
    if ended:
        log_lines.warning("run.given_up run_id=%s attempt=%d", run_id, run.attempt)
    return after, Done() if ended else None
