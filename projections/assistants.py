"""Assistants as they are now, and each of their versions."""

from typing import Any

import msgspec

from contracts.events import (
    AssistantCreated,
    AssistantDeleted,
    AssistantUpdated,
    AssistantVersionChosen,
)
from contracts.ledger import Recorded
from projections.rows import Row, Rows, Table, micros, text

NAME = "assistants"
VERSION = 2
FIELDS = {
    "graph_id": "TEXT NOT NULL",
    "name": "TEXT NOT NULL",
    "description": "TEXT",
    "config": "TEXT NOT NULL",
    "context": "TEXT NOT NULL",
    "metadata": "TEXT NOT NULL",
}
"""What a version says; the assistant itself has those of the version in force."""
JSON = frozenset({"config", "context", "metadata"})
TABLES = (
    Table(
        "assistants",
        {
            "assistant_id": "BLOB",
            **FIELDS,
            "version": "INTEGER NOT NULL",  # the one in force
            "system": "INTEGER NOT NULL",
            "user_id": "TEXT NOT NULL",
            "created_at": "INTEGER NOT NULL",
            "updated_at": "INTEGER NOT NULL",
            "position": "INTEGER NOT NULL",
        },
        "assistant_id",
        ("(graph_id)", "(created_at, assistant_id)"),
    ),
    Table(
        "assistant_versions",
        {
            "version_id": "BLOB",  # assistant id, then the number in four bytes
            "assistant_id": "BLOB NOT NULL",
            **FIELDS,
            "version": "INTEGER NOT NULL",
            "created_at": "INTEGER NOT NULL",
        },
        "version_id",
        ("(assistant_id, version)",),
    ),
)


def apply(rows: Rows, recorded: Recorded) -> None:
    """Change the rows of the assistant that the event is about."""
    match recorded.body:
        case AssistantCreated() as body:
            _created(rows, recorded, body)
        case AssistantUpdated() as body:
            _updated(rows, recorded, body)
        case AssistantVersionChosen() as body:
            _chosen(rows, recorded, body)
        case AssistantDeleted():
            rows.delete("assistants", recorded.stream_id.bytes)
            rows.delete_where("assistant_versions", "assistant_id", recorded.stream_id.bytes)
        case _:
            pass


def _created(rows: Rows, recorded: Recorded, body: AssistantCreated) -> None:
    key = recorded.stream_id.bytes
    if rows.get("assistants", key) is not None:
        return
    at = micros(recorded.meta.at)
    row: Row = {"assistant_id": key, "version": 1, "user_id": body.user_id, "system": int(body.system)}
    row |= {**_given(body), "created_at": at, "updated_at": at, "position": recorded.position}
    rows.put("assistants", row)
    _put_version(rows, row, at)


def _updated(rows: Rows, recorded: Recorded, body: AssistantUpdated) -> None:
    row = _fresh(rows, recorded)
    if row is None:
        return
    if body.number:
        row |= {**_given(body), "version": body.number}
        _put_version(rows, row, row["updated_at"])
    else:
        _in_step(rows, row, body)
    rows.put("assistants", row)


def _put_version(rows: Rows, row: Row, at: int) -> None:
    version_id = _version_id(row["assistant_id"], row["version"])
    shown = {name: row[name] for name in ("assistant_id", *FIELDS, "version")}
    rows.put("assistant_versions", {**shown, "version_id": version_id, "created_at": at})


def _in_step(rows: Rows, row: Row, body: AssistantUpdated) -> None:
    """A default assistant follows its project in its first version."""
    first = rows.get("assistant_versions", _version_id(row["assistant_id"], 1))
    if first is not None:
        rows.put("assistant_versions", {**first, **_given(body)})
    if row["version"] == 1:
        row |= _given(body)


def _chosen(rows: Rows, recorded: Recorded, body: AssistantVersionChosen) -> None:
    row = _fresh(rows, recorded)
    if row is None:
        return
    version = rows.get("assistant_versions", _version_id(row["assistant_id"], body.number))
    if version is not None:
        row |= {name: version[name] for name in (*FIELDS, "version")}
    rows.put("assistants", row)


def _given(body: AssistantCreated | AssistantUpdated) -> Row:
    given: dict[str, Any] = {name: getattr(body, name) for name in FIELDS}
    return {
        name: text(value) if name in JSON else value
        for name, value in given.items()
        if value is not msgspec.UNSET
    }


def _fresh(rows: Rows, recorded: Recorded) -> Row | None:
    """The assistant's row with the event's time and position, unless it is gone or has seen the event."""
    row = rows.get("assistants", recorded.stream_id.bytes)
    if row is None or row["position"] >= recorded.position:
        return None
    return row | {"updated_at": micros(recorded.meta.at), "position": recorded.position}


def _version_id(assistant_id: bytes, number: int) -> bytes:
    return assistant_id + number.to_bytes(4)
