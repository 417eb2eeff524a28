"""Occurrences become runs: in blocks, each occurrence once, whoever else tries the same."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from contracts.events import CronDeleted, LaneChanged, RunRequested
from contracts.ledger import Append, Meta, Payload, Transaction
from domain.assistant import Assistant
from domain.changes import Changes
from domain.decisions import (
    Line,
    Occurrence,
    RunPlan,
    fire_on_thread,
    fire_stateless,
    miss,
    skip,
)
from domain.identity import run_id_of, thread_id_of
from domain.lane import TAKES_PLACES, Lane, evolve
from domain.schedule import tzdata_version
from domain.timeline import Due
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.lifecycle import FAULTS
from services.kit.logs import Log
from services.kit.reads import read
from services.repository import Aggregates
from services.scheduler.plans import Planned, Plans
from services.scheduler.timer import Timer

BLOCK = 500
YIELD_EVERY = 100
RETRIES = 30
GONE = "its assistant is gone"
ASIDE_S = 30.0
"""How long a cron that can't be dealt with is left alone: short enough that what it has missed is merely late."""
log_ = Log("scheduler")
Built = list[tuple[Due, Transaction]]


class Counts(msgspec.Struct):
    """What has happened since the start. `lateness_ms` are (upper bound, how many)."""

    fired: int = 0
    duplicates: int = 0
    conflicts: int = 0
    lateness_ms: dict[float, int] = {}

    def late(self, milliseconds: float) -> None:
        """Count one lateness."""
        bound = next(
            (b for b in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0) if milliseconds <= b), float("inf")
        )
        self.lateness_ms[bound] = self.lateness_ms.get(bound, 0) + 1


class Firing:
    """Appends the runs of due crons, and moves the cursor of each that is stored."""

    def __init__(self, log: EventLog, plans: Plans, timer: Timer, clock: Clock) -> None:
        self._log, self._plans, self._timer, self._clock = log, plans, timer, clock
        self._stores = (log, plans.views)
        self.counts = Counts()
        self.aside: dict[bytes, str] = {}
        """Crons that can't be dealt with for now, and why: they keep no other one from its turn."""

    def set_aside(self, cron_id: bytes, exc: Exception) -> None:
        """Leave it alone for a while, undecided as it is."""
        why = f"{type(exc).__name__}: {exc}"
        if self.aside.get(cron_id) != why:
            log_.error("scheduler.set_aside", exc, cron=UUID(bytes=cron_id))
        self.aside[cron_id] = why
        self._timer.set_aside(cron_id, self._clock.wall_s() + ASIDE_S)

    async def fire(self, dues: Sequence[Due]) -> None:
        """Record these, at most one of each cron.

        A cron that was edited or deleted meanwhile stays undecided. So does all that is not stored yet when
        an edge fails: it raises what the edge raised.
        """
        for start in range(0, len(dues), BLOCK):
            built, alone = await self._built(dues[start : start + BLOCK])
            await self._one_by_one(alone + await self._store(built))

    async def _one_by_one(self, alone: list[Due]) -> None:
        """Decide on what the log has this moment, until each fits; one of a lane at a time."""
        tries = 0
        while alone:
            built, later = await read(self._stores, partial(self._built_alone, alone))
            left = await self._store(built) + later
            tries = 0 if len(left) < len(alone) else tries + 1
            if tries > RETRIES:
                log_.error("scheduler.contended", crons=len(left))
                await self._store(await read(self._stores, partial(self._given_up, left)))
                return
            await asyncio.sleep(0.001 * tries)
            alone = left

    async def _store(self, built: Built) -> list[Due]:
        """Append; those whose lane was changed by somebody else are to be built again."""
        again: list[Due] = []
        outcomes = await self._log.append_many([tx for _, tx in built]) if built else []
        for (due, tx), outcome in zip(built, outcomes, strict=True):
            cron_id = UUID(bytes=due.cron_id)
            if isinstance(outcome, int):
                self._timer.decided(due.cron_id, due.at)
                self.aside.pop(due.cron_id, None)
                self.counts.fired += 1
                self.counts.late((self._clock.wall_s() - (due.fires_at or due.at)) * 1000)
                if due.counts and _has_run(tx):
                    self._counted(due, tx.meta.at, outcome)
            elif outcome.stream_id == run_id_of(cron_id, due.at):
                self.counts.duplicates += 1
                if due.counts and await read(self._log, partial(self._was_fired, outcome.stream_id)):
                    self._timer.fired(due.cron_id)
                self._timer.decided(due.cron_id, due.at)
            else:
                self.counts.conflicts += 1
                if outcome.stream_id != cron_id:  # else it was edited: looked at again when that is known
                    again.append(due)
        return again

    def _counted(self, due: Due, at: datetime, position: int) -> None:
        """One run more of a cron that may have so many; it is over with the last."""
        self._timer.fired(due.cron_id)
        if due.last is not None:
            self._timer.seen(due.cron_id, due.version + 1)
            self._timer.edited(due.cron_id, due.last, at, position)

    def _was_fired(self, run_id: UUID) -> bool:
        """Whether another scheduler has begun a run of the occurrence, or has only told why not."""
        told = self._log.stream(run_id)
        first = told[0].body if told else None
        return isinstance(first, RunRequested) and first.backfill_id is None

    async def _built(self, dues: Sequence[Due]) -> tuple[Built, list[Due]]:
        """Transactions on what the read models show, and those that must be looked at one by one."""
        known, lanes, metadata = await read(self._stores, partial(self._known, dues))
        built: Built = []
        alone: list[Due] = []
        now = self._clock.now()
        for n, due in enumerate(dues):
            planned = known.get(due.cron_id)
            if planned is None or not _fits(planned, lanes, metadata):
                alone.append(due)
                continue
            try:
                built.append((due, _transaction(planned, due, lanes, metadata, now)))
            except FAULTS as exc:
                self.set_aside(due.cron_id, exc)
            if n % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        return built, alone

    def _known(
        self, dues: Sequence[Due]
    ) -> tuple[dict[bytes, Planned], dict[UUID, Lane], dict[UUID, dict[str, Any]]]:
        """Plans by cron, lanes by thread or cron, metadata by thread, as far as the read models show them."""
        known = self._plans.of_block(dues)
        empty = {lane.owner_id: lane for planned in known.values() if (lane := planned.lane) is not None}
        lanes = {lane.owner_id: lane for lane in Aggregates(self._log).lanes(empty.values())}
        threads = [planned.thread_id for planned in known.values() if planned.thread_id is not None]
        return known, lanes, self._plans.thread_metadata(threads) if threads else {}

    def _built_alone(self, dues: Iterable[Due]) -> tuple[Built, list[Due]]:
        """Transactions on what the log has, and those that come behind another one of their lane."""
        built: Built = []
        later: list[Due] = []
        busy: set[UUID] = set()
        for due in dues:
            try:
                planned = self._plans.of_stream(due)
                if planned is None:
                    continue  # deleted or edited: the timeline will say
                lane = planned.lane
                if lane is not None and lane.owner_id in busy:
                    later.append(due)
                    continue
                built.append((due, self._alone(planned, due, self._clock.now())))
            except FAULTS as exc:
                self.set_aside(due.cron_id, exc)
                continue
            if lane is not None:
                busy.add(lane.owner_id)
        return built, later

    def _alone(self, planned: Planned, due: Due, now: datetime) -> Transaction:
        occurrence = _occurrence(planned, due)
        if planned.plan is None:
            return _by(skip(nobodys(due), occurrence, "refused", GONE), due, occurrence, now)
        plan = _plan(planned.plan, due)
        changes = begun(Aggregates(self._log), planned, plan, occurrence, now)
        if changes is None:
            ended = Append(UUID(bytes=due.cron_id), due.version, (CronDeleted(reason="thread_deleted"),))
            changes = threadless(plan, occurrence) + Changes(appends=(ended,))
        return _by(changes, due, occurrence, now)

    def _given_up(self, dues: Iterable[Due]) -> Built:
        built: Built = []
        for due in dues:
            if (planned := self._plans.of_stream(due)) is not None:
                occurrence = _occurrence(planned, due)
                changes = miss(nobodys(due), occurrence, "others changed its lane all the time")
                built.append((due, _by(changes, due, occurrence, self._clock.now())))
        return built


def begun(
    log: Aggregates, planned: Planned, plan: RunPlan, occurrence: Occurrence, now: datetime
) -> Changes | None:
    """What becomes of an occurrence, by what the log has this moment; None when its thread is gone."""
    if planned.lacks:
        return _without_graph(plan, occurrence, planned)
    line = None if planned.lane is None else log.line(planned.lane, plan.strategy)
    if planned.thread_id is None or line is None:
        return fire_stateless(plan, occurrence, line, now)
    thread = log.thread_or_none(planned.thread_id)
    return None if thread is None else fire_on_thread(plan, occurrence, line, thread.metadata, now)


def threadless(plan: RunPlan, occurrence: Occurrence) -> Changes:
    """The occurrence is skipped, because its thread is gone."""
    return skip(plan, occurrence, "refused", "its thread is gone")


def _fits(planned: Planned, lanes: dict[UUID, Lane], metadata: dict[UUID, dict[str, Any]]) -> bool:
    """Whether the read models tell all that the firing needs."""
    if planned.plan is None or planned.lane is None:
        return planned.plan is not None
    # Whom it stops must be looked at.
    stops = planned.plan.strategy in TAKES_PLACES and lanes[planned.lane.owner_id].in_flight
    return (planned.thread_id is None or planned.thread_id in metadata) and not stops


def _transaction(
    planned: Planned,
    due: Due,
    lanes: dict[UUID, Lane],
    metadata: dict[UUID, dict[str, Any]],
    now: datetime,
) -> Transaction:
    assert planned.plan is not None
    plan, occurrence, thread_id = _plan(planned.plan, due), _occurrence(planned, due), planned.thread_id
    if planned.lacks:
        return _by(_without_graph(plan, occurrence, planned), due, occurrence, now)
    line = None if planned.lane is None else Line(lane=lanes[planned.lane.owner_id])
    if thread_id is None or line is None:
        return _by(fire_stateless(plan, occurrence, line, now), due, occurrence, now)
    changes = fire_on_thread(plan, occurrence, line, metadata[thread_id], now)
    for append in changes.appends:
        for body in append.bodies:
            if isinstance(body, LaneChanged):  # the next cron of this thread stands behind it
                lanes[thread_id] = evolve(lanes[thread_id], body)
    return _by(changes, due, occurrence, now)


def _without_graph(plan: RunPlan, occurrence: Occurrence, planned: Planned) -> Changes:
    """Not fired: the run could only fail. It goes on by itself when the graph is back."""
    return skip(plan, occurrence, "graph_missing", f"the project has no graph '{planned.lacks}'")


def _plan(plan: RunPlan, due: Due) -> RunPlan:
    """The plan resting on the version of the cron that the timeline was made from."""
    if plan.cron_version == due.version:
        return plan
    return msgspec.structs.replace(plan, cron_version=due.version)


def nobodys(due: Due) -> RunPlan:
    """A plan for what is not run: only whose it is counts."""
    cron_id = UUID(bytes=due.cron_id)
    nobody = Assistant(assistant_id=cron_id, version=0, graph_id="", name="")
    return RunPlan(
        assistant=nobody,
        user_id="",
        kwargs=Payload(),
        cron_id=cron_id,
        cron_version=due.version,
        revision=due.revision,
    )


def _occurrence(planned: Planned, due: Due) -> Occurrence:
    cron_id = UUID(bytes=due.cron_id)
    return Occurrence(
        run_id=run_id_of(cron_id, due.at),
        thread_id=planned.thread_id or thread_id_of(cron_id, due.at),
        scheduled_for=datetime.fromtimestamp(due.at, UTC),
        kind=due.kind,
        local=due.local,
        tzdata=tzdata_version(),
        next_at=None if due.coming is None else datetime.fromtimestamp(due.coming, UTC),
        fires_at=None if due.fires_at is None else datetime.fromtimestamp(due.fires_at, UTC),
    )


def _by(changes: Changes, due: Due, occurrence: Occurrence, now: datetime) -> Transaction:
    cron_id = UUID(bytes=due.cron_id)
    if due.last is not None and _has_run(changes):
        changes += Changes(appends=(Append(cron_id, due.version, (due.last,)),))
    meta = Meta(at=now, actor="scheduler", cause=f"{cron_id}/{due.revision}", corr=str(occurrence.run_id))
    return changes.by(meta)


def _has_run(what: Changes | Transaction) -> bool:
    """Whether the occurrence becomes a run: it may be skipped."""
    return any(isinstance(append.bodies[0], RunRequested) for append in what.appends)
