"""Threads: made (empty or with a first state), changed, deleted."""

from uuid import UUID

from contracts.api import ThreadCreate
from domain import requests
from domain import thread as threads
from domain.changes import Changes
from domain.errors import AlreadyExists, InvalidField, NotSupported, Refused
from domain.lane import Lane
from domain.requests import RunPlan
from domain.thread import CreateThread, Thread, UpdateThread
from services.gateway.commands import writes
from services.gateway.commands.endings import delete_thread
from services.gateway.commands.execution import act
from services.gateway.envelope import Caller, uuid_of
from services.gateway.parts import GatewayParts
from services.gateway.queries.graphs import GraphsUnavailable
from services.kit.ids import uuid7
from services.repository import Aggregates


async def create(parts: GatewayParts, caller: Caller, body: ThreadCreate) -> UUID:
    """The id of the thread that is there now, with the state that supersteps make: all of it, or nothing.

    Raises InvalidField, NotSupported, AlreadyExists, and what a write raises.
    """
    if body.ttl is not None:
        raise NotSupported("ttl: not supported yet")
    thread_id = uuid7() if body.thread_id is None else uuid_of("thread_id", body.thread_id)
    plan, run_id, keep = await _first_state(parts, caller, body), uuid7(), body.if_exists == "do_nothing"
    command = CreateThread(
        thread_id=thread_id,
        user_id=caller.user_id,
        metadata=body.metadata or {},
        chosen=body.thread_id is not None,
    )

    def load(log: Aggregates) -> tuple[Thread | None, int]:
        return log.thread_or_none(thread_id), log.version(thread_id)

    def decide(found: tuple[Thread | None, int]) -> Changes:
        thread, version = found
        if thread is not None and keep:
            return Changes()
        if thread is None and version:
            raise AlreadyExists(f"thread_id: the id {thread_id} is in use or was")
        created = Changes(appends=threads.appends(thread_id, None, threads.decide(thread, command)))
        if plan is None:
            return created
        line = requests.Line(lane=Lane(thread_id=thread_id))
        return created + requests.write_state(plan, run_id, line, command.metadata, parts.clock.now())

    made = await act(parts, caller, thread_id, load, decide)
    if plan is not None and made is not None:
        await _written_or_gone(parts, caller, thread_id, run_id)
    return thread_id


async def change(parts: GatewayParts, caller: Caller, thread_id: UUID, command: UpdateThread) -> None:
    """Carry out the change. Raises ThreadNotFound."""

    def decide(thread: Thread) -> Changes:
        return Changes(appends=threads.appends(thread_id, thread, threads.decide(thread, command)))

    await act(parts, caller, thread_id, lambda log: log.thread(thread_id), decide)


async def _first_state(parts: GatewayParts, caller: Caller, body: ThreadCreate) -> RunPlan | None:
    """The plan of the supersteps, if there are any. Raises InvalidField."""
    if not body.supersteps:
        return None
    updates, graph_id = writes.checked(body.supersteps), (body.metadata or {}).get("graph_id")
    if graph_id not in parts.graphs:
        known = ", ".join(parts.graphs)
        raise InvalidField(f"metadata.graph_id: must name the graph of the supersteps; graphs are {known}")
    assistant = await parts.repository.load(lambda log: log.assistant(str(graph_id)))
    return requests.state_plan(updates, {}, assistant, caller.user_id)


async def _written_or_gone(parts: GatewayParts, caller: Caller, thread_id: UUID, run_id: UUID) -> None:
    """Wait for the first state; when it can't be made, the thread is deleted again, and the reason raised."""
    try:
        await writes.written(parts, caller, thread_id, run_id, "supersteps")
    except (Refused, GraphsUnavailable):
        await delete_thread(parts, caller, thread_id)
        raise
