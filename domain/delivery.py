"""The delivery of a webhook: who is told of a run's end, until it is told or given up. Its id never changes."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal, assert_never
from uuid import UUID

import msgspec

from contracts.events import (
    DeliveryAbandoned,
    DeliveryEvent,
    DeliveryFailed,
    RedeliveryRequested,
    WebhookDelivered,
    WebhookRequested,
)
from contracts.ledger import Recorded
from domain.changes import Changes, appended
from domain.errors import DeliveryNotFound

PATIENCE = timedelta(days=1)
"""How long a receiver that can't be reached, or would not have it, is tried again."""
MOST_WAIT = timedelta(hours=6)
"""Of a `Retry-After`: whoever asks for more is asked again before."""
TRY_AGAIN = frozenset({408, 425, 429})
"""Refusals that say `not now`; any other one of 400 to 499 is final."""
DeliveryState = Literal["pending", "delivered", "abandoned"]


class WebhookDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as its events left it. `since` is when its day of attempts began."""

    delivery_id: UUID
    version: int
    request: WebhookRequested
    since: datetime
    state: DeliveryState = "pending"
    attempts: int = 0


class Attempted(msgspec.Struct, frozen=True, kw_only=True, tag="delivery.attempted"):
    """What came of an attempt: `status` of HTTP, or None and `why` there is no answer.

    `pause` is how long to wait before the next one; `asked` what the receiver asked for (`Retry-After`);
    `final`: another one would come to the same.
    """

    attempt: int
    status: int | None
    why: str
    pause: timedelta
    asked: timedelta | None = None
    final: bool = False


class Redeliver(msgspec.Struct, frozen=True, kw_only=True, tag="delivery.redeliver"):
    """Send it once more."""


def delivery_of(delivery_id: UUID, events: Iterable[Recorded]) -> WebhookDelivery | None:
    """The delivery that the events of its stream tell of; None when there is none."""
    found: WebhookDelivery | None = None
    for recorded in events:
        found = _evolve(found, delivery_id, recorded)
    return found


def decide(delivery: WebhookDelivery | None, command: Attempted | Redeliver, now: datetime) -> Changes:
    """What is stored of it; nothing of an attempt that another one has overtaken. Raises DeliveryNotFound."""
    if delivery is None:
        raise DeliveryNotFound("Delivery not found")
    match command:
        case Attempted():
            event = _attempted(delivery, command, now)
        case Redeliver():
            event = RedeliveryRequested(**_of(delivery))
        case _:
            assert_never(command)
    events = [] if event is None else [event]
    return Changes(appends=appended(delivery.delivery_id, delivery.version, events))


def _attempted(delivery: WebhookDelivery, done: Attempted, now: datetime) -> DeliveryEvent | None:
    if delivery.state != "pending" or done.attempt != delivery.attempts + 1:
        return None
    status = done.status
    if status is not None and 200 <= status < 300:
        return WebhookDelivered(**_of(delivery), attempt=done.attempt, status=status)
    told: dict[str, Any] = {"attempt": done.attempt, "status": status, "why": done.why}
    if done.final or (status is not None and 300 <= status < 500 and status not in TRY_AGAIN):
        return DeliveryAbandoned(**_of(delivery), **told)
    retry_at = now + max(done.pause, min(done.asked or timedelta(), MOST_WAIT))
    if retry_at > delivery.since + PATIENCE:
        return DeliveryAbandoned(**_of(delivery), **told)
    return DeliveryFailed(**_of(delivery), **told, retry_at=retry_at)


def _evolve(
    delivery: WebhookDelivery | None, delivery_id: UUID, recorded: Recorded
) -> WebhookDelivery | None:
    event, at = recorded.body, recorded.meta.at
    if isinstance(event, WebhookRequested):
        return WebhookDelivery(delivery_id=delivery_id, version=recorded.version, request=event, since=at)
    if delivery is None:
        return None
    delivery = msgspec.structs.replace(delivery, version=recorded.version)
    match event:
        case DeliveryFailed():
            return msgspec.structs.replace(delivery, attempts=event.attempt)
        case WebhookDelivered():
            return msgspec.structs.replace(delivery, attempts=event.attempt, state="delivered")
        case DeliveryAbandoned():
            return msgspec.structs.replace(delivery, attempts=event.attempt, state="abandoned")
        case RedeliveryRequested():
            return msgspec.structs.replace(delivery, state="pending", since=at)
        case _:
            return delivery


def _of(delivery: WebhookDelivery) -> dict[str, Any]:
    request = delivery.request
    return {"run_id": request.run_id, "thread_id": request.thread_id, "cron_id": request.cron_id}
