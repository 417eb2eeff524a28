"""Every occurrence of every cron, fired or not, and why. It stays when the cron is deleted."""

from contracts.events import OccurrenceMissed, OccurrenceSkipped, OccurrencesMissed, RunRequested
from contracts.ledger import Recorded
from projections.rows import Row, Rows, Table, maybe_micros, micros, seconds

NAME = "occurrences"
VERSION = 5
TABLES = (
    Table(
        "occurrences",
        {
            "position": "int",
            "cron_id": "id",
            "scheduled_for": "second",  # of a stretch: its first
            "until": "second?",  # of a stretch: its last
            "count": "int",
            "status": "text",  # fired, skipped, missed
            "reason": "text",
            "kind": "text",
            "fires_at": "instant?",  # where its jitter put it
            "fired_at": "instant",
            "run_id": "id?",
            "thread_id": "id?",
            "revision": "int",
            "tzdata": "text",
            "local": "text",
        },
        "position",
        ("(cron_id, scheduled_for)", "(cron_id, status, scheduled_for)", "(scheduled_for)"),
    ),
)


def apply(rows: Rows, recorded: Recorded) -> None:
    """Add the row of the occurrence, or of the stretch, that the event tells of."""
    body = recorded.body
    if isinstance(body, RunRequested):
        if body.cron_id is not None:
            _fired(rows, recorded, body)
    elif isinstance(body, OccurrenceSkipped | OccurrenceMissed):
        _not_fired(rows, recorded, body)
    elif isinstance(body, OccurrencesMissed):
        _stretch(rows, recorded, body)


def _fired(rows: Rows, recorded: Recorded, body: RunRequested) -> None:
    assert body.cron_id is not None
    due = body.scheduled_for or recorded.meta.at
    row = _row(recorded, body.cron_id.bytes, seconds(due), "fired")
    row |= {
        "kind": body.kind,
        "fires_at": maybe_micros(body.fires_at),
        "reason": body.note,
        "run_id": recorded.stream_id.bytes,
        "thread_id": body.thread_id.bytes,
        "revision": body.revision,
        "tzdata": body.tzdata,
        "local": body.local,
    }
    rows.put("occurrences", row)


def _not_fired(rows: Rows, recorded: Recorded, body: OccurrenceSkipped | OccurrenceMissed) -> None:
    assert body.cron_id is not None
    status = "skipped" if isinstance(body, OccurrenceSkipped) else "missed"
    row = _row(recorded, body.cron_id.bytes, seconds(body.scheduled_for), status)
    kind = "schedule" if body.backfill_id is None else "backfill"
    row |= {"reason": body.reason, "kind": kind, "thread_id": body.thread_id.bytes}
    row |= {"local": body.local, "revision": body.revision, "tzdata": body.tzdata}
    rows.put("occurrences", row)


def _stretch(rows: Rows, recorded: Recorded, body: OccurrencesMissed) -> None:
    row = _row(recorded, recorded.stream_id.bytes, seconds(body.first), "missed")
    row |= {"until": seconds(body.last), "count": body.count, "reason": body.reason}
    row |= {"local": body.local, "revision": body.revision, "tzdata": body.tzdata}
    rows.put("occurrences", row)


def _row(recorded: Recorded, cron_id: bytes, scheduled_for: int, status: str) -> Row:
    return {
        "position": recorded.position,
        "cron_id": cron_id,
        "scheduled_for": scheduled_for,
        "until": None,
        "count": 1,
        "status": status,
        "reason": "",
        "kind": "",
        "fires_at": None,
        "fired_at": micros(recorded.meta.at),
        "run_id": None,
        "thread_id": None,
        "revision": 0,
        "tzdata": "",
        "local": "",
    }
