"""Assistants as they are now, and each of their versions."""

from contracts.events import AssistantCreated, AssistantDeleted, AssistantSaid, AssistantVersionChosen
from contracts.ledger import Recorded
from projections import facets
from projections.rows import Column, Row, Rows, Table, micros, text

NAME = "assistants"
VERSION = 4
FIELDS: dict[str, Column] = {
    "graph_id": "text",
    "name": "text",
    "description": "text?",
    "config": "json",
    "context": "json",
    "metadata": "json",
}
"""What a version says; the assistant itself has those of the version in force."""
JSON = frozenset({"config", "context", "metadata"})
TABLES = (
    Table(
        "assistants",
        {
            "assistant_id": "id",
            **FIELDS,
            "folded_name": "text",  # for a search in whatever case: each database folds other letters
            "version": "int",  # the one in force
            "system": "flag",
            "user_id": "text",
            "created_at": "instant",
            "updated_at": "instant",
            "position": "int",
        },
        "assistant_id",
        (
            "(created_at, assistant_id)",
            "(updated_at, assistant_id)",
            "(name, assistant_id)",
            "(graph_id, assistant_id)",
            "(graph_id, created_at, assistant_id)",
        ),
    ),
    Table(
        "assistant_versions",
        {
            "version_id": "bytes",  # assistant id, then the number in four bytes
            "assistant_id": "id",
            **FIELDS,
            "version": "int",
            "created_at": "instant",
        },
        "version_id",
        ("(assistant_id, version, version_id)",),
    ),
    facets.facet_table("assistant_facets"),
)


def apply(rows: Rows, recorded: Recorded) -> None:
    """Change the rows of the assistant that the event is about."""
    match recorded.body:
        case AssistantSaid() as body:
            _said(rows, recorded, body)
        case AssistantDeleted():
            gone = rows.get("assistants", recorded.stream_id.bytes)
            facets.keep(
                rows, "assistant_facets", recorded.stream_id.bytes, gone["metadata"] if gone else None, None
            )
            rows.delete("assistants", recorded.stream_id.bytes)
            rows.delete_where("assistant_versions", "assistant_id", recorded.stream_id.bytes)
        case _:
            pass


def _said(rows: Rows, recorded: Recorded, body: AssistantSaid) -> None:
    known = rows.get("assistants", recorded.stream_id.bytes)
    # Deleted, or seen already: an old event must not bring it back.
    if isinstance(body, AssistantCreated) != (known is None):
        return
    if known is not None and known["position"] >= recorded.position:
        return
    row = _row(recorded, body, known)
    facets.keep(
        rows, "assistant_facets", row["assistant_id"], known["metadata"] if known else None, row["metadata"]
    )
    rows.put("assistants", row)
    if not isinstance(body, AssistantVersionChosen):
        _put_version(rows, row)


def _row(recorded: Recorded, body: AssistantSaid, known: Row | None) -> Row:
    at = micros(recorded.meta.at)
    given = {name: getattr(body, name) for name in FIELDS}
    return {
        "assistant_id": recorded.stream_id.bytes,
        **{name: text(value) if name in JSON else value for name, value in given.items()},
        "folded_name": body.name.casefold(),
        "version": body.number,
        "system": int(body.system),
        "user_id": body.user_id,
        "created_at": known["created_at"] if known else at,
        "updated_at": at,
        "position": recorded.position,
    }


def _put_version(rows: Rows, row: Row) -> None:
    version_id = row["assistant_id"] + row["version"].to_bytes(4)
    known = rows.get("assistant_versions", version_id)
    shown = {name: row[name] for name in ("assistant_id", *FIELDS, "version")}
    at = known["created_at"] if known else row["updated_at"]
    rows.put("assistant_versions", {**shown, "version_id": version_id, "created_at": at})
