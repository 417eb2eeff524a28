"""Rows of the read models to the objects that clients see."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from contracts.ledger import Payload, Recorded

Row = dict[str, Any]
BlobOf = Callable[[str], bytes | None]
_decode = msgspec.json.decode
_payload = msgspec.json.Decoder(Payload)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(microseconds: int | None) -> str | None:
    """An instant as clients see it: explicit offset, microseconds when there are any."""
    if microseconds is None:
        return None
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat()


def uuid(value: bytes | None) -> str | None:
    """An id as clients see it."""
    return None if value is None else str(UUID(bytes=value))


def value_of(stored: str | None, blob_of: BlobOf) -> Any:
    """The value of a stored payload; None when there is none or it was erased."""
    if stored is None:
        return None
    payload = _payload.decode(stored)
    if payload.sha256:
        data = blob_of(payload.sha256)
        return None if data is None else _decode(data)
    return None if payload.inline is msgspec.UNSET else _decode(payload.inline)


def cron(row: Row, blob_of: BlobOf) -> Row:
    """A Cron object."""
    return {
        "cron_id": uuid(row["cron_id"]),
        "assistant_id": uuid(row["assistant_id"]),
        "thread_id": uuid(row["thread_id"]),
        "user_id": row["user_id"],
        "schedule": row["schedule"],
        "timezone": row["timezone"],
        "end_time": instant(row["end_at"]),
        "next_run_date": instant(row["next_at"]),
        "enabled": bool(row["enabled"]),
        "on_run_completed": row["on_run_completed"],
        "metadata": _decode(row["metadata"]),
        "payload": value_of(row["payload"], blob_of),
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
    }


def run(row: Row, blob_of: BlobOf) -> Row:
    """A Run object."""
    kwargs = value_of(row["kwargs"], blob_of) or {}
    kwargs.pop("updates", None)
    error = row["error"]
    return {
        "run_id": uuid(row["run_id"]),
        "thread_id": uuid(row["thread_id"]),
        "assistant_id": uuid(row["assistant_id"]),
        "user_id": row["user_id"],
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
        "status": row["status"],
        "metadata": _decode(row["metadata"]),
        "kwargs": kwargs,
        "multitask_strategy": row["multitask_strategy"],
        "langsmith_session_name": None,
        "input": kwargs.get("input"),
        "output": value_of(row["output"], blob_of),
        "error_message": None if error is None else f"{error}: {row['message']}",
        "config": kwargs.get("config") or {},
        "context": kwargs.get("context") or {},
        "cancel_reason": row["cancel_reason"],
    }


def created(cron_row: Row, run_row: Row | None, warnings: list[str], blob_of: BlobOf) -> Row:
    """The answer to a cron's creation: every key of its first run and every key of the cron."""
    shown = cron(cron_row, blob_of)
    if run_row is None:
        absent = ("input", "output", "error_message")
        first: Row = {"run_id": None, "status": "pending", **dict.fromkeys(absent)}
        first |= {"config": {}, "context": {}, "kwargs": None, "multitask_strategy": None}
    else:
        first = run(run_row, blob_of)
    whole = {**first, **shown, "cron": shown, "ledger": {"warnings": warnings}}
    if run_row is not None:
        whole["thread_id"] = first["thread_id"]
    return whole


def thread(row: Row, blob_of: BlobOf) -> Row:
    """A Thread object."""
    return {
        "thread_id": uuid(row["thread_id"]),
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
        "state_updated_at": instant(row["state_updated_at"]),
        "metadata": _decode(row["metadata"]),
        "config": {},
        "status": row["status"],
        "values": value_of(row["values"], blob_of),
        "interrupts": _decode(row["interrupts"]),
        "error": None if row["error"] is None else _decode(row["error"]),
        "user_id": row["user_id"],
    }


def state(row: Row, blob_of: BlobOf) -> Row:
    """A ThreadState: what the last settled run left."""
    interrupts = _decode(row["interrupts"])
    checkpoint = _checkpoint(row["checkpoint"])
    parent = _checkpoint(row["parent_checkpoint"])
    return {
        "values": value_of(row["values"], blob_of) or {},
        "next": _decode(row["next"]),
        "tasks": value_of(row["tasks"], blob_of) or [],
        "metadata": _decode(row["checkpoint_metadata"]) if checkpoint else None,
        "created_at": row["checkpoint_at"],
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [entry for entries in interrupts.values() for entry in entries],
        "checkpoint_id": checkpoint["checkpoint_id"] if checkpoint else None,
        "parent_checkpoint_id": parent["checkpoint_id"] if parent else None,
    }


def state_written(row: Row) -> Row:
    """The answer to a write into a thread's state: the checkpoint that it made."""
    place = _checkpoint(row["checkpoint"])
    assert place is not None
    return {"checkpoint": place, "configurable": place, "checkpoint_id": place["checkpoint_id"]}


def assistant(row: Row) -> Row:
    """An Assistant object."""
    shown = assistant_version(row)
    return {**shown, "updated_at": instant(row["updated_at"]), "user_id": row["user_id"]}


def assistant_version(row: Row) -> Row:
    """An AssistantVersion object."""
    return {
        "assistant_id": uuid(row["assistant_id"]),
        "graph_id": row["graph_id"],
        "name": row["name"],
        "description": row["description"],
        "config": _decode(row["config"]),
        "context": _decode(row["context"]),
        "metadata": _decode(row["metadata"]),
        "version": row["version"],
        "created_at": instant(row["created_at"]),
    }


def occurrence(row: Row) -> Row:
    """An occurrence, or a stretch of missed ones (`count`, `until`)."""
    due = row["scheduled_for"] * 1_000_000
    fired = row["status"] == "fired"
    late_ms = (row["fired_at"] - due) / 1000 if fired and row["kind"] != "first" else None
    return {
        "scheduled_for": instant(due),
        "until": instant(None if row["until"] is None else row["until"] * 1_000_000),
        "count": row["count"],
        "status": row["status"],
        "reason": row["reason"] or None,
        "kind": row["kind"] or None,
        "fired_at": instant(row["fired_at"]) if fired else None,
        "lateness_ms": late_ms,
        "run_id": uuid(row["run_id"]),
        "thread_id": uuid(row["thread_id"]),
        "local": row["local"] or None,
        "revision": row["revision"],
        "tzdata": row["tzdata"],
    }


def entry(recorded: Recorded, blob_of: BlobOf | None) -> Row:
    """One event of the ledger; with `blob_of`, large values are put in."""
    data = _decode(msgspec.json.encode(recorded.body))
    if blob_of is not None:
        data = _filled(data, blob_of)
    return {
        "position": str(recorded.position),
        "id": f"{recorded.stream_id}.{recorded.version}",
        "type": recorded.topic,
        "stream": str(recorded.stream_id),
        "version": recorded.version,
        "at": recorded.meta.at.isoformat(),
        "actor": recorded.meta.actor,
        "cause": recorded.meta.cause,
        "corr": recorded.meta.corr,
        "data": data,
    }


def _filled(data: Row, blob_of: BlobOf) -> Row:
    filled = dict(data)
    for name, value in data.items():
        if isinstance(value, dict) and value.keys() == {"sha256", "size"}:
            stored = blob_of(value["sha256"])
            filled[name] = {**value, "inline": None if stored is None else _decode(stored)}
    return filled


def _checkpoint(stored: str | None) -> Row | None:
    return None if stored is None else {"checkpoint_ns": "", **_decode(stored)}
