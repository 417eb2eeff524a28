"""Wait and join: line feeds that keep the connection alive, then one JSON document."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec

from services.gateway.answers import shapes
from services.gateway.parts import GatewayParts
from services.gateway.queries.search import by_id
from services.gateway.streams.run_stream import has_ended, result_values

KEEP_ALIVE_S = 5.0
AGAIN_S = 0.5
Row = dict[str, Any]


async def until_ended(parts: GatewayParts, run_id: UUID) -> AsyncIterator[bytes]:
    """A line feed every five seconds until the run has ended or is gone."""
    while not await parts.ends.wait(run_id, KEEP_ALIVE_S):
        yield b"\n"
    while not has_ended(parts, run_id):
        await parts.changed(AGAIN_S)  # the read models lag behind the request


async def values(parts: GatewayParts, run_id: UUID) -> AsyncIterator[bytes]:
    """The same, then what the run came to."""
    async for piece in until_ended(parts, run_id):
        yield piece
    row = by_id(parts.views, "runs", "run_id", run_id)
    yield msgspec.json.encode({} if row is None else result(parts, row))


async def stopped(parts: GatewayParts, run_id: UUID) -> AsyncIterator[bytes]:
    """The same, then an empty object."""
    async for piece in until_ended(parts, run_id):
        yield piece
    yield b"{}"


def result(parts: GatewayParts, row: Row) -> Any:
    """What a run that has ended came to: values, interrupts with them, or an error."""
    if row["status"] == "error":
        return {"__error__": {"error": row["error"], "message": row["message"]}}
    if row["status"] == "timeout":
        return {"__error__": {"error": "TimeoutError", "message": "the run took longer than it may"}}
    found = result_values(parts, row)
    return _of_thread(parts, row) if found is None else found


def _of_thread(parts: GatewayParts, row: Row) -> Any:
    """A run that left no state: what its thread has."""
    thread = by_id(parts.views, "threads", "thread_id", UUID(bytes=row["thread_id"]))
    found = None if thread is None else shapes.value_of(thread["values"], parts.log.blob)
    return {} if found is None else found
