"""Runs as they are now. The ledger keeps those that were deleted or undone."""

from contracts.events import (
    LaneChanged,
    RunCancelRequested,
    RunDeleted,
    RunFailed,
    RunInterrupted,
    RunRequested,
    RunRolledBack,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    Settled,
)
from contracts.ledger import Recorded
from projections.rows import Row, Rows, Table, blob, maybe_micros, maybe_text, micros, seconds, text

NAME = "runs"
VERSION = 6
TABLES = (
    Table(
        "runs",
        {
            "run_id": "id",
            "thread_id": "id",
            "assistant_id": "id",
            "graph_id": "text",
            "user_id": "text",
            "cron_id": "id?",
            "scheduled_for": "second?",
            "kind": "text",
            "status": "text",  # as clients see it: interrupted from the moment it was asked to stop
            "phase": "text",  # as it is: pending, running, ended
            "hidden": "int",  # not for clients: it is being undone, or only writes a state; GONE
            "not_before": "instant?",
            "attempt": "int",
            "worker": "text",
            "metadata": "json",
            "kwargs": "json",
            "multitask_strategy": "text",
            "temporary": "flag",
            "cron_lane": "flag",
            "output": "json?",
            "error": "text?",
            "message": "text?",
            "cancel_requested": "text",
            "cancel_reason": "text?",
            "next": "json",
            "interrupts": "json",
            "checkpoint": "json?",
            "created_at": "instant",
            "updated_at": "instant",
            "started_at": "instant?",
            "ended_at": "instant?",
            "version": "int",
            "position": "int",
        },
        "run_id",
        (
            "(thread_id, hidden, created_at, run_id)",
            "(thread_id, hidden, status, created_at, run_id)",
            "(temporary, thread_id) WHERE phase != 'ended'",
            "(assistant_id) WHERE phase != 'ended'",
            "(cron_id) WHERE phase != 'ended' AND cron_lane = 1",
            "(hidden, created_at, run_id)",
            "(hidden, status, created_at, run_id)",
            "(cron_id, hidden, created_at, run_id) WHERE cron_id IS NOT NULL",
            "(cron_id, hidden, status, created_at, run_id) WHERE cron_id IS NOT NULL",
        ),
    ),
)
GONE = 2
"""Hidden because its thread is deleted; a worker has it still, and the row goes when it is over."""
STATUSES: dict[type[Settled], str] = {
    RunSucceeded: "success",
    RunFailed: "error",
    RunInterrupted: "interrupted",
    RunTimedOut: "timeout",
}


def apply(rows: Rows, recorded: Recorded) -> None:
    """Change the row of the run that the event is about."""
    body = recorded.body
    if isinstance(body, RunRequested):
        _requested(rows, recorded, body)
    elif isinstance(body, LaneChanged):
        _lane(rows, body)
    elif isinstance(body, RunDeleted | RunRolledBack):
        rows.delete("runs", recorded.stream_id.bytes)
    elif recorded.topic.startswith("run."):
        _moved(rows, recorded)


def _lane(rows: Rows, body: LaneChanged) -> None:
    if body.change != "closed" or body.thread_id is None:
        return
    at_work = [row for entry in body.in_flight if (row := rows.get("runs", entry.run_id.bytes)) is not None]
    rows.delete_where("runs", "thread_id", body.thread_id.bytes)
    for row in at_work:
        rows.put("runs", row | {"hidden": GONE})


def _requested(rows: Rows, recorded: Recorded, body: RunRequested) -> None:
    if rows.get("runs", recorded.stream_id.bytes) is None:
        rows.put("runs", row_as_requested(recorded, body))


def row_as_requested(recorded: Recorded, body: RunRequested) -> Row:
    """The row of a run of which nothing else has happened yet."""
    at = micros(recorded.meta.at)
    return {
        "run_id": recorded.stream_id.bytes,
        "thread_id": body.thread_id.bytes,
        "assistant_id": body.assistant_id.bytes,
        "graph_id": body.graph_id,
        "user_id": body.user_id,
        "cron_id": blob(body.cron_id),
        "scheduled_for": None if body.scheduled_for is None else seconds(body.scheduled_for),
        "kind": body.kind,
        "status": "pending",
        "phase": "pending",
        "hidden": int(body.kind == "state"),
        "not_before": maybe_micros(body.not_before),
        "attempt": 0,
        "worker": "",
        "metadata": text(body.metadata),
        "kwargs": text(body.kwargs),
        "multitask_strategy": body.multitask_strategy,
        "temporary": int(body.temporary),
        "cron_lane": int(body.cron_lane),
        "output": None,
        "error": None,
        "message": None,
        "cancel_requested": "",
        "cancel_reason": None,
        "next": "[]",
        "interrupts": "{}",
        "checkpoint": None,
        "created_at": max(at, maybe_micros(body.not_before) or at),
        "updated_at": at,
        "started_at": None,
        "ended_at": None,
        "version": recorded.version,
        "position": recorded.position,
    }


def _moved(rows: Rows, recorded: Recorded) -> None:
    row = rows.get("runs", recorded.stream_id.bytes)
    if row is None or row["position"] >= recorded.position:
        return
    if row["hidden"] == GONE and isinstance(recorded.body, Settled):
        rows.delete("runs", recorded.stream_id.bytes)
        return
    at = micros(recorded.meta.at)
    row |= {"version": recorded.version, "position": recorded.position, "updated_at": at}
    match recorded.body:
        case RunStarted() as body:
            row |= {"phase": "running", "attempt": body.attempt, "worker": body.worker}
            if not row["cancel_requested"]:
                row["status"] = "running"
            row["started_at"] = row["started_at"] or at
        case RunCancelRequested() as body:
            row |= {"cancel_requested": body.action, "cancel_reason": body.reason}
            row |= {"hidden": 1} if body.action == "rollback" else {"status": "interrupted"}
        case Settled() as body:
            _settled(row, body, at)
    rows.put("runs", row)


def _settled(row: Row, body: Settled, at: int) -> None:
    row |= {
        "status": STATUSES[type(body)],
        "phase": "ended",
        "ended_at": at,
        "output": maybe_text(body.output if body.result is None else body.result),
        "next": text(body.next),
        "interrupts": text(body.interrupts),
        "checkpoint": maybe_text(body.checkpoint),
    }
    if body.failure is not None:
        row |= body.failure
    elif isinstance(body, RunInterrupted):
        row["cancel_reason"] = body.reason or row["cancel_reason"]
