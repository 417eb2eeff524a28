"""States of threads from rows of the read models: what the last run left."""

from typing import Any

import msgspec

from contracts.answers.states import StateAnswer, StateWritten
from contracts.codec import BlobOf
from services.gateway.answers.values import Row, json_of, value_of

_decode = msgspec.json.decode


def state(row: Row, blob_of: BlobOf) -> StateAnswer:
    """The state of a thread, from its row."""
    checkpoint, parent = _checkpoint(row["checkpoint"]), _checkpoint(row["parent_checkpoint"])
    interrupts = _decode(row["interrupts"])
    return StateAnswer(
        values=value_of(row["values"], blob_of) or {},
        next=_decode(row["next"]),
        tasks=value_of(row["tasks"], blob_of) or [],
        metadata=json_of(row["checkpoint_metadata"]) if checkpoint else None,
        created_at=row["checkpoint_at"],
        checkpoint=checkpoint,
        parent_checkpoint=parent,
        interrupts=[entry for entries in interrupts.values() for entry in entries],
        checkpoint_id=checkpoint["checkpoint_id"] if checkpoint else None,
        parent_checkpoint_id=parent["checkpoint_id"] if parent else None,
    )


def written(row: Row) -> StateWritten:
    """The checkpoint that a write made, from the row of the run that carried it out."""
    place = _checkpoint(row["checkpoint"])
    assert place is not None
    return StateWritten(checkpoint=place, configurable=place, checkpoint_id=place["checkpoint_id"])


def _checkpoint(stored: str | None) -> dict[str, Any] | None:
    return None if stored is None else {"checkpoint_ns": "", **_decode(stored)}
