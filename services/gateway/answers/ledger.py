"""Events of the ledger from the log."""

from typing import Any

import msgspec

from contracts.answers.ledger import EntryAnswer
from contracts.codec import BlobOf
from contracts.ledger import Body, Recorded


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
        data=data if blob_of is None else _filled(data, blob_of),
    )


def _filled(body: Body, blob_of: BlobOf) -> dict[str, Any]:
    # By its JSON: a body holds values that are JSON already, and only the encoder knows what to do with these.
    filled: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(body))
    for name, value in filled.items():
        if isinstance(value, dict) and value.keys() == {"sha256", "size"}:
            stored = blob_of(value["sha256"])
            filled[name] = {**value, "inline": None if stored is None else msgspec.Raw(stored)}
    return filled
