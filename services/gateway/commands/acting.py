"""Commands from HTTP: decide on what the log has, append, wait until the read models show it."""

from collections.abc import Callable, Hashable
from uuid import UUID

from contracts.ledger import Transaction
from domain import requests
from domain.assistant import Assistant, assistant_of, default_assistant_id
from domain.changes import Changes
from domain.errors import AssistantNotFound, RunNotFound, ThreadNotFound
from domain.lane import TAKES_PLACES, Lane, MultitaskStrategy, lane_id_of, lane_of
from domain.run import Run, run_of
from domain.thread import Thread, thread_of
from services.gateway.envelope import Caller
from services.gateway.http import Call
from services.gateway.parts import GatewayParts
from services.kit.commands import execute
from services.kit.ids import parse_uuid

SHOWN_S = 2.0
Asks = Call | Caller


async def act(parts: GatewayParts, call: Asks, key: Hashable, decide: Callable[[], Changes]) -> int | None:
    """Carry out what `decide` decides, one command on the key at a time here; the position, None = nothing.

    When it returns, the read models show it; or they are behind, and it is stored all the same (`fold.row`).
    """
    meta = call.meta(parts)

    async def transaction() -> Transaction:
        return decide().by(meta)

    async with parts.locks.hold(key):
        position = await execute(parts.log, transaction, attempts=8)
    if position is not None:
        await parts.reached(position, SHOWN_S)
    return position


def thread(parts: GatewayParts, thread_id: UUID) -> Thread:
    """The thread. Raises ThreadNotFound."""
    found = thread_of(thread_id, parts.log.newest([thread_id]).values())
    if found is None:
        raise ThreadNotFound("Thread not found")
    return found


def lane(parts: GatewayParts, thread_id: UUID) -> Lane:
    """The thread's lane."""
    stream_id = lane_id_of(thread_id)
    return lane_of(thread_id, parts.log.newest([stream_id]).get(stream_id))


def line(parts: GatewayParts, thread_id: UUID, strategy: MultitaskStrategy) -> requests.Line:
    """The thread's lane, with the runs that stand in it when the strategy takes their places."""
    found = lane(parts, thread_id)
    entries = found.in_flight if strategy in TAKES_PLACES else ()
    runs = {entry.run_id: run_of(entry.run_id, parts.log.stream(entry.run_id)) for entry in entries}
    return requests.Line(lane=found, runs={run_id: run for run_id, run in runs.items() if run is not None})


def run(parts: GatewayParts, thread_id: UUID, run_id: UUID) -> Run:
    """The run of that thread. Raises RunNotFound."""
    found = run_of(run_id, parts.log.stream(run_id))
    if found is None or found.gone or found.request.thread_id != thread_id:
        raise RunNotFound("Run not found")
    return found


def assistant(parts: GatewayParts, text: str) -> Assistant:
    """The assistant of that id, or the default one of that graph. Raises AssistantNotFound."""
    assistant_id = parse_uuid(text) or default_assistant_id(text)
    found = assistant_of(assistant_id, parts.log.newest([assistant_id]).get(assistant_id))
    if found is None:
        raise AssistantNotFound(f"assistant_id: assistant or graph '{text[:100]}' not found")
    return found
