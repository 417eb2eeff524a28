"""The claim: RunStarted at the expected version. A delivery is only a hint, this append is what counts."""

from collections.abc import Collection
from datetime import datetime
from functools import partial
from uuid import UUID

import msgspec

from contracts.ledger import Meta
from domain.assistant import default_assistant_id
from domain.changes import Changes
from domain.decisions import Places, claim, may_claim
from domain.run import ClaimRun, Run, evolve, is_outcome
from services.kit.clock import Clock
from services.kit.commands import Conflict
from services.kit.eventlog import EventLog
from services.kit.logs import Log
from services.repository import Aggregates, Repository
from services.worker.graph_child import Loss
from services.worker.job import Done, Elsewhere, Job, Later, Verdict
from services.worker.lease import live_until, live_workers, pool_of
from services.worker.stories import Story, story_of

log_lines = Log("worker")

CONFLICT_DELAY_S = 0.5
OTHERS_DELAY_S = 0.5
"""When a run comes again whose graph another worker of the pool has."""
TURN_DELAY_S = 1.0
"""When to look again whether it is a run's turn: one whose message came too early, because clocks differ."""
AFTER_LEASE_S = 0.25
"""Looked at this long after a lease should have ended: never a moment too early."""


class Found(msgspec.Struct, frozen=True):
    """What a claim is decided by."""

    story: Story
    now: datetime  # by the store's clock
    left_s: float | None  # for which whoever has the run is alive at least, None: nobody is
    elsewhere: Elsewhere | Later | None = None  # who has its graph, when it is not this worker


class Decision(msgspec.Struct, frozen=True):
    """What a claim comes to: the run as it leaves it, and why there is nothing to run, if there is nothing."""

    run: Run | None
    corr: str
    verdict: Verdict | None = None
    changes: Changes = Changes()
    began_ms: int = 0


class Claims:
    """Claims runs for one worker that has these graphs; `running` are the ones that it has in hand."""

    def __init__(
        self, log: EventLog, clock: Clock, worker: str, running: Collection[UUID], graphs: Collection[str]
    ) -> None:
        self._graphs = graphs
        self._repository = Repository(log)
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
        lost, decided = job.attempt, Decision(None, "")

        def decide(found: Found) -> Changes:
            nonlocal decided
            decided = self._decide(found, job.loss, lost)
            return decided.changes

        def meta(found: Found) -> Meta:
            return found.story.meta(self._clock, "worker")

        try:
            job.token = await self._repository.carry_out(partial(self._found, job.run_id), decide, meta) or 0
            self._broken.pop(job.run_id, None)
        except Conflict:
            decided = msgspec.structs.replace(decided, verdict=Later(CONFLICT_DELAY_S))
        job.run, job.corr, job.verdict = decided.run, decided.corr, decided.verdict
        job.began_ms = decided.began_ms

    def _found(self, run_id: UUID, log: Aggregates) -> Found:
        story = story_of(log, run_id)
        # Whoever is at the head of one only leaves by an event of its own run, and others may join meanwhile.
        for lane in story.places:
            log.forget(lane.stream_id)
        run, left_s, elsewhere = story.run, None, None
        if run is not None and run.status == "running":
            left_s = live_until(log.log, run.worker)
        if run is not None and run.request.graph_id not in self._graphs:
            elsewhere = _elsewhere(log, self._worker, run.request.graph_id)
        return Found(story, log.log.clock(), left_s, elsewhere)

    def _decide(self, found: Found, loss: Loss | None, lost: int) -> Decision:
        """What a claim comes to; `loss` is why our attempt of the number `lost` is void, if it is."""
        story, places, now = found.story, found.story.places, found.now
        run = story.run
        if run is None or not run.is_active:
            return Decision(run, story.corr, Done())
        if found.elsewhere is not None:
            return Decision(run, story.corr, found.elsewhere)
        # What we have lost is not to be taken from somebody who has it by now.
        why = loss if loss and run.attempt == lost else self._loss(run, found.left_s)
        if isinstance(why, Later):
            return Decision(run, story.corr, why)
        if not may_claim(run, places, now):
            return Decision(run, story.corr, _later(run, places, now))
        changes = claim(run, self._command(why), places, now)
        began_ms = int(story.meta(self._clock, "worker").at.timestamp() * 1000)
        after, verdict = _after(run, changes)
        return Decision(after, story.corr, verdict, changes, began_ms)

    def _loss(self, run: Run, left_s: float | None) -> Loss | Later | None:
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
        if left_s is not None:
            return Later(left_s + AFTER_LEASE_S)
        return Loss(f"lease of {run.worker} expired", counts=True)

    def _command(self, loss: Loss | None) -> ClaimRun:
        if loss is None:
            return ClaimRun(worker=self._worker)
        return ClaimRun(worker=self._worker, lost=loss.why, excused=not loss.counts)


def _elsewhere(log: Aggregates, worker: str, graph_id: str) -> Elsewhere | Later | None:
    """Who has a graph that the project of the worker lacks; None when nobody has: the run can only fail."""
    known = log.assistant_or_none(default_assistant_id(graph_id))
    if known is None or known.missing or not known.system:
        return None
    if known.pool != pool_of(worker):
        return Elsewhere(known.pool)
    # While a new version of the project is brought in, workers of one pool have different graphs.
    others = [w for w in live_workers(log.log) - {worker} if pool_of(w) == known.pool]
    return Later(OTHERS_DELAY_S) if others else None


def _later(run: Run, places: Places, now: datetime) -> Later:
    """When the turn of a run may come that waits for its instant, or for whoever is before it."""
    not_before = run.request.not_before
    if not_before is None or any(lane.head != run.run_id for lane in places):
        return Later(TURN_DELAY_S)
    return Later(min(TURN_DELAY_S, max(0.0, (not_before - now).total_seconds())))


def _after(run: Run, changes: Changes) -> tuple[Run | None, Verdict | None]:
    """The run as the changes leave it; when they end it, there is nothing to run."""
    bodies = [body for append in changes.appends if append.stream_id == run.run_id for body in append.bodies]
    after: Run | None = run
    for version, body in enumerate(bodies, run.version + 1):
        after = evolve(after, run.run_id, body, version)
    ended = any(is_outcome(body) for body in bodies)
    if ended:
        log_lines.warning("run.given_up", run_id=run.run_id, attempt=run.attempt)
    return after, Done() if ended else None
