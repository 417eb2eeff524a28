"""What is written to a ledger, as data: the same for the process that owns it and for one beside it."""

from collections.abc import Sequence

import msgspec

from contracts.ledger import StoredTransaction


class AppendAsked(msgspec.Struct, frozen=True, tag="append"):
    """Store these."""

    txs: Sequence[StoredTransaction]


class LeaseAsked(msgspec.Struct, frozen=True, tag="lease"):
    """Take, renew or release (`ttl_s` <= 0) a lease."""

    name: str
    holder: str
    ttl_s: float


class CursorMoved(msgspec.Struct, frozen=True, tag="cursor"):
    """Keep how far a follower has come."""

    name: str
    position: int


Work = AppendAsked | LeaseAsked | CursorMoved
