"""Deliveries of webhooks, as clients see them."""

from typing import Literal
from uuid import UUID

import msgspec

DeliveryStateShown = Literal["pending", "delivered", "abandoned"]


class DeliveryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told of a run's end. The id never changes: a receiver tells by it what it has already."""

    delivery_id: UUID
    run_id: UUID
    thread_id: UUID
    cron_id: UUID | None
    url: str
    state: DeliveryStateShown
    attempts: int
    requested_at: str
    next_attempt_at: str | None  # null when it is over
    ended_at: str | None
    last_status: int | None  # of HTTP; null when the last attempt had no answer
    last_error: str | None  # why the last attempt came to nothing
