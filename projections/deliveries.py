"""Deliveries of webhooks as they are now. They stay when their run is deleted."""

from urllib.parse import urlsplit

from contracts.events import (
    DeliveryAbandoned,
    DeliveryFailed,
    RedeliveryRequested,
    WebhookDelivered,
    WebhookRequested,
)
from contracts.ledger import Recorded
from projections.rows import Row, Rows, Table, blob, micros

NAME = "deliveries"
VERSION = 1
TABLES = (
    Table(
        "deliveries",
        {
            "delivery_id": "id",
            "run_id": "id",
            "thread_id": "id",
            "cron_id": "id?",
            "url": "text",
            "host": "text",
            "state": "text",  # pending, delivered, abandoned
            "attempts": "int",
            "requested_at": "instant",
            "next_at": "instant?",  # when it is tried next; none of one that is over
            "ended_at": "instant?",
            "status": "int?",  # of HTTP, of the last attempt that had an answer
            "why": "text",
            "position": "int",
        },
        "delivery_id",
        (
            "(run_id)",
            "(requested_at, delivery_id)",
            "(cron_id, requested_at, delivery_id) WHERE cron_id IS NOT NULL",
            "(state, requested_at, delivery_id)",
        ),
    ),
)


def apply(rows: Rows, recorded: Recorded) -> None:
    """Change the row of the delivery that the event is about."""
    body = recorded.body
    if isinstance(body, WebhookRequested):
        if rows.get("deliveries", recorded.stream_id.bytes) is None:
            rows.put("deliveries", _requested(recorded, body))
    elif recorded.topic.startswith("delivery."):
        _moved(rows, recorded)


def _requested(recorded: Recorded, body: WebhookRequested) -> Row:
    at = micros(recorded.meta.at)
    return {
        "delivery_id": recorded.stream_id.bytes,
        "run_id": body.run_id.bytes,
        "thread_id": body.thread_id.bytes,
        "cron_id": blob(body.cron_id),
        "url": body.url,
        "host": urlsplit(body.url).hostname or "",
        "state": "pending",
        "attempts": 0,
        "requested_at": at,
        "next_at": at,
        "ended_at": None,
        "status": None,
        "why": "",
        "position": recorded.position,
    }


def _moved(rows: Rows, recorded: Recorded) -> None:
    row = rows.get("deliveries", recorded.stream_id.bytes)
    if row is None or row["position"] >= recorded.position:
        return
    at = micros(recorded.meta.at)
    row["position"] = recorded.position
    match recorded.body:
        case DeliveryFailed() as body:
            row |= {"attempts": body.attempt, "next_at": micros(body.retry_at)}
            row |= {"status": body.status, "why": body.why}
        case WebhookDelivered() as body:
            row |= {"state": "delivered", "attempts": body.attempt, "next_at": None, "ended_at": at}
            row |= {"status": body.status, "why": ""}
        case DeliveryAbandoned() as body:
            row |= {"state": "abandoned", "attempts": body.attempt, "next_at": None, "ended_at": at}
            row |= {"status": body.status, "why": body.why}
        case RedeliveryRequested():
            row |= {"state": "pending", "next_at": at, "ended_at": None}
    rows.put("deliveries", row)
