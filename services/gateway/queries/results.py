"""What runs came to, as whoever waited for one is told."""

from typing import Any
from uuid import UUID

from services.gateway.answers import runs as answers
from services.gateway.answers.values import Row, value_of
from services.gateway.parts import GatewayParts
from services.gateway.queries.search import by_id


def result(parts: GatewayParts, run_id: UUID) -> Any:
    """What a run that has ended came to: values, interrupts with them, or an error."""
    row = by_id(parts.views, "runs", "run_id", run_id)
    if row is None:
        return {}
    if (failure := answers.failure_of(row)) is not None:
        return {"__error__": failure}
    found = answers.values_of(row, parts.log.blob)
    return _of_thread(parts, row) if found is None else found


def _of_thread(parts: GatewayParts, row: Row) -> Any:
    """A run that left no state: what its thread has."""
    thread = by_id(parts.views, "threads", "thread_id", UUID(bytes=row["thread_id"]))
    found = None if thread is None else value_of(thread["values"], parts.log.blob)
    return {} if found is None else found
