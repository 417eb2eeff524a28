"""What an event looks like on NATS: subject, CloudEvents headers, body. Pure."""

from uuid import UUID

import msgspec
from eventsourcing.persistence import Notification

from contracts.asyncapi import TYPE_PREFIX, parts_of
from contracts.subjects import ledger_subject
from services.kit.bus import Outgoing

MOST_BYTES = 60 * 1024
"""Bodies beyond are replaced by a reference: messages stay under 64 KiB, headers included."""


class _Head(msgspec.Struct, frozen=True):
    """The envelope without what happened."""

    at: str
    actor: str
    cause: str = ""
    corr: str = ""


_head_of = msgspec.json.Decoder(_Head).decode


def outgoing(raw: Notification, source: str) -> Outgoing:
    """The message of an event; its body is the stored envelope as it is."""
    aggregate, event = parts_of(raw.topic)
    head = _head_of(raw.state)
    headers = _headers(raw, head.at, source)
    data = raw.state
    if len(data) > MOST_BYTES:
        headers["Ledger-Reference"] = reference_to(raw.originator_id)
        data = msgspec.json.encode(head)
    return Outgoing(
        position=raw.id,
        subject=ledger_subject(aggregate, event, str(raw.originator_id)),
        data=data,
        headers=headers,
    )


def event_id(stream_id: UUID | str, version: int) -> str:
    """The id of an event, the same on every road out."""
    return f"{stream_id}.{version}"


def reference_to(stream_id: UUID | str) -> str:
    """Where the events of a stream are over HTTP, relative to the server."""
    return f"/ledger?stream={stream_id}"


def _headers(raw: Notification, at: str, source: str) -> dict[str, str]:
    return {
        "ce-specversion": "1.0",
        "ce-id": event_id(raw.originator_id, raw.originator_version),
        "ce-source": source,
        "ce-type": TYPE_PREFIX + raw.topic,
        "ce-time": at,
        "ce-subject": str(raw.originator_id),
        "ce-datacontenttype": "application/json",
    }
