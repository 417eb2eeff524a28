"""Threads from rows of the read model."""

from uuid import UUID

from contracts.answers.threads import ThreadAnswer
from contracts.codec import BlobOf
from services.gateway.answers.values import Row, instant, json_of, maybe_instant, maybe_json, value_of


def thread(row: Row, blob_of: BlobOf) -> ThreadAnswer:
    """The thread; a row without its large columns shows none of them."""
    return ThreadAnswer(
        thread_id=UUID(bytes=row["thread_id"]),
        created_at=instant(row["created_at"]),
        updated_at=instant(row["updated_at"]),
        state_updated_at=maybe_instant(row["state_updated_at"]),
        metadata=json_of(row["metadata"]),
        status=row["status"],
        values=value_of(row["values"], blob_of),
        interrupts=json_of(row["interrupts"]),
        error=maybe_json(row["error"]),
        user_id=row["user_id"],
    )
