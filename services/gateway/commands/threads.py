"""Threads: made (empty or with a first state), changed, deleted."""

from uuid import UUID

import msgspec

from contracts.api import ThreadCreate
from contracts.events import ThreadDeleted
from contracts.queries import ForgetDeleted
from domain import decisions
from domain import thread as threads
from domain.changes import Changes
from domain.decisions import RunPlan
from domain.errors import AlreadyExists, InvalidField, NotSupported, Refused
from domain.lane import Lane
from domain.thread import CreateThread, Thread, UpdateThread
from services.gateway.commands import writes
from services.gateway.commands.endings import delete_thread
from services.gateway.commands.execution import act
from services.gateway.envelope import Caller, uuid_of
from services.gateway.parts import GatewayParts
from services.gateway.queries.graphs import GraphsUnavailable, ask
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

    former = await former_version(parts, thread_id) if command.chosen else 0

    def decide(place: Occupancy) -> Changes:
        if place.thread is not None and keep:
            return Changes()
        created, lane = made(command, place, former, joined=plan is not None)
        if plan is None:
            return created
        line = decisions.Line(lane=lane)
        return created + decisions.write_state(plan, run_id, line, command.metadata, parts.clock.now())

    position = await act(parts, caller, thread_id, lambda log: place_of(log, thread_id), decide)
    if plan is not None and position is not None:
        await _written_or_gone(parts, caller, thread_id, run_id)
    return thread_id


class Occupancy(msgspec.Struct, frozen=True):
    """What is there under an id: a thread, or what a deleted one has left."""

    thread: Thread | None
    former: int  # the version at which its last life ended, 0 when there was none
    lane: Lane


def place_of(log: Aggregates, thread_id: UUID) -> Occupancy:
    """What is there under the id. Raises AlreadyExists when it is not one of a thread."""
    thread = log.thread_or_none(thread_id)
    return Occupancy(thread, 0 if thread else log.former(thread_id, ThreadDeleted), log.lane(thread_id))


async def former_version(parts: GatewayParts, thread_id: UUID) -> int:
    """The version behind which a new thread of that id begins: 0, or its former life's, whose checkpoints are gone.

    Gone before the new life begins, so that it never sees them, whatever becomes of us in between. Raises
    AlreadyExists, and GraphsUnavailable when nobody can remove them.
    """
    found = await parts.repository.load(lambda log: place_of(log, thread_id))
    if found.former:
        await ask(parts, ForgetDeleted(thread_id=str(thread_id)), None)
    return found.former


def made(command: CreateThread, place: Occupancy, former: int, *, joined: bool) -> tuple[Changes, Lane]:
    """The new thread, and its lane as a first run finds it that is to be `joined`.

    Raises AlreadyExists, ThreadBusy while runs of a deleted thread stop.
    """
    if place.thread is None and place.former != former:
        raise AlreadyExists(f"thread_id: thread {command.thread_id} was deleted this moment; try again")
    return decisions.create_thread(command, place.thread, place.former, place.lane, joined=joined)


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
    return decisions.state_plan(updates, {}, assistant, caller.user_id)


async def _written_or_gone(parts: GatewayParts, caller: Caller, thread_id: UUID, run_id: UUID) -> None:
    """Wait for the first state; when it can't be made, the thread is deleted again, and the reason raised."""
    try:
        await writes.written(parts, caller, thread_id, run_id, "supersteps")
    except (Refused, GraphsUnavailable):
        await delete_thread(parts, caller, thread_id)
        raise
