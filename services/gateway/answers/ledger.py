"""Events of the ledger from the log."""

from typing import Any

import msgspec

from contracts.answers.ledger import EntryAnswer
from contracts.ledger import Recorded
from services.gateway.answers.values import BlobOf


def entry(recorded: Recorded, blob_of: BlobOf | None) -> EntryAnswer:
    """One event; with `blob_of`, large values are put in."""
    data: Any = recorded.body
    return EntryAnswer(
        position=str(recorded.position),
        id=f"{recorded.stream_id}.{recorded.version}",
        type=recorded.topic,
        stream=str(recorded.stream_id),
        version=recorded.version,
        at=recorded.meta.at.isoformat(),
        actor=recorded.meta.actor,
        cause=recorded.meta.cause,
        corr=recorded.meta.corr,
        data=data if blob_of is None else _filled(msgspec.to_builtins(data), blob_of),
    )


def _filled(data: dict[str, Any], blob_of: BlobOf) -> dict[str, Any]:
    filled = dict(data)
    for name, value in data.items():
        if isinstance(value, dict) and value.keys() == {"sha256", "size"}:
            stored = blob_of(value["sha256"])
            filled[name] = {**value, "inline": None if stored is None else msgspec.Raw(stored)}
    return filled
