"""What a decision over several aggregates wants to store, all or nothing."""

from collections.abc import Iterable
from uuid import UUID

import msgspec

from contracts.ledger import Append, Blob, Body, Expect, Meta, Transaction


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Appends with the versions and large values that they rest on; who and when comes from the service."""

    appends: tuple[Append, ...] = ()
    expects: tuple[Expect, ...] = ()
    blobs: tuple[Blob, ...] = ()

    def __add__(self, other: "Changes") -> "Changes":
        return Changes(
            appends=self.appends + other.appends,
            expects=self.expects + other.expects,
            blobs=self.blobs + other.blobs,
        )

    def __bool__(self) -> bool:
        return bool(self.appends)

    def by(self, meta: Meta) -> Transaction:
        """The transaction that stores them."""
        return Transaction(meta=meta, appends=self.appends, expects=self.expects, blobs=self.blobs)


def appended(stream_id: UUID, version: int, events: Iterable[Body]) -> tuple[Append, ...]:
    """The append that stores the events of a stream that is at that version, if there are any."""
    bodies = tuple(events)
    return (Append(stream_id, version, bodies),) if bodies else ()
