"""Columns of the read models as clients see them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from contracts.codec import BlobOf, unpack
from contracts.ledger import Payload

Row = dict[str, Any]
_payload = msgspec.json.Decoder(Payload)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(microseconds: int) -> str:
    """An instant: explicit offset, microseconds when there are any."""
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat()


def maybe_instant(microseconds: int | None) -> str | None:
    """The same, None when there is none."""
    return None if microseconds is None else instant(microseconds)


def maybe_uuid(value: bytes | None) -> UUID | None:
    """An id, None when there is none."""
    return None if value is None else UUID(bytes=value)


def json_of(stored: str) -> Any:
    """JSON that is stored as text, passed on without a look at it: the encoder writes it as it is."""
    return msgspec.Raw(stored.encode())


def maybe_json(stored: str | None) -> Any:
    """The same, None when there is none."""
    return None if stored is None else json_of(stored)


def value_of(stored: str | None, blob_of: BlobOf) -> Any:
    """The JSON of a stored payload, as it is; None when there is none or it was erased."""
    return None if stored is None else payload_of(_payload.decode(stored), blob_of)


def payload_of(payload: Payload, blob_of: BlobOf) -> Any:
    """The same of a payload."""
    data = unpack(payload, blob_of)
    return None if data is None else msgspec.Raw(data)


def decoded(value: Any) -> Any:
    """What such JSON says."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
