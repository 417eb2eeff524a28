"""Assistants as they are now."""

import msgspec

from contracts.events import AssistantCreated, AssistantDeleted, AssistantUpdated
from contracts.ledger import Recorded
from projections.rows import Rows, Table, micros, text

NAME = "assistants"
VERSION = 1
TABLES = (
    Table(
        "assistants",
        {
            "assistant_id": "BLOB",
            "graph_id": "TEXT NOT NULL",
            "name": "TEXT NOT NULL",
            "description": "TEXT",
            "config": "TEXT NOT NULL",
            "context": "TEXT NOT NULL",
            "metadata": "TEXT NOT NULL",
            "version": "INTEGER NOT NULL",
            "system": "INTEGER NOT NULL",
            "user_id": "TEXT NOT NULL",
            "created_at": "INTEGER NOT NULL",
            "updated_at": "INTEGER NOT NULL",
            "position": "INTEGER NOT NULL",
        },
        "assistant_id",
        ("(graph_id)", "(created_at, assistant_id)"),
    ),
)


def apply(rows: Rows, recorded: Recorded) -> None:
    """Change the row of the assistant that the event is about."""
    match recorded.body:
        case AssistantCreated() as body:
            _created(rows, recorded, body)
        case AssistantUpdated() as body:
            _updated(rows, recorded, body)
        case AssistantDeleted():
            rows.delete("assistants", recorded.stream_id.bytes)
        case _:
            pass


def _created(rows: Rows, recorded: Recorded, body: AssistantCreated) -> None:
    if rows.get("assistants", recorded.stream_id.bytes) is not None:
        return
    at = micros(recorded.meta.at)
    rows.put(
        "assistants",
        {
            "assistant_id": recorded.stream_id.bytes,
            "graph_id": body.graph_id,
            "name": body.name,
            "description": body.description,
            "config": text(body.config),
            "context": text(body.context),
            "metadata": text(body.metadata),
            "version": 1,  # a client's version; a new name is none
            "system": int(body.system),
            "user_id": body.user_id,
            "created_at": at,
            "updated_at": at,
            "position": recorded.position,
        },
    )


def _updated(rows: Rows, recorded: Recorded, body: AssistantUpdated) -> None:
    row = rows.get("assistants", recorded.stream_id.bytes)
    if row is None or row["position"] >= recorded.position:
        return
    if body.name is not msgspec.UNSET:
        row["name"] = body.name
    if body.description is not msgspec.UNSET:
        row["description"] = body.description
    row |= {"updated_at": micros(recorded.meta.at), "position": recorded.position}
    rows.put("assistants", row)
