"""Backfills from rows of the read model."""

from uuid import UUID

from contracts.answers.backfills import BackfillAnswer
from services.gateway.answers.values import Row, instant, maybe_instant


def backfill(row: Row) -> BackfillAnswer:
    """The backfill, and how far it has come."""
    left = row["planned"] - row["fired"] - row["skipped"] if row["state"] == "running" else 0
    return BackfillAnswer(
        backfill_id=UUID(bytes=row["backfill_id"]),
        cron_id=UUID(bytes=row["cron_id"]),
        state=row["state"],
        include=row["include"],
        overlap=row["overlap"],
        start=instant(row["start_at"]),
        end=instant(row["end_at"]),
        planned=row["planned"],
        already_fired=row["already_fired"],
        fired=row["fired"],
        skipped=row["skipped"],
        left=left,
        revision=row["revision"],
        requested_by=row["requested_by"],
        requested_at=instant(row["requested_at"]),
        ended_at=maybe_instant(row["ended_at"]),
        note=row["note"] or None,
        reason=row["reason"] or None,
    )
