"""States of threads, as clients see them."""

from typing import Any

import msgspec

from contracts.api import Json


class StateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a thread at a checkpoint; both are null of a thread that has none yet."""

    values: Any
    next: list[str]  # nodes that would run
    tasks: list[Json]
    metadata: Json | None
    created_at: str | None
    checkpoint: Json | None
    parent_checkpoint: Json | None
    interrupts: list[Json]
    checkpoint_id: str | None
    parent_checkpoint_id: str | None


class StateWritten(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint that a write into a thread's state made."""

    checkpoint: Json
    configurable: Json
    checkpoint_id: str
