"""Wait and join: line feeds that keep the connection alive, then one JSON document."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec

from services.gateway.answers import runs as answers
from services.gateway.answers.values import Row, value_of
from services.gateway.parts import GatewayParts
from services.gateway.queries import runs
from services.gateway.queries.search import by_id

KEEP_ALIVE_S = 5.0
AGAIN_S = 0.5


async def until_ended(parts: GatewayParts, run_id: UUID) -> AsyncIterator[bytes]:
    """A line feed every five seconds until the run has ended or is gone."""
    while not await parts.ends.wait(run_id, KEEP_ALIVE_S):
        yield b"\n"
    while not await parts.read(lambda: runs.has_ended(parts, run_id)):
        await parts.changed(AGAIN_S)  # the read models lag behind the request


async def values(parts: GatewayParts, run_id: UUID) -> AsyncIterator[bytes]:
    """The same, then what the run came to."""
    async for piece in until_ended(parts, run_id):
        yield piece
    yield msgspec.json.encode(await parts.read(lambda: _result(parts, run_id)))


async def stopped(parts: GatewayParts, run_id: UUID, before: Row) -> AsyncIterator[bytes]:
    """The same, then the run itself."""
    async for piece in until_ended(parts, run_id):
        yield piece
    yield msgspec.json.encode(await parts.read(lambda: runs.stopped(parts, before)))


def _result(parts: GatewayParts, run_id: UUID) -> Any:
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
