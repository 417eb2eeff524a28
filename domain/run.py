"""A run: its status machine. Order between runs is the lane's affair."""

from collections.abc import Iterable
from typing import Literal, assert_never
from uuid import UUID

import msgspec

from contracts.events import (
    OccurrenceMissed,
    OccurrenceSkipped,
    RunCancelRequested,
    RunDeleted,
    RunEvent,
    RunFailed,
    RunInterrupted,
    RunReleased,
    RunRequested,
    RunRolledBack,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    Settled,
    WebhookRequested,
)
from contracts.ledger import Append, Body, Recorded
from domain.changes import appended
from domain.errors import MustRollBack, RunNotActive, RunNotFound
from domain.identity import delivery_id_of
from domain.lane import Lane

RunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
Outcome = RunSucceeded | RunFailed | RunInterrupted | RunTimedOut | RunRolledBack
MAX_LOSSES = 3
"""How often a run's worker or child may be lost before it fails; an error of the graph is an outcome at once."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as its events left it."""

    run_id: UUID
    version: int
    request: RunRequested
    status: RunStatus = "pending"
    attempt: int = 0
    losses: int = 0  # attempts that were lost, excused ones not counted
    released: bool = False  # its worker gave it back
    worker: str = ""
    cancel: Literal["", "interrupt", "rollback"] = ""
    cancel_reason: str = ""
    gone: bool = False

    @property
    def is_active(self) -> bool:
        """True until it has an outcome."""
        return self.status in ("pending", "running") and not self.gone

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Where it stands until it has ended: the lanes of its thread and of its cron, one of them, or none.

        They are empty, to be looked up.
        """
        request = self.request
        thread = () if request.temporary else (Lane(thread_id=request.thread_id),)
        return (*thread, Lane(cron_id=request.cron_id)) if request.cron_lane else thread


class ClaimRun(msgspec.Struct, frozen=True, kw_only=True, tag="run.claim"):
    """Claim it for a worker. `lost` says why a former claim is void; without it a claimed run is refused.

    `excused`: it was lost to no fault of its own, and so as often as it takes.
    """

    worker: str
    lost: str = ""
    excused: bool = False


class ReleaseRun(msgspec.Struct, frozen=True, kw_only=True, tag="run.release"):
    """Give it back, if `attempt` is still the newest one: its worker stops."""

    attempt: int


class SettleRun(msgspec.Struct, frozen=True, kw_only=True, tag="run.settle"):
    """Give it its outcome, if `attempt` is still the newest one (0: it never started).

    Once it was asked to stop it is interrupted, however it came to its end meanwhile; one that is to be
    rolled back takes no other outcome: MustRollBack.
    """

    attempt: int
    outcome: Outcome


class CancelRun(msgspec.Struct, frozen=True, kw_only=True, tag="run.cancel"):
    """Stop it: at once when it has not started, by its worker when it runs."""

    action: Literal["interrupt", "rollback"] = "interrupt"
    reason: str = ""


class DeleteRun(msgspec.Struct, frozen=True, kw_only=True, tag="run.delete"):
    """Show it no longer. It must have ended."""


RunCommand = ClaimRun | ReleaseRun | SettleRun | CancelRun | DeleteRun


def run_of(run_id: UUID, events: Iterable[Recorded]) -> Run | None:
    """The run that the events of its stream tell of; None when there is none, or it was skipped."""
    run: Run | None = None
    for recorded in events:
        run = evolve(run, run_id, recorded.body, recorded.version)
    return run


def is_run(newest: Body) -> bool:
    """Whether the stream of an occurrence is that of a run, by its newest event: it may only tell why there is none."""
    return not isinstance(newest, OccurrenceSkipped | OccurrenceMissed)


def decide(run: Run | None, command: RunCommand) -> list[RunEvent]:
    """The events that the command leads to; none when it changes nothing. Raises Refused."""
    if run is None or run.gone:
        raise RunNotFound("Run not found")
    match command:
        case ClaimRun():
            return _claim(run, command)
        case ReleaseRun():
            return _release(run, command)
        case SettleRun():
            return _settle(run, command)
        case CancelRun():
            return _cancel(run, command)
        case DeleteRun():
            return _delete(run)
        case _:
            assert_never(command)


def evolve(run: Run | None, run_id: UUID, event: Body, version: int) -> Run | None:
    """The run after the event that makes its stream that long."""
    if isinstance(event, RunRequested):
        return Run(run_id=run_id, version=version, request=event)
    if run is None or isinstance(event, OccurrenceSkipped | OccurrenceMissed):
        return None
    return msgspec.structs.replace(run, version=version, **_changes(run, event))


def appends(run: Run, events: Iterable[Body]) -> tuple[Append, ...]:
    """The append that stores the events, if there are any; with an end, whoever wants to hear of it is told."""
    bodies = tuple(events)
    stored = appended(run.run_id, run.version, bodies)
    if not run.request.webhook or not any(map(is_outcome, bodies)):
        return stored
    request = run.request
    told = WebhookRequested(
        run_id=run.run_id, thread_id=request.thread_id, cron_id=request.cron_id, url=request.webhook
    )
    return (*stored, Append(delivery_id_of(run.run_id), 0, (told,)))


def _changes(run: Run, event: Body) -> dict[str, object]:
    match event:
        case RunStarted():
            losses = run.losses + (1 if event.lost and not event.excused else 0)
            claim = {"attempt": event.attempt, "worker": event.worker, "losses": losses}
            return {"status": "running", "released": False, **claim}
        case RunReleased():
            return {"released": True}
        case RunCancelRequested():
            return {"cancel": event.action, "cancel_reason": event.reason}
        case RunSucceeded():
            return {"status": "success"}
        case RunFailed():
            return {"status": "error"}
        case RunInterrupted():
            return {"status": "interrupted"}
        case RunTimedOut():
            return {"status": "timeout"}
        case RunDeleted() | RunRolledBack():
            return {"gone": True}
        case _:
            return {}


def _claim(run: Run, command: ClaimRun) -> list[RunEvent]:
    if not run.is_active:
        raise RunNotActive(f"run {run.run_id} is not to be claimed")
    if run.status == "running" and not command.lost:
        raise RunNotActive(f"run {run.run_id} is claimed by {run.worker}")
    excused = command.excused or run.released
    losses = run.losses + (1 if command.lost and not excused else 0)
    if losses >= MAX_LOSSES and not run.cancel:  # a stop is carried out however often it takes
        return [_given_up(run, losses, command.lost)]
    return [
        RunStarted(
            thread_id=run.request.thread_id,
            cron_id=run.request.cron_id,
            attempt=run.attempt + 1,
            worker=command.worker,
            lost=command.lost,
            excused=excused,
        )
    ]


def _given_up(run: Run, losses: int, lost: str) -> RunFailed:
    return RunFailed(
        thread_id=run.request.thread_id,
        cron_id=run.request.cron_id,
        attempt=run.attempt,
        error="WorkerLost",
        message=f"the run was lost {losses} times, lastly: {lost or 'unknown'}",
    )


def _release(run: Run, command: ReleaseRun) -> list[RunEvent]:
    if not run.is_active or command.attempt != run.attempt or run.released:
        return []
    thread_id, cron_id = run.request.thread_id, run.request.cron_id
    return [RunReleased(thread_id=thread_id, cron_id=cron_id, attempt=run.attempt)]


def _settle(run: Run, command: SettleRun) -> list[RunEvent]:
    if not run.is_active or command.attempt != run.attempt:
        raise RunNotActive(f"run {run.run_id} is settled, or attempt {command.attempt} is void")
    if run.cancel == "rollback" and not isinstance(command.outcome, RunRolledBack):
        raise MustRollBack(f"run {run.run_id} is to be rolled back")
    if run.cancel == "interrupt":
        return [_as_interrupted(run, command.outcome)]
    return [command.outcome]


def _as_interrupted(run: Run, outcome: Outcome) -> RunInterrupted:
    """The outcome of a run that was shown as interrupted from the moment on when it was asked to stop."""
    if not isinstance(outcome, Settled):
        return RunInterrupted(thread_id=outcome.thread_id, cron_id=outcome.cron_id, reason=run.cancel_reason)
    left = {name: getattr(outcome, name) for name in Settled.__struct_fields__}
    return RunInterrupted(**left, reason=run.cancel_reason)


def _cancel(run: Run, command: CancelRun) -> list[RunEvent]:
    if not run.is_active or run.cancel:
        raise RunNotActive("Run is not active")
    thread_id, cron_id = run.request.thread_id, run.request.cron_id
    requested = RunCancelRequested(
        thread_id=thread_id, cron_id=cron_id, action=command.action, reason=command.reason
    )
    if run.status == "running":
        return [requested]
    if command.action == "rollback":
        return [requested, RunRolledBack(thread_id=thread_id, cron_id=cron_id)]
    return [requested, RunInterrupted(thread_id=thread_id, cron_id=cron_id, reason=command.reason)]


def _delete(run: Run) -> list[RunEvent]:
    if run.is_active:
        raise RunNotActive("Run must end before it is deleted")
    return [RunDeleted(thread_id=run.request.thread_id, cron_id=run.request.cron_id)]


def is_outcome(event: Body) -> bool:
    """True for the one event that ends a run."""
    return isinstance(event, Settled | RunRolledBack)
