"""An index over the ledger: which event is about which thread, cron, run, and who did it."""

from typing import Any

from contracts.ledger import Recorded
from projections.rows import Rows, Table, blob, micros

NAME = "audit"
VERSION = 1
TABLES = (
    Table(
        "audit",
        {
            "position": "int",
            "stream_id": "id",
            "version": "int",
            "topic": "text",
            "actor": "text",
            "at": "instant",
            "thread_id": "id?",
            "cron_id": "id?",
            "run_id": "id?",
            "corr": "text",
        },
        "position",
        (
            "(thread_id, position) WHERE thread_id IS NOT NULL",
            "(cron_id, position) WHERE cron_id IS NOT NULL",
            "(run_id, position) WHERE run_id IS NOT NULL",
            "(stream_id, position)",
            "(topic, position)",
            "(actor, position)",
            "(at)",
        ),
    ),
)


def apply(rows: Rows, recorded: Recorded) -> None:
    """Add the event's row."""
    stream, body = recorded.stream_id.bytes, recorded.body
    kind = recorded.topic.partition(".")[0]
    ids: dict[str, Any] = {
        "thread_id": blob(getattr(body, "thread_id", None)),
        "cron_id": blob(getattr(body, "cron_id", None)),
        "run_id": blob(getattr(body, "run_id", None)),
    }
    if kind in ("cron", "run", "thread"):
        ids[f"{kind}_id"] = stream
    rows.put(
        "audit",
        {
            "position": recorded.position,
            "stream_id": stream,
            "version": recorded.version,
            "topic": recorded.topic,
            "actor": recorded.meta.actor,
            "at": micros(recorded.meta.at),
            **ids,
            "corr": recorded.meta.corr,
        },
    )
