"""What the event log takes and gives: payloads, appends, transactions, recorded events."""

from collections.abc import Callable
from datetime import datetime
from typing import ClassVar, Generic, TypeVar
from uuid import UUID

import msgspec

INLINE_LIMIT = 32 * 1024
"""Bytes of JSON up to which a value travels inside its event; larger ones are stored once, by digest."""


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JSON value, inline or by digest.

    Exactly one form is used: `inline` (at most `INLINE_LIMIT` bytes) or `sha256` with `size` (bytes),
    the value then being a blob in the log's database, written in the same transaction.
    """

    inline: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    sha256: str = ""
    size: int = 0


class Blob(msgspec.Struct, frozen=True):
    """A large value on its way into the log: its digest (hex) and its bytes (JSON)."""

    sha256: str
    data: bytes


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What happened. Subclasses are registered by topic in `contracts.events`."""

    TOPIC: ClassVar[str] = ""


BodyT = TypeVar("BodyT", bound=Body)


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who did it and why: the same for every event of a transaction."""

    at: datetime  # aware, UTC
    actor: str  # a user id, or `scheduler`, `worker`, `gateway`
    cause: str = ""  # id of the request or event that led to this
    corr: str = ""  # id shared by everything that one request or firing led to


class Envelope(msgspec.Struct, Generic[BodyT], frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The stored bytes of one event (JSON): `Meta` flattened, and the body under `data`."""

    at: datetime
    actor: str
    cause: str = ""
    corr: str = ""
    data: BodyT


class Append(msgspec.Struct, frozen=True):
    """New events of one stream; the first gets version `expected_version + 1` (0 = the stream is new)."""

    stream_id: UUID
    expected_version: int
    bodies: tuple[Body, ...]


class Expect(msgspec.Struct, frozen=True):
    """A stream that must still be at `version` at the commit, without an append to it."""

    stream_id: UUID
    version: int


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """All or nothing: appends (a stream stands there once), the versions they rest on, large values."""

    meta: Meta
    appends: tuple[Append, ...]
    expects: tuple[Expect, ...] = ()
    blobs: tuple[Blob, ...] = ()


class StoredAppend(msgspec.Struct, frozen=True):
    """An append in stored form: (topic, bytes) per event. What crosses to the process that owns the log."""

    stream_id: UUID
    expected_version: int
    events: tuple[tuple[str, bytes], ...]


class StoredTransaction(msgspec.Struct, frozen=True):
    """A transaction in stored form."""

    appends: tuple[StoredAppend, ...]
    expects: tuple[Expect, ...] = ()
    blobs: tuple[Blob, ...] = ()


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """One event as the log gives it back. `position` counts over all streams, `version` within one."""

    position: int
    stream_id: UUID
    version: int
    topic: str
    meta: Meta
    body: Body

    # The library's names for these.
    @property
    def originator_id(self) -> UUID:
        """`stream_id`."""
        return self.stream_id

    @property
    def originator_version(self) -> int:
        """`version`."""
        return self.version


Upcast = Callable[[Body], Body]
