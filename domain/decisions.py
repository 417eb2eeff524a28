"""Decisions over several aggregates: a run asked for, fired, settled, cancelled; a thread deleted.

Each gives the changes of one transaction. Nothing here looks at a clock or at a store.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from contracts.codec import pack
from contracts.events import (
    FiringKind,
    LaneChanged,
    NextAt,
    OccurrenceMissed,
    OccurrenceSkipped,
    Overlap,
    RunEvent,
    RunRequested,
)
from contracts.ledger import Append, Blob, Expect, Payload
from contracts.spec import RunSpec
from domain import lane as lanes
from domain import run as runs
from domain import thread as threads
from domain.assistant import Assistant
from domain.changes import Changes
from domain.errors import CronBusy, LaneFull, Refused, RunNotActive, ThreadBusy
from domain.lane import Lane, MultitaskStrategy
from domain.run import Run
from domain.spec import kwargs_of, run_metadata
from domain.thread import Thread

MAX_WAITING = 100
"""Runs of a cron, or of its thread, that may wait (a firing beyond is skipped and says so), and writes of a state."""
Places = Sequence[Lane]
"""The lanes in which a run stands (`Run.lanes`), as they are."""


class RunPlan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every run of one cron revision, or one direct request, has in common."""

    assistant: Assistant
    user_id: str
    kwargs: Payload
    blobs: tuple[Blob, ...] = ()
    spec: RunSpec = RunSpec()
    temporary: bool = False
    cron_id: UUID | None = None
    cron_version: int = 0  # the stream version that a firing rests on
    revision: int = 0
    cron_metadata: dict[str, Any] = {}
    overlap: Overlap | None = None  # None: its cron says nothing, or it has none

    @property
    def strategy(self) -> MultitaskStrategy:
        """What becomes of runs that are in flight in the lane that it joins."""
        return self.spec.strategy

    @property
    def takes_turns(self) -> bool:
        """Of a cron whose runs have a thread each: whether they wait for each other, in a lane of the cron."""
        return self.overlap not in (None, "allow")

    @property
    def most_waiting(self) -> int:
        """How many runs may wait behind the one that runs when the cron fires."""
        return 1 if self.overlap == "buffer_one" else MAX_WAITING


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A lane, and for a strategy that takes places the runs that stand in it and the other lanes in which these do."""

    lane: Lane
    runs: Mapping[UUID, Run] = {}
    others: Sequence[Lane] = ()

    @property
    def started(self) -> frozenset[UUID]:
        """The runs that a worker has."""
        return frozenset(run_id for run_id, run in self.runs.items() if run.status == "running")


class Occurrence(msgspec.Struct, frozen=True, kw_only=True):
    """One due instant of a cron, and what it becomes."""

    run_id: UUID
    thread_id: UUID
    scheduled_for: datetime | None = None
    kind: FiringKind = "schedule"
    local: str = ""
    tzdata: str = ""
    next_at: NextAt = msgspec.UNSET
    not_before: datetime | None = None
    note: str = ""
    fires_at: datetime | None = None
    former: int = 0  # version of the run's stream: it may have told already why the occurrence did not fire
    backfill_id: UUID | None = None


def plan_of(
    spec: RunSpec,
    assistant: Assistant,
    user_id: str,
    *,
    cron_id: UUID | None = None,
    cron_version: int = 0,
    revision: int = 0,
    cron_metadata: dict[str, Any] | None = None,
    temporary: bool = False,
    overlap: Overlap | None = None,
) -> RunPlan:
    """The plan for runs that `spec` describes."""
    kwargs, blobs = pack(kwargs_of(spec, assistant, cron_id, temporary))
    return RunPlan(
        assistant=assistant,
        user_id=user_id,
        kwargs=kwargs,
        blobs=blobs,
        spec=spec,
        temporary=temporary,
        cron_id=cron_id,
        cron_version=cron_version,
        revision=revision,
        cron_metadata=cron_metadata or {},
        overlap=overlap,
    )


def state_plan(
    updates: list[list[dict[str, Any]]], checkpoint: dict[str, Any], assistant: Assistant, user_id: str
) -> RunPlan:
    """The plan of a write into a thread's state: supersteps, on top of a checkpoint (empty: the newest)."""
    spec = RunSpec(updates=updates, config={"configurable": checkpoint})
    return plan_of(spec, assistant, user_id)


def create_thread(
    command: threads.CreateThread, thread: Thread | None, former: int, lane: Lane, *, joined: bool
) -> tuple[Changes, Lane]:
    """A new thread, on the id of a deleted one too, and its lane as a first run finds it that is to be `joined`.

    `former` is the version at which the stream of the id is. Raises AlreadyExists, ThreadBusy.
    """
    events = threads.decide(thread, command)
    appends: tuple[Append, ...] = threads.appends(command.thread_id, None, events, former=former)
    opened = lanes.decide(lane, lanes.OpenLane())
    if not joined:  # else its joining says the same, and a stream stands once in a transaction
        appends += lanes.appends(lane, opened)
    return Changes(appends=appends), msgspec.structs.replace(lane, closed=False)


def write_state(
    plan: RunPlan, run_id: UUID, line: Line, thread_metadata: dict[str, Any], now: datetime
) -> Changes:
    """A write into the thread's state, behind other writes only. Raises ThreadBusy, LaneFull, ThreadNotFound.

    A run that was asked to stop counts no longer: the write comes after its end.
    """
    if any(not entry.stopping and not entry.writes for entry in line.lane.in_flight):
        raise ThreadBusy("Thread is busy with a running task: its state can be written when it has ended.")
    occurrence = Occurrence(run_id=run_id, thread_id=line.lane.owner_id, kind="state")
    return request_on_thread(plan, occurrence, line, thread_metadata, now, MAX_WAITING)


def request_on_thread(
    plan: RunPlan,
    occurrence: Occurrence,
    line: Line,
    thread_metadata: dict[str, Any],
    now: datetime,
    limit: int | None = None,
) -> Changes:
    """A run that takes its place in the thread's lane, and the stop of those in whose place it comes.

    Raises ThreadBusy, LaneFull, ThreadNotFound.
    """
    return _asked_for(_requested(plan, occurrence, thread_metadata), plan, occurrence, (line,), now, limit)


def request_stateless(
    plan: RunPlan, occurrence: Occurrence, now: datetime, line: Line | None = None, limit: int | None = None
) -> Changes:
    """A run with a thread of its own: kept with its cron's metadata, or gone when the run has ended.

    `line` is its cron's, in which it takes its place if the cron's runs take turns; `limit` is how many may wait
    there. Raises CronBusy, LaneFull.
    """
    requested = _requested(plan, occurrence, {}, cron_lane=line is not None)
    lines = () if line is None else (line,)
    if plan.temporary:
        return _asked_for(requested, plan, occurrence, lines, now, limit)
    thread = threads.CreateThread(
        thread_id=occurrence.thread_id,
        user_id=plan.user_id,
        metadata={
            **plan.cron_metadata,
            "graph_id": plan.assistant.graph_id,
            "assistant_id": str(plan.assistant.assistant_id),
        },
        cron_id=plan.cron_id,
    )
    created = threads.appends(occurrence.thread_id, None, threads.decide(None, thread))
    own = Line(lane=Lane(thread_id=occurrence.thread_id))
    return Changes(appends=created) + _asked_for(requested, plan, occurrence, (own, *lines), now, limit)


def fire_on_thread(
    plan: RunPlan, occurrence: Occurrence, line: Line, thread_metadata: dict[str, Any], now: datetime
) -> Changes:
    """The firing of a thread cron; when the lane refuses it, the occurrence is recorded as skipped."""
    return _or_skipped(
        plan,
        occurrence,
        lambda: request_on_thread(plan, occurrence, line, thread_metadata, now, plan.most_waiting),
    )


def fire_stateless(plan: RunPlan, occurrence: Occurrence, line: Line | None, now: datetime) -> Changes:
    """The firing of a cron whose runs have a thread each; when its lane refuses it, it is recorded as skipped."""
    return _or_skipped(
        plan, occurrence, lambda: request_stateless(plan, occurrence, now, line, plan.most_waiting)
    )


def _or_skipped(plan: RunPlan, occurrence: Occurrence, request: Callable[[], Changes]) -> Changes:
    try:
        return request()
    except (ThreadBusy, CronBusy) as exc:
        return skip(plan, occurrence, "overlap", str(exc))
    except LaneFull as exc:
        return skip(plan, occurrence, "buffer_full", str(exc))
    except Refused as exc:
        return skip(plan, occurrence, "refused", str(exc))


def skip(plan: RunPlan, occurrence: Occurrence, reason: Any, detail: str) -> Changes:
    """The occurrence was due and is not run, by rule."""
    assert occurrence.scheduled_for is not None
    skipped = OccurrenceSkipped(
        thread_id=occurrence.thread_id,
        cron_id=plan.cron_id,
        scheduled_for=occurrence.scheduled_for,
        reason=reason,
        detail=detail,
        next_at=occurrence.next_at,
        local=occurrence.local,
        revision=plan.revision,
        tzdata=occurrence.tzdata,
        backfill_id=occurrence.backfill_id,
    )
    return Changes(
        appends=(Append(occurrence.run_id, occurrence.former, (skipped,)),), expects=_expects(plan)
    )


def miss(plan: RunPlan, occurrence: Occurrence, detail: str) -> Changes:
    """The occurrence was due and could not be run."""
    assert occurrence.scheduled_for is not None
    missed = OccurrenceMissed(
        thread_id=occurrence.thread_id,
        cron_id=plan.cron_id,
        scheduled_for=occurrence.scheduled_for,
        reason="error",
        detail=detail,
        next_at=occurrence.next_at,
        local=occurrence.local,
        revision=plan.revision,
        tzdata=occurrence.tzdata,
    )
    return Changes(appends=(Append(occurrence.run_id, 0, (missed,)),), expects=_expects(plan))


def may_claim(run: Run, places: Places, now: datetime) -> bool:
    """Whether a worker may have the run: it has had its turn already, or it is due and nobody is before it.

    Its lanes count only while it has not started; one that has started keeps its place.
    """
    if run.status != "pending":
        return True
    if not places:
        return run.request.not_before is None or run.request.not_before <= now
    return all(lane.may_start(run.run_id, now) for lane in places)


def claim(run: Run, command: runs.ClaimRun, places: Places, now: datetime) -> Changes:
    """A worker's claim; the attempt after the last one is an outcome instead. Raises RunNotActive."""
    events = runs.decide(run, command)
    if any(runs.is_outcome(event) for event in events):
        return _ended(run, events, places)
    appends = runs.appends(run, events)
    if not may_claim(run, places, now):
        raise RunNotActive(f"run {run.run_id} is not to start: it is not its turn")
    if run.status == "pending":
        start = lanes.StartInLane(run_id=run.run_id, now=now)
        for lane in places:
            appends += lanes.appends(lane, lanes.decide(lane, start))
    return Changes(appends=appends)


def settle(run: Run, command: runs.SettleRun, places: Places) -> Changes:
    """The outcome of a run, and its leaving its lanes: whoever is the head then may run."""
    return _ended(run, runs.decide(run, command), places)


def cancel(run: Run, command: runs.CancelRun, places: Places) -> Changes:
    """A stop that was asked for: an outcome at once while the run has not started."""
    events = runs.decide(run, command)
    if any(runs.is_outcome(event) for event in events):
        return _ended(run, events, places)
    return Changes(appends=runs.appends(run, events) + _stopped_in(places, [run], command.action))


def delete_thread(thread: Thread, line: Line, cron_appends: tuple[Append, ...]) -> Changes:
    """The end of a thread: its lane closes, what waits ends, what runs is asked to stop, its crons end."""
    reason, lane = "thread deleted", line.lane
    stopped: tuple[Append, ...] = ()
    for run in line.runs.values():
        is_to_stop = run.is_active and not run.cancel
        events = runs.decide(run, runs.CancelRun(reason=reason)) if is_to_stop else []
        stopped += runs.appends(run, events)
    stopped += _stopped_in(line.others, line.runs.values(), "interrupt")
    closed = lanes.appends(lane, lanes.decide(lane, lanes.CloseLane(started=line.started)))
    deleted = threads.appends(thread.thread_id, thread, threads.decide(thread, threads.DeleteThread()))
    return Changes(appends=(*stopped, *closed, *deleted, *cron_appends))


def _asked_for(
    requested: RunRequested,
    plan: RunPlan,
    occurrence: Occurrence,
    lines: Sequence[Line],
    now: datetime,
    limit: int | None,
) -> Changes:
    """The run, its place in each of these lines, and the stop of those in whose place it comes. Raises Refused."""
    appends: tuple[Append, ...] = (Append(occurrence.run_id, occurrence.former, (requested,)),)
    for line in lines:
        others = [other.lane.stream_id for other in lines if other is not line]
        join = lanes.JoinLane(
            run_id=occurrence.run_id,
            strategy=plan.strategy,
            limit=limit,
            started=line.started,
            now=now,
            not_before=occurrence.not_before,
            writes=occurrence.kind == "state",
            also=others[0] if others else None,
        )
        appends += _joined(line, join)
    return Changes(appends=appends, expects=_expects(plan), blobs=plan.blobs)


def _joined(line: Line, join: lanes.JoinLane) -> tuple[Append, ...]:
    appends = lanes.appends(line.lane, lanes.decide(line.lane, join))
    stops = lanes.stops(line.lane, join)
    for stop in stops:
        run = line.runs[stop.run_id]
        command = runs.CancelRun(action=stop.action, reason=f"run {join.run_id} took its place")
        appends += runs.appends(run, runs.decide(run, command))
    if not stops:
        return appends
    return appends + _stopped_in(line.others, [line.runs[stop.run_id] for stop in stops], stops[0].action)


def _stopped_in(
    places: Places, stopped: Iterable[Run], action: Literal["interrupt", "rollback"]
) -> tuple[Append, ...]:
    """What the stop of these runs is in lanes in which they stand: one that a worker has keeps its place."""
    appends: tuple[Append, ...] = ()
    those = tuple(stopped)
    for lane in places:
        said: list[LaneChanged] = []
        for run in those:
            started = run.status == "running"
            command = (
                lanes.StopInLane(run_id=run.run_id, action=action)
                if started
                else lanes.LeaveLane(run_id=run.run_id)
            )
            said += lanes.decide(lanes.evolved(lane, said), command)
        appends += lanes.appends(lane, said)
    return appends


def _expects(plan: RunPlan) -> tuple[Expect, ...]:
    if plan.cron_id is None or not plan.cron_version:
        return ()
    return (Expect(plan.cron_id, plan.cron_version),)


def _requested(
    plan: RunPlan, occurrence: Occurrence, thread_metadata: dict[str, Any], *, cron_lane: bool = False
) -> RunRequested:
    return RunRequested(
        thread_id=occurrence.thread_id,
        cron_id=plan.cron_id,
        assistant_id=plan.assistant.assistant_id,
        graph_id=plan.assistant.graph_id,
        user_id=plan.user_id,
        metadata=run_metadata(
            plan.assistant, thread_metadata, plan.spec, plan.cron_metadata, _origin(plan, occurrence)
        ),
        kwargs=plan.kwargs,
        multitask_strategy=plan.strategy,
        temporary=plan.temporary,
        kind=occurrence.kind if plan.cron_id or occurrence.kind == "state" else "",
        scheduled_for=occurrence.scheduled_for,
        local=occurrence.local,
        revision=plan.revision,
        tzdata=occurrence.tzdata,
        next_at=occurrence.next_at,
        not_before=occurrence.not_before,
        note=occurrence.note,
        webhook=plan.spec.webhook or "",
        fires_at=occurrence.fires_at,
        backfill_id=occurrence.backfill_id,
        cron_lane=cron_lane,
    )


def _origin(plan: RunPlan, occurrence: Occurrence) -> dict[str, Any]:
    if plan.cron_id is None:
        return {}
    origin: dict[str, Any] = {"cron_id": str(plan.cron_id)}
    if occurrence.scheduled_for is not None:
        origin["scheduled_for"] = occurrence.scheduled_for.isoformat()
    return origin


def _ended(run: Run, events: list[RunEvent], places: Places) -> Changes:
    appends = runs.appends(run, events)
    for lane in places:
        appends += lanes.appends(lane, lanes.decide(lane, lanes.LeaveLane(run_id=run.run_id)))
    return Changes(appends=appends)
