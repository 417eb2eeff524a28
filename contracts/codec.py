"""Bytes to structs and back: envelopes, upcasters, payloads. The mapper and transcoder of `eventsourcing`."""

import hashlib
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.persistence import Mapper, Notification, StoredEvent, Transcoder

from contracts.events import BODIES, UPCASTS
from contracts.ledger import (
    INLINE_LIMIT,
    Append,
    Blob,
    Body,
    Envelope,
    Meta,
    Payload,
    Recorded,
    StoredAppend,
    StoredTransaction,
    Transaction,
    Upcast,
)


class UnknownTopic(Exception):
    """The log holds an event that this version of the code does not know."""


class EnvelopeTranscoder(Transcoder):
    """Envelopes of one kind of event as JSON."""

    def __init__(self, body: type[Body]) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Envelope[body]).decode  # type: ignore[valid-type]

    def encode(self, obj: Envelope[Body]) -> bytes:
        return self._encode(obj)

    def decode(self, data: bytes) -> Envelope[Body]:
        return self._decode(data)


class EventCodec(Mapper[UUID]):
    """Recorded events to stored ones and back; chains of upcasters are flattened when it is built.

    The library's own mapper finds a class by its module's path and fills its `__dict__`; ours finds it by the
    topic that stands in the contract, and structs have none.
    """

    def __init__(
        self,
        bodies: dict[str, type[Body]] | None = None,
        upcasts: dict[str, tuple[str, Upcast]] | None = None,
    ) -> None:
        bodies = BODIES if bodies is None else bodies
        upcasts = UPCASTS if upcasts is None else upcasts
        super().__init__(EnvelopeTranscoder(Body))
        self._transcoders = {topic: EnvelopeTranscoder(cls) for topic, cls in bodies.items()}
        self._upcasts = {topic: _chain(topic, upcasts) for topic in bodies}
        self._newest = {topic: _newest(topic, upcasts) for topic in bodies}

    def encode(self, body: Body, meta: Meta) -> tuple[str, bytes]:
        """(topic, bytes) of one event."""
        envelope = Envelope(at=meta.at, actor=meta.actor, cause=meta.cause, corr=meta.corr, data=body)
        return body.TOPIC, self.transcoder.encode(envelope)

    def decode(self, topic: str, state: bytes) -> tuple[Meta, Body]:
        """What was stored, brought up to today's meaning. Raises UnknownTopic."""
        transcoder = self._transcoders.get(topic)
        if transcoder is None:
            raise UnknownTopic(topic)
        envelope = transcoder.decode(state)
        body = envelope.data
        for upcast in self._upcasts[topic]:
            body = upcast(body)
        return Meta(at=envelope.at, actor=envelope.actor, cause=envelope.cause, corr=envelope.corr), body

    def topics_of(self, *bodies: type[Body]) -> frozenset[str]:
        """Under which topics events of these kinds are stored, those of older versions too."""
        today = {body.TOPIC for body in bodies}
        return frozenset(topic for topic, newest in self._newest.items() if newest in today)

    def to_stored_event(self, domain_event: Recorded) -> StoredEvent:  # type: ignore[override] # of ours only
        topic, state = self.encode(domain_event.body, domain_event.meta)
        return StoredEvent(domain_event.stream_id, domain_event.version, topic, state)

    def to_domain_event(self, stored_event: StoredEvent) -> Recorded:
        """Its topic is today's; its position 0 when the stored form has none. Raises UnknownTopic."""
        meta, body = self.decode(stored_event.topic, stored_event.state)
        position = stored_event.id if isinstance(stored_event, Notification) else 0
        stream_id = stored_event.originator_id
        return Recorded(position, stream_id, stored_event.originator_version, body.TOPIC, meta, body)  # type: ignore[arg-type] # ours are UUIDs

    def stored(self, tx: Transaction) -> StoredTransaction:
        """A transaction in the form that the recorder writes."""
        appends = tuple(self._stored_append(append, tx.meta) for append in tx.appends)
        return StoredTransaction(appends, tx.expects, tx.blobs)

    def _stored_append(self, append: Append, meta: Meta) -> StoredAppend:
        events = tuple(self.encode(body, meta) for body in append.bodies)
        return StoredAppend(append.stream_id, append.expected_version, events)


BlobOf = Callable[[str], bytes | None]
"""Digest -> the large value of that digest."""


def _chain(topic: str, upcasts: dict[str, tuple[str, Upcast]]) -> tuple[Upcast, ...]:
    chain: list[Upcast] = []
    while topic in upcasts:
        topic, upcast = upcasts[topic]
        chain.append(upcast)
    return tuple(chain)


def _newest(topic: str, upcasts: dict[str, tuple[str, Upcast]]) -> str:
    while topic in upcasts:
        topic, _ = upcasts[topic]
    return topic


def pack(value: Any) -> tuple[Payload, tuple[Blob, ...]]:
    """A payload for any JSON value, with the blob that must be stored beside it when it is large.

    `value` may be `msgspec.Raw`: bytes of JSON that are stored as they are.
    """
    data = bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
    if len(data) <= INLINE_LIMIT:
        return Payload(inline=msgspec.Raw(data)), ()
    digest = hashlib.sha256(data).hexdigest()
    return Payload(sha256=digest, size=len(data)), (Blob(digest, data),)


def unpack(payload: Payload, blob_of: BlobOf) -> bytes | None:
    """The JSON of a payload, inline or not; None when it has none, or was erased."""
    if payload.sha256:
        return blob_of(payload.sha256)
    return None if payload.inline is msgspec.UNSET else bytes(payload.inline)
