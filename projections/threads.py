"""Threads as they are now, with the state that the last run left."""

from typing import Any

import msgspec

from contracts.events import (
    LaneChanged,
    RunEvent,
    RunInterrupted,
    RunRequested,
    RunRolledBack,
    RunSucceeded,
    Settled,
    ThreadCreated,
    ThreadDeleted,
    ThreadUpdated,
)
from contracts.ledger import Recorded
from projections import facets
from projections.rows import Row, Rows, Table, blob, maybe_text, micros, text

NAME = "threads"
VERSION = 4
TABLES = (
    Table(
        "threads",
        {
            "thread_id": "id",
            "user_id": "text",
            "metadata": "json",
            "graph_id": "text",  # of its newest run, '' before the first
            "assistant_id": "id?",  # the same
            "status": "text",
            "settled_status": "text",  # what it is when nothing is in flight
            "in_flight": "int",
            "interrupts": "json",
            "next": "json",
            "checkpoint": "json?",
            "parent_checkpoint": "json?",
            "checkpoint_metadata": "json",
            "checkpoint_at": "text?",
            "error": "json?",
            "last_run_id": "id?",
            "writes": "json",  # JSON array: runs in flight that only write its state
            "cron_id": "id?",
            "temporary": "flag",
            "created_at": "instant",
            "updated_at": "instant",
            "state_updated_at": "instant?",
            "position": "int",
            # The large ones last: what stands behind them is reached through all of their pages.
            "tasks": "json?",
            "values": "json?",
        },
        "thread_id",
        (
            "(updated_at, thread_id)",
            "(created_at, thread_id)",
            "(state_updated_at, thread_id)",
            "(status, thread_id)",
            "(status, updated_at, thread_id)",
            "(status, created_at, thread_id)",
            "(status, state_updated_at, thread_id)",
        ),
    ),
    facets.facet_table("thread_facets"),
)
COPIED = (
    "graph_id", "assistant_id", "values", "interrupts", "next", "tasks", "checkpoint_metadata", "checkpoint_at",
    "state_updated_at",
)  # fmt: skip
"""What a copied thread has of its source; its checkpoints have ids of the new thread."""


def apply(rows: Rows, recorded: Recorded) -> None:
    """Change the row of the thread that the event is about."""
    match recorded.body:
        case RunRequested() as body:
            _requested(rows, recorded, body)
        case Settled() as body:
            _settled(rows, recorded, body)
        case RunRolledBack() as body:
            _rolled_back(rows, recorded, body)
        case LaneChanged() as body:
            _lane(rows, recorded, body)
        case ThreadCreated() as body:
            _created(rows, recorded, body)
        case ThreadUpdated() as body:
            _updated(rows, recorded, body)
        case ThreadDeleted():
            _deleted(rows, recorded.stream_id.bytes)
        case _:
            pass


def _created(rows: Rows, recorded: Recorded, body: ThreadCreated) -> None:
    if rows.get("threads", recorded.stream_id.bytes) is None:
        row = _row(recorded, recorded.stream_id.bytes, body.user_id, body.metadata)
        row["cron_id"] = blob(body.cron_id)
        if body.copied_from is not None:
            _copy(row, rows.get("threads", body.copied_from.bytes))
        facets.keep(rows, "thread_facets", row["thread_id"], None, row["metadata"])
        rows.put("threads", row)


def _deleted(rows: Rows, thread_id: bytes) -> None:
    row = rows.get("threads", thread_id)
    if row is not None:
        facets.keep(rows, "thread_facets", thread_id, row["metadata"], None)
        rows.delete("threads", thread_id)


def _say(rows: Rows, row: Row, metadata: dict[str, Any]) -> None:
    """Let the row have these metadata."""
    before, row["metadata"] = row["metadata"], text(metadata)
    facets.keep(rows, "thread_facets", row["thread_id"], before, row["metadata"])


def _copy(row: Row, source: Row | None) -> None:
    if source is not None:
        row |= {name: source[name] for name in COPIED}
        row["status"] = row["settled_status"] = _resting(row)


def _updated(rows: Rows, recorded: Recorded, body: ThreadUpdated) -> None:
    row = _fresh(rows, recorded.stream_id.bytes, recorded)
    if row is not None:
        _say(rows, row, {**msgspec.json.decode(row["metadata"]), **body.metadata})
        row["updated_at"] = micros(recorded.meta.at)
        rows.put("threads", row)


def _requested(rows: Rows, recorded: Recorded, body: RunRequested) -> None:
    if body.temporary:
        row = _row(recorded, body.thread_id.bytes, body.user_id, body.metadata)
        row |= {"temporary": 1, "in_flight": 1, "status": "busy", "cron_id": blob(body.cron_id)}
        row |= {"graph_id": body.graph_id, "assistant_id": body.assistant_id.bytes}
        facets.keep(rows, "thread_facets", row["thread_id"], None, row["metadata"])
        rows.put("threads", row)
        return
    row_or_none = _fresh(rows, body.thread_id.bytes, recorded)
    if row_or_none is None:
        return
    row = row_or_none
    row |= {"graph_id": body.graph_id, "assistant_id": body.assistant_id.bytes}
    if body.kind == "state":
        row["writes"] = text([*msgspec.json.decode(row["writes"]), str(recorded.stream_id)])
        rows.put("threads", row)
        return
    # A look at the text first: nearly always both keys are there, and decoding costs more.
    if '"graph_id"' not in row["metadata"] or '"assistant_id"' not in row["metadata"]:
        known = msgspec.json.decode(row["metadata"])
        own = {"graph_id": body.graph_id, "assistant_id": str(body.assistant_id)}
        _say(rows, row, {**own, **known})
    row["updated_at"] = micros(recorded.meta.at)
    rows.put("threads", row)


def _lane(rows: Rows, recorded: Recorded, body: LaneChanged) -> None:
    row = None if body.thread_id is None else _fresh(rows, body.thread_id.bytes, recorded)
    if row is not None:
        row["in_flight"] = len(body.in_flight)
        row["status"] = "busy" if body.in_flight else row["settled_status"]
        row["updated_at"] = micros(recorded.meta.at)
        rows.put("threads", row)


def _settled(rows: Rows, recorded: Recorded, body: Settled) -> None:
    row = _left_by_run(rows, recorded, body)
    if row is None:
        return
    at = micros(recorded.meta.at)
    row["updated_at"] = at
    if body.output is not None:
        _state(row, body, at)
    if _is_write(row, recorded):
        if isinstance(body, RunSucceeded):
            row |= _status(row, body)
    else:
        row["last_run_id"] = recorded.stream_id.bytes
        if not _never_ran(body):
            row |= _status(row, body)
    rows.put("threads", row)


def _left_by_run(rows: Rows, recorded: Recorded, body: RunEvent) -> Row | None:
    """The row of the thread whose run has ended; a thread that was only there for the run goes with it."""
    row = _fresh(rows, body.thread_id.bytes, recorded)
    if row is not None and row["temporary"]:
        _deleted(rows, body.thread_id.bytes)
        return None
    return row


def _is_write(row: Row, recorded: Recorded) -> bool:
    """Whether the run only wrote the state: when that fails, the thread is as before."""
    writes, run_id = msgspec.json.decode(row["writes"]), str(recorded.stream_id)
    if run_id not in writes:
        return False
    row["writes"] = text([other for other in writes if other != run_id])
    return True


def _never_ran(body: Settled) -> bool:
    """Whether it was cancelled while it waited, which leaves the thread as it was."""
    return isinstance(body, RunInterrupted) and body.attempt == 0


def _rolled_back(rows: Rows, recorded: Recorded, body: RunRolledBack) -> None:
    row = _left_by_run(rows, recorded, body)
    if row is None:
        return
    _is_write(row, recorded)
    settled = _resting(row)
    row |= {"settled_status": settled, "status": "busy" if row["in_flight"] else settled, "error": None}
    row["updated_at"] = micros(recorded.meta.at)
    rows.put("threads", row)


def _state(row: Row, body: Settled, at: int) -> None:
    row |= {
        "values": text(body.output),
        "interrupts": text(body.interrupts),
        "next": text(body.next),
        "tasks": maybe_text(body.tasks),
        "checkpoint": maybe_text(body.checkpoint),
        "parent_checkpoint": maybe_text(body.parent_checkpoint),
        "checkpoint_metadata": text(body.checkpoint_metadata),
        "checkpoint_at": body.checkpoint_at,
        "state_updated_at": at,
    }


def _status(row: Row, body: Settled) -> Row:
    settled, error = ("error", text(body.failure)) if body.failure else (_resting(row), None)
    status = "busy" if row["in_flight"] else settled
    return {"settled_status": settled, "status": status, "error": error}


def _resting(row: Row) -> str:
    """The status that the state alone makes."""
    return "interrupted" if row["next"] != "[]" else "idle"


def _row(recorded: Recorded, thread_id: bytes, user_id: str, metadata: dict[str, Any]) -> Row:
    at = micros(recorded.meta.at)
    return {
        "thread_id": thread_id,
        "user_id": user_id,
        "metadata": text(metadata),
        "graph_id": "",
        "assistant_id": None,
        "status": "idle",
        "settled_status": "idle",
        "in_flight": 0,
        "interrupts": "{}",
        "next": "[]",
        "checkpoint": None,
        "parent_checkpoint": None,
        "checkpoint_metadata": "{}",
        "checkpoint_at": None,
        "error": None,
        "last_run_id": None,
        "writes": "[]",
        "cron_id": None,
        "temporary": 0,
        "created_at": at,
        "updated_at": at,
        "state_updated_at": None,
        "position": recorded.position,
        "tasks": None,
        "values": None,
    }


def _fresh(rows: Rows, key: bytes, recorded: Recorded) -> Row | None:
    """The row, unless it is gone or has seen the event already."""
    row = rows.get("threads", key)
    if row is None or row["position"] >= recorded.position:
        return None
    row["position"] = recorded.position
    return row
