"""Events of the ledger, as clients see them."""

from typing import Any

import msgspec

from contracts.api import Json


class EntryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One event: what happened to which stream, when, by whom, because of what."""

    position: str  # of all events; a number that JSON readers may not hold
    id: str
    type: str
    stream: str
    version: int
    at: str
    actor: str
    cause: str
    corr: str
    data: Json | Any
