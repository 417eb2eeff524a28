"""Deliveries from rows of the read model."""

from uuid import UUID

from contracts.answers.deliveries import DeliveryAnswer
from services.gateway.answers.values import Row, instant, maybe_instant, maybe_uuid


def delivery(row: Row) -> DeliveryAnswer:
    """The delivery."""
    return DeliveryAnswer(
        delivery_id=UUID(bytes=row["delivery_id"]),
        run_id=UUID(bytes=row["run_id"]),
        thread_id=UUID(bytes=row["thread_id"]),
        cron_id=maybe_uuid(row["cron_id"]),
        url=row["url"],
        state=row["state"],
        attempts=row["attempts"],
        requested_at=instant(row["requested_at"]),
        next_attempt_at=maybe_instant(row["next_at"]),
        ended_at=maybe_instant(row["ended_at"]),
        last_status=row["status"],
        last_error=row["why"] or None,
    )
