"""Bytes to structs and back: envelopes, upcasters, payloads."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from contracts.events import BODIES, UPCASTS
from contracts.ledger import (
    INLINE_LIMIT,
    Append,
    Blob,
    Body,
    Envelope,
    Meta,
    Payload,
    RawRecorded,
    Recorded,
    StoredAppend,
    StoredTransaction,
    Transaction,
    Upcast,
)


class UnknownTopic(Exception):
    """The log holds an event that this version of the code does not know."""


class EventCodec:
    """Envelopes to bytes and back; chains of upcasters are flattened when it is built."""

    def __init__(
        self,
        bodies: dict[str, type[Body]] | None = None,
        upcasts: dict[str, tuple[str, Upcast]] | None = None,
    ) -> None:
        bodies = BODIES if bodies is None else bodies
        upcasts = UPCASTS if upcasts is None else upcasts
        self._encode = msgspec.json.Encoder().encode
        self._decode: dict[str, Callable[[bytes], Envelope[Body]]] = {
            topic: msgspec.json.Decoder(Envelope[cls]).decode  # type: ignore[valid-type]
            for topic, cls in bodies.items()
        }
        self._upcasts = {topic: _chain(topic, upcasts) for topic in bodies}
        self._newest = {topic: _newest(topic, upcasts) for topic in bodies}

    def encode(self, body: Body, meta: Meta) -> tuple[str, bytes]:
        """(topic, bytes) of one event."""
        envelope = Envelope(at=meta.at, actor=meta.actor, cause=meta.cause, corr=meta.corr, data=body)
        return body.TOPIC, self._encode(envelope)

    def decode(self, topic: str, state: bytes) -> tuple[Meta, Body]:
        """What was stored, brought up to today's meaning. Raises UnknownTopic."""
        decode = self._decode.get(topic)
        if decode is None:
            raise UnknownTopic(topic)
        envelope = decode(state)
        body = envelope.data
        for upcast in self._upcasts[topic]:
            body = upcast(body)
        return Meta(at=envelope.at, actor=envelope.actor, cause=envelope.cause, corr=envelope.corr), body

    def topics_of(self, *bodies: type[Body]) -> frozenset[str]:
        """Under which topics events of these kinds are stored, those of older versions too."""
        today = {body.TOPIC for body in bodies}
        return frozenset(topic for topic, newest in self._newest.items() if newest in today)

    def recorded(self, raw: RawRecorded) -> Recorded:
        """The decoded form of a raw event; its topic is today's."""
        meta, body = self.decode(raw.topic, raw.state)
        return Recorded(raw.position, raw.stream_id, raw.version, body.TOPIC, meta, body)

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
