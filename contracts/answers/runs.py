"""Runs, as clients see them."""

from typing import Any, Literal
from uuid import UUID

import msgspec

from contracts.api import Json, Strategy

RunStatusShown = Literal["pending", "running", "success", "error", "timeout", "interrupted"]


class RunAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a graph. Instants are ISO 8601 with an offset."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    user_id: str
    created_at: str
    updated_at: str
    status: RunStatusShown
    metadata: Json
    kwargs: Json  # what it was asked to do, over the configuration of its assistant
    multitask_strategy: Strategy
    langsmith_session_name: None = None
    input: Any
    output: Any  # the final values, null until then
    error_message: str | None  # `Class: text`
    config: Json
    context: Json
    cancel_reason: str | None
