"""How a run ended, as the event that says so. Pure."""

from typing import Any

import msgspec

from contracts.codec import pack
from contracts.events import (
    CheckpointRef,
    RunFailed,
    RunInterrupted,
    RunRolledBack,
    RunSucceeded,
    RunTimedOut,
)
from contracts.frames import RunEnded
from contracts.ledger import Blob
from domain.run import Outcome, Run
from services.worker.job import Stop


class Ending(msgspec.Struct, frozen=True):
    """An outcome, and the large values that are stored beside it."""

    outcome: Outcome
    blobs: tuple[Blob, ...] = ()


def ending_of(run: Run, ended: RunEnded | None, stop: Stop | None, limit_s: float) -> Ending:
    """The outcome of the run's newest attempt.

    `ended` is None when its child was killed because of `stop`. A graph that came to its end before the
    stop reached it has the outcome that it came to.
    """
    fields, blobs = _left_by(ended)
    common = {
        "thread_id": run.request.thread_id,
        "cron_id": run.request.cron_id,
        "attempt": run.attempt,
        **fields,
    }
    return Ending(_outcome(common, ended, stop, limit_s), blobs)


def undone(run: Run) -> Ending:
    """The outcome of a run whose checkpoints were taken back."""
    return Ending(RunRolledBack(thread_id=run.request.thread_id, cron_id=run.request.cron_id))


def ended_of(run_id: str, state: dict[str, Any]) -> RunEnded:
    """What a ThreadState tells of a run whose child is gone."""
    return RunEnded(
        run_id=run_id,
        status="cancelled",
        values=msgspec.Raw(msgspec.json.encode(state["values"])),
        next=state["next"],
        interrupts={task["id"]: task["interrupts"] for task in state["tasks"] if task["interrupts"]},
        tasks=msgspec.Raw(msgspec.json.encode(state["tasks"])),
        checkpoint=state["checkpoint"],
        parent_checkpoint=state["parent_checkpoint"],
        metadata=state["metadata"] or {},
        created_at=state["created_at"],
    )


def failure(run: Run, error: str, message: str) -> Ending:
    """The outcome of a run that could not be given to its graph."""
    failed = RunFailed(
        thread_id=run.request.thread_id,
        cron_id=run.request.cron_id,
        attempt=run.attempt,
        error=error,
        message=message,
    )
    return Ending(failed)


def _outcome(common: dict[str, Any], ended: RunEnded | None, stop: Stop | None, limit_s: float) -> Outcome:
    if ended is not None and ended.status == "success":
        return RunSucceeded(**common)
    if ended is not None and ended.status == "error":
        shown = ended.failure
        assert shown is not None
        return RunFailed(**common, error=shown.error, message=shown.message)
    if stop is not None and stop.kind == "timeout":
        return RunTimedOut(**common, limit_s=limit_s)
    return RunInterrupted(**common, reason=stop.reason if stop else "")


def _left_by(ended: RunEnded | None) -> tuple[dict[str, Any], tuple[Blob, ...]]:
    """The fields that tell of the graph's state, empty when it is not known."""
    if ended is None or ended.values is msgspec.UNSET or ended.checkpoint is None:
        return {}, ()
    output, output_blobs = pack(ended.values)
    tasks, tasks_blobs = pack([] if ended.tasks is msgspec.UNSET else ended.tasks)
    result, result_blobs = (None, ()) if ended.output is msgspec.UNSET else pack(ended.output)
    fields = {
        "output": output,
        "result": result,
        "tasks": tasks,
        "next": tuple(ended.next),
        "interrupts": ended.interrupts,
        "checkpoint": _reference(ended.checkpoint),
        "parent_checkpoint": _reference(ended.parent_checkpoint),
        "checkpoint_metadata": ended.metadata or {},
        "checkpoint_at": ended.created_at,
    }
    return fields, (*output_blobs, *result_blobs, *tasks_blobs)


def _reference(checkpoint: dict[str, str] | None) -> CheckpointRef | None:
    return None if checkpoint is None else msgspec.convert(checkpoint, CheckpointRef)
