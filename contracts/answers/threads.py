"""Threads and their states, as clients see them."""

from typing import Any
from uuid import UUID

import msgspec

from contracts.api import Json, ThreadStatus


class ThreadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A thread, with the state that its last run left. Instants are ISO 8601 with an offset."""

    thread_id: UUID
    created_at: str
    updated_at: str
    state_updated_at: str | None
    metadata: Json
    config: Json = {}
    status: ThreadStatus
    values: Any  # the graph's, null before the first run
    interrupts: Json  # lists of interrupts by the id of the task that waits
    error: Any
    user_id: str
    extracted: Json | msgspec.UnsetType = msgspec.UNSET  # what `extract` of a search asked for
