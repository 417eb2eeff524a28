"""Backfills as they are now: how far each has come. They stay when their cron is deleted."""

from contracts.events import (
    BackfillCancelled,
    BackfillFinished,
    BackfillRequested,
    OccurrenceMissed,
    OccurrenceSkipped,
    RunRequested,
)
from contracts.ledger import Recorded
from projections.rows import Row, Rows, Table, micros

NAME = "backfills"
VERSION = 1
TABLES = (
    Table(
        "backfills",
        {
            "backfill_id": "id",
            "cron_id": "id",
            "state": "text",  # running, finished, cancelled
            "include": "text",  # unfired, all
            "overlap": "text?",  # NULL: as the cron has it
            "start_at": "instant",
            "end_at": "instant",
            "planned": "int",
            "already_fired": "int",
            "fired": "int",
            "skipped": "int",
            "revision": "int",
            "requested_by": "text",
            "requested_at": "instant",
            "ended_at": "instant?",
            "note": "text",
            "reason": "text",  # of a cancelled one
            "position": "int",
        },
        "backfill_id",
        (
            "(cron_id, requested_at, backfill_id)",
            "(state, backfill_id)",
        ),
    ),
)


def apply(rows: Rows, recorded: Recorded) -> None:
    """Change the row of the backfill that the event is about, or is a part of."""
    body = recorded.body
    if isinstance(body, BackfillRequested):
        if rows.get("backfills", recorded.stream_id.bytes) is None:
            rows.put("backfills", _requested(recorded, body))
    elif isinstance(body, BackfillFinished | BackfillCancelled):
        _change(rows, recorded.stream_id.bytes, recorded, _ended(recorded))
    elif (
        isinstance(body, RunRequested | OccurrenceSkipped | OccurrenceMissed) and body.backfill_id is not None
    ):
        column = "fired" if isinstance(body, RunRequested) else "skipped"
        _change(rows, body.backfill_id.bytes, recorded, {column: 1})


def _requested(recorded: Recorded, body: BackfillRequested) -> Row:
    return {
        "backfill_id": recorded.stream_id.bytes,
        "cron_id": body.cron_id.bytes,
        "state": "running",
        "include": body.include,
        "overlap": body.overlap,
        "start_at": micros(body.start),
        "end_at": micros(body.end),
        "planned": len(body.planned),
        "already_fired": body.already_fired,
        "fired": 0,
        "skipped": 0,
        "revision": body.revision,
        "requested_by": recorded.meta.actor,
        "requested_at": micros(recorded.meta.at),
        "ended_at": None,
        "note": body.note,
        "reason": "",
        "position": recorded.position,
    }


def _ended(recorded: Recorded) -> Row:
    body = recorded.body
    ended: Row = {"state": "finished", "ended_at": micros(recorded.meta.at)}
    return (
        ended | {"state": "cancelled", "reason": body.reason}
        if isinstance(body, BackfillCancelled)
        else ended
    )


def _change(rows: Rows, key: bytes, recorded: Recorded, changed: Row) -> None:
    """Set what is text or an instant, and count the others up."""
    row = rows.get("backfills", key)
    if row is None or row["position"] >= recorded.position:
        return
    for name, value in changed.items():
        row[name] = row[name] + value if name in ("fired", "skipped") else value
    rows.put("backfills", row | {"position": recorded.position})
