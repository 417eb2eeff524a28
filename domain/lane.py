"""The lane of a thread, or of a cron: one run at a time, in which order. Nothing else in the system decides order."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, assert_never
from uuid import UUID

import msgspec
from msgspec.structs import replace

from contracts.events import LaneChanged, LaneRun, Stopping
from contracts.ledger import Append, Recorded
from domain.changes import appended
from domain.errors import CronBusy, LaneFull, RunNotActive, ThreadBusy, ThreadNotFound

MultitaskStrategy = Literal["reject", "enqueue", "interrupt", "rollback"]
TAKES_PLACES = frozenset({"interrupt", "rollback"})
"""Strategies for which it matters which runs of the line a worker has."""


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """The line of the runs in flight of a thread, or of a cron; the first is the one that may run.

    With its id alone (one of the two) it is a lane that nobody has joined yet.
    """

    thread_id: UUID | None = None
    cron_id: UUID | None = None  # of a cron whose runs have a thread each, and wait for each other
    version: int = 0
    in_flight: tuple[LaneRun, ...] = ()
    closed: bool = False

    @property
    def owner_id(self) -> UUID:
        """The thread, or the cron."""
        owner_id = self.thread_id or self.cron_id
        assert owner_id is not None
        return owner_id

    @property
    def stream_id(self) -> UUID:
        """Where the lane's events are."""
        return lane_id_of(self.owner_id)

    @property
    def head(self) -> UUID | None:
        """The run that may run."""
        return self.in_flight[0].run_id if self.in_flight else None

    @property
    def is_busy(self) -> bool:
        """True while a run is in flight that nobody has asked to stop."""
        return any(not entry.stopping for entry in self.in_flight)

    def holds(self, run_id: UUID) -> bool:
        """True while the run waits or runs here."""
        return any(entry.run_id == run_id for entry in self.in_flight)

    def may_start(self, run_id: UUID, now: datetime) -> bool:
        """Whether the run is at the head, and due. This alone says who may run."""
        return self.head == run_id and is_due(self.in_flight[0], now)


class JoinLane(msgspec.Struct, frozen=True, kw_only=True, tag="lane.join"):
    """Let a run take its place. `limit` bounds how many may wait behind the one that runs.

    `started` are the runs of the line that a worker has: by interrupt and rollback they are asked to stop and
    keep their place until they have; all others leave at once. `not_before` delays the run: whoever comes
    before that instant goes first. `also` is the stream of the other lane that it joins, if there is one.
    """

    run_id: UUID
    strategy: MultitaskStrategy = "enqueue"
    limit: int | None = None
    started: frozenset[UUID] = frozenset()
    now: datetime
    not_before: datetime | None = None
    writes: bool = False
    also: UUID | None = None


class StartInLane(msgspec.Struct, frozen=True, kw_only=True, tag="lane.start"):
    """A worker claims the run: its delay is over, so that nobody goes before it any more."""

    run_id: UUID
    now: datetime


class StopInLane(msgspec.Struct, frozen=True, kw_only=True, tag="lane.stop"):
    """A run that a worker has was asked to stop; it keeps its place until it has."""

    run_id: UUID
    action: Literal["interrupt", "rollback"]


class LeaveLane(msgspec.Struct, frozen=True, kw_only=True, tag="lane.leave"):
    """A run ended, or will never start. Saying it twice changes nothing."""

    run_id: UUID


class CloseLane(msgspec.Struct, frozen=True, kw_only=True, tag="lane.close"):
    """The thread is deleted: let nobody in again. `started`, which a worker has, keep their place until they stop."""

    started: frozenset[UUID] = frozenset()


class OpenLane(msgspec.Struct, frozen=True, kw_only=True, tag="lane.open"):
    """The id of a deleted thread has a new life: let runs in again."""


LaneCommand = JoinLane | StartInLane | StopInLane | LeaveLane | CloseLane | OpenLane


class Displaced(msgspec.Struct, frozen=True):
    """A run that is to stop because another one takes its place."""

    run_id: UUID
    action: Literal["interrupt", "rollback"]


def lane_id_of(owner_id: UUID) -> UUID:
    """The stream of a thread's or a cron's lane. It keeps the id's time prefix, so that the index stays local."""
    digest = hashlib.blake2b(owner_id.bytes + b"/lane", digest_size=10).digest()
    return UUID(bytes=owner_id.bytes[:6] + digest)


def lane_of(empty: Lane, newest: Recorded | None) -> Lane:
    """The lane as its newest event left it: each carries the whole state. Nobody has joined `empty` without one."""
    if newest is None:
        return empty
    body = newest.body
    assert isinstance(body, LaneChanged)
    return replace(empty, version=newest.version, in_flight=body.in_flight, closed=body.closed)


def decide(lane: Lane, command: LaneCommand) -> list[LaneChanged]:
    """The events that the command leads to; none when it changes nothing. Raises Refused."""
    match command:
        case JoinLane():
            return _join(lane, command)
        case StartInLane():
            return _start(lane, command)
        case StopInLane():
            return _stop(lane, command)
        case LeaveLane():
            return _leave(lane, command)
        case CloseLane():
            return _close(lane, command)
        case OpenLane():
            return _open(lane)
        case _:
            assert_never(command)


def evolve(lane: Lane, event: LaneChanged) -> Lane:
    """The lane after the event."""
    return replace(lane, version=lane.version + 1, in_flight=event.in_flight, closed=event.closed)


def evolved(lane: Lane, events: Sequence[LaneChanged]) -> Lane:
    """The lane after all of them."""
    for event in events:
        lane = evolve(lane, event)
    return lane


def appends(lane: Lane, events: Sequence[LaneChanged]) -> tuple[Append, ...]:
    """The append that stores the events, if there are any."""
    return appended(lane.stream_id, lane.version, events)


def stops(lane: Lane, command: JoinLane) -> tuple[Displaced, ...]:
    """The runs that must stop when the command is carried out, in the order of the line.

    One that was asked to stop before is on its way: its first reason stays.
    """
    if command.strategy not in TAKES_PLACES or lane.holds(command.run_id):
        return ()
    action: Literal["interrupt", "rollback"] = "interrupt" if command.strategy == "interrupt" else "rollback"
    return tuple(Displaced(entry.run_id, action) for entry in lane.in_flight if not entry.stopping)


def is_due(entry: LaneRun, now: datetime) -> bool:
    """Whether the run may start by the clock."""
    return entry.not_before is None or entry.not_before <= now


def _join(lane: Lane, command: JoinLane) -> list[LaneChanged]:
    if lane.closed:
        raise ThreadNotFound(f"Thread {lane.thread_id} not found")
    if lane.holds(command.run_id):
        return []
    if lane.is_busy and command.strategy == "reject":
        if lane.cron_id is not None:
            raise CronBusy("An earlier run of the cron is not over, and its `overlap` is 'skip'.")
        raise ThreadBusy(
            "Thread is already running a task. Wait for it to finish or choose the multitask strategy 'enqueue'."
        )
    staying = _staying(lane, command)
    if command.limit is not None and len(staying) > command.limit:
        where = "on this thread" if lane.cron_id is None else "of this cron"
        raise LaneFull(f"{command.limit} runs wait {where} already")
    entry = LaneRun(command.run_id, command.not_before, writes=command.writes, also=command.also)
    line = _with(staying, entry, command.now)
    return [_changed(lane, "joined", command.run_id, line)]


def _staying(lane: Lane, command: JoinLane) -> tuple[LaneRun, ...]:
    hit: dict[UUID, Stopping] = {stop.run_id: stop.action for stop in stops(lane, command)}
    return tuple(
        replace(entry, stopping=hit.get(entry.run_id, entry.stopping))
        for entry in lane.in_flight
        if entry.run_id not in hit or entry.run_id in command.started
    )


def _with(line: tuple[LaneRun, ...], entry: LaneRun, now: datetime) -> tuple[LaneRun, ...]:
    """The line with the entry behind everybody who is due when it is, or sooner."""
    due_at = max(now, entry.not_before or now)
    place = next((n for n, other in enumerate(line) if not is_due(other, due_at)), len(line))
    return (*line[:place], entry, *line[place:])


def _start(lane: Lane, command: StartInLane) -> list[LaneChanged]:
    """Raises RunNotActive when it is not its turn.

    Without a delay the head can't be displaced, and the claim's own version says everything. With one it could,
    before the claim and after it: whoever joins has another clock, on which the delay may not be over yet.
    """
    if not lane.may_start(command.run_id, command.now):
        raise RunNotActive(f"run {command.run_id} is not to start: it is not its turn")
    head, *others = lane.in_flight
    if head.not_before is None:
        return []
    return [_changed(lane, "started", command.run_id, (replace(head, not_before=None), *others))]


def _stop(lane: Lane, command: StopInLane) -> list[LaneChanged]:
    entry = next((entry for entry in lane.in_flight if entry.run_id == command.run_id), None)
    if entry is None or entry.stopping:
        return []
    line = tuple(
        replace(other, stopping=command.action) if other is entry else other for other in lane.in_flight
    )
    return [_changed(lane, "stopping", command.run_id, line)]


def _leave(lane: Lane, command: LeaveLane) -> list[LaneChanged]:
    if not lane.holds(command.run_id):
        return []
    line = tuple(entry for entry in lane.in_flight if entry.run_id != command.run_id)
    return [_changed(lane, "left", command.run_id, line)]


def _changed(
    lane: Lane,
    change: Literal["joined", "started", "left", "stopping"],
    run_id: UUID,
    line: tuple[LaneRun, ...],
) -> LaneChanged:
    return LaneChanged(
        thread_id=lane.thread_id,
        cron_id=lane.cron_id,
        change=change,
        run_id=run_id,
        in_flight=line,
        closed=lane.closed,
    )


def _close(lane: Lane, command: CloseLane) -> list[LaneChanged]:
    if lane.closed:
        return []
    line = tuple(
        replace(entry, stopping=entry.stopping or "interrupt")
        for entry in lane.in_flight
        if entry.run_id in command.started
    )
    return [LaneChanged(thread_id=lane.thread_id, change="closed", in_flight=line, closed=True)]


def _open(lane: Lane) -> list[LaneChanged]:
    """Raises ThreadBusy while runs of the former life stop: their end must not be taken for one of the new life."""
    if not lane.closed:
        return []
    if lane.in_flight:
        raise ThreadBusy("Runs of the deleted thread have not stopped yet; try again.")
    return [LaneChanged(thread_id=lane.thread_id, change="opened")]
