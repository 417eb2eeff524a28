"""The lane of a thread: one run at a time, in which order. Nothing else in the system decides order."""

import hashlib
from collections.abc import Sequence
from typing import Literal, assert_never
from uuid import UUID

import msgspec

from contracts.events import LaneChanged, LaneRun
from contracts.ledger import Append, Recorded
from domain.errors import LaneFull, NotSupported, ThreadBusy, ThreadNotFound

MultitaskStrategy = Literal["reject", "enqueue", "interrupt", "rollback"]


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """The line of a thread's runs in flight; the first is the one that may run."""

    thread_id: UUID
    version: int = 0
    in_flight: tuple[LaneRun, ...] = ()
    closed: bool = False

    @property
    def stream_id(self) -> UUID:
        """Where the lane's events are."""
        return lane_id_of(self.thread_id)

    @property
    def head(self) -> UUID | None:
        """The run that may run."""
        return self.in_flight[0].run_id if self.in_flight else None

    def holds(self, run_id: UUID) -> bool:
        """True while the run waits or runs here."""
        return any(entry.run_id == run_id for entry in self.in_flight)


class JoinLane(msgspec.Struct, frozen=True, kw_only=True, tag="lane.join"):
    """Let a run take its place. `limit` bounds how many may wait behind the one that runs."""

    run_id: UUID
    strategy: MultitaskStrategy = "enqueue"
    limit: int | None = None


class LeaveLane(msgspec.Struct, frozen=True, kw_only=True, tag="lane.leave"):
    """A run ended, or will never start. Saying it twice changes nothing."""

    run_id: UUID


class CloseLane(msgspec.Struct, frozen=True, kw_only=True, tag="lane.close"):
    """The thread is deleted: empty the line and let nobody in again."""


LaneCommand = JoinLane | LeaveLane | CloseLane


def lane_id_of(thread_id: UUID) -> UUID:
    """The stream of a thread's lane. It keeps the thread's time prefix, so that the index stays local."""
    digest = hashlib.blake2b(thread_id.bytes + b"/lane", digest_size=10).digest()
    return UUID(bytes=thread_id.bytes[:6] + digest)


def lane_of(thread_id: UUID, newest: Recorded | None) -> Lane:
    """The lane as its newest event left it: each carries the whole state."""
    if newest is None:
        return Lane(thread_id=thread_id)
    body = newest.body
    assert isinstance(body, LaneChanged)
    return Lane(thread_id=thread_id, version=newest.version, in_flight=body.in_flight, closed=body.closed)


def decide(lane: Lane, command: LaneCommand) -> list[LaneChanged]:
    """The events that the command leads to; none when it changes nothing."""
    match command:
        case JoinLane():
            return _join(lane, command)
        case LeaveLane():
            return _leave(lane, command)
        case CloseLane():
            return _close(lane)
        case _:
            assert_never(command)


def evolve(lane: Lane, event: LaneChanged) -> Lane:
    """The lane after the event."""
    return msgspec.structs.replace(
        lane, version=lane.version + 1, in_flight=event.in_flight, closed=event.closed
    )


def appends(lane: Lane, events: Sequence[LaneChanged]) -> tuple[Append, ...]:
    """The append that stores the events, if there are any."""
    return (Append(lane.stream_id, lane.version, tuple(events)),) if events else ()


def _join(lane: Lane, command: JoinLane) -> list[LaneChanged]:
    if lane.closed:
        raise ThreadNotFound(f"Thread {lane.thread_id} not found")
    if lane.holds(command.run_id):
        return []
    if command.strategy in ("interrupt", "rollback"):
        raise NotSupported(f"multitask_strategy '{command.strategy}' is not supported yet")
    if lane.in_flight and command.strategy == "reject":
        raise ThreadBusy(
            "Thread is already running a task. Wait for it to finish or choose the multitask strategy 'enqueue'."
        )
    if command.limit is not None and len(lane.in_flight) > command.limit:
        raise LaneFull(f"{command.limit} runs wait on this thread already")
    line = (*lane.in_flight, LaneRun(command.run_id))
    return [LaneChanged(thread_id=lane.thread_id, change="joined", run_id=command.run_id, in_flight=line)]


def _leave(lane: Lane, command: LeaveLane) -> list[LaneChanged]:
    if not lane.holds(command.run_id):
        return []
    line = tuple(entry for entry in lane.in_flight if entry.run_id != command.run_id)
    return [
        LaneChanged(
            thread_id=lane.thread_id,
            change="left",
            run_id=command.run_id,
            in_flight=line,
            closed=lane.closed,
        )
    ]


def _close(lane: Lane) -> list[LaneChanged]:
    if lane.closed:
        return []
    return [LaneChanged(thread_id=lane.thread_id, change="closed", closed=True)]
