"""States of threads: written, and copied to a new thread."""

from typing import Any
from uuid import UUID, uuid4

import msgspec

from contracts import queries
from contracts.answers.states import StateWritten
from contracts.api import Checkpoint, StateUpdate, StateWrite
from domain import thread as threads
from domain.changes import Changes
from domain.decisions import state_plan
from domain.errors import InvalidField, ThreadNotFound
from domain.spec import checkpoint_of, updates_of
from domain.thread import CreateThread
from services.gateway.answers import states as answers
from services.gateway.commands import writes
from services.gateway.commands.execution import act
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.gateway.queries import graphs
from services.gateway.queries import states as known
from services.kit.ids import uuid7

MOST_CHARACTERS = 1024
"""Of a checkpoint's id or namespace; a namespace grows with each subgraph inside another."""


async def update(parts: GatewayParts, caller: Caller, thread_id: UUID, body: StateUpdate) -> StateWritten:
    """Write into the thread's state, or fork it. Raises ThreadBusy, LaneFull, NotFound, and what a write raises."""
    checkpoint = _start(body)
    assistant = await known.writing_assistant(parts, await known.belonging(parts, thread_id))
    updates = [updates_of([StateWrite(values=body.values, as_node=body.as_node)])]
    await known.must_have(parts, thread_id, checkpoint)
    run_id = uuid7()
    await writes.ask(
        parts, caller, thread_id, run_id, state_plan(updates, checkpoint, assistant, caller.user_id)
    )
    return answers.written(await writes.written(parts, caller, thread_id, run_id, "values"))


async def copy(parts: GatewayParts, caller: Caller, thread_id: UUID) -> UUID:
    """The id of a new thread with the same state and history: checkpoints first, so that it is whole when it appears."""
    copy_id, source = uuid4(), await known.belonging(parts, thread_id)
    if source.row["temporary"]:
        raise ThreadNotFound("Thread not found")
    if source.graph_id:
        await graphs.ask(parts, queries.Copy(thread_id=str(thread_id), to_thread_id=str(copy_id)), None)
    command = CreateThread(
        thread_id=copy_id,
        user_id=caller.user_id,
        metadata=msgspec.json.decode(source.row["metadata"]),
        copied_from=thread_id,
    )
    created = Changes(appends=threads.appends(copy_id, None, threads.decide(None, command)))
    await act(parts, caller, copy_id, lambda log: log.thread(thread_id), lambda _: created)
    return copy_id


def place_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Namespace and id of the checkpoint; in a subgraph the id may be in the map alone. Raises InvalidField."""
    namespace = checkpoint.checkpoint_ns or ""
    mapped = (checkpoint.checkpoint_map or {}).get(namespace)
    checkpoint_id = checkpoint.checkpoint_id or mapped
    if checkpoint_id is not None:
        checkpoint_id = checked("checkpoint.checkpoint_id", checkpoint_id)
    if namespace:
        checked("checkpoint.checkpoint_ns", namespace)
    return {"checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}


def checked(field: str, value: Any) -> str:
    """What may be an id or a namespace of a checkpoint. Raises InvalidField."""
    if isinstance(value, str) and 0 < len(value) <= MOST_CHARACTERS and value.isprintable():
        return value
    raise InvalidField(
        f"{field}: must name a checkpoint, with at most {MOST_CHARACTERS} printable characters"
    )


def _start(body: StateUpdate) -> dict[str, Any]:
    """The checkpoint that is written on top of, or the subgraph that is written into; empty: the newest."""
    if body.checkpoint_id is not None:
        checked("checkpoint_id", body.checkpoint_id)
    if body.checkpoint is None:
        return checkpoint_of(None, body.checkpoint_id)
    namespace = place_of(body.checkpoint)["checkpoint_ns"]
    named = checkpoint_of(body.checkpoint, body.checkpoint_id)
    return named or ({"checkpoint_ns": namespace} if namespace else {})
