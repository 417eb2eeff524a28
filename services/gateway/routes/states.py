"""A thread's state: now, at a checkpoint, its history; written, and copied to a new thread."""

from typing import Any
from uuid import UUID, uuid4

import msgspec

from contracts import queries
from contracts.api import Checkpoint, HistoryQuery, StateAtCheckpoint, StateUpdate, StateWrite
from domain import thread as threads
from domain.assistant import Assistant, assistant_of, default_assistant_id
from domain.changes import Changes
from domain.errors import InvalidField, NotFound, ThreadNotFound, ThreadWithoutGraph
from domain.request import checkpoint_of, updates_of
from domain.requests import state_plan
from domain.thread import CreateThread
from services.gateway.answers import shapes
from services.gateway.commands import acting, writes
from services.gateway.http import USER, Answer, Call, Route, as_json
from services.gateway.parts import GatewayParts
from services.gateway.queries import graphs
from services.gateway.queries.graphs import GraphsUnavailable
from services.gateway.queries.search import Row, thread_row
from services.kit.ids import uuid7

MOST_CHARACTERS = 1024
"""Of a checkpoint's id or namespace; a namespace grows with each subgraph inside another."""
FLAGS = {"true": True, "1": True, "false": False, "0": False}


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag, base = "threads", "/threads/{thread_id}"
    subgraphs = {"subgraphs": "true: with the states of subgraphs that pause"}
    paging = {"limit": "1 to 1000, 10 by default", "before": "a checkpoint id: only states before it"}
    return [
        Route(method="GET", path=base + "/state", summary="The state of a thread", handle=newest, tag=tag, query=subgraphs),
        Route(method="POST", path=base + "/state", summary="Write into a thread's state, or fork it", handle=update, tag=tag, body=StateUpdate),
        Route(method="GET", path=base + "/state/{checkpoint_id}", summary="The state at a checkpoint", handle=at_id, tag=tag, query=subgraphs),
        Route(method="POST", path=base + "/state/checkpoint", summary="The state at a checkpoint", handle=at_checkpoint, tag=tag, body=StateAtCheckpoint),
        Route(method="GET", path=base + "/history", summary="States of a thread, newest first", handle=history, tag=tag, query=paging),
        Route(method="POST", path=base + "/history", summary="States of a thread, newest first", handle=search_history, tag=tag, body=HistoryQuery),
        Route(method="POST", path=base + "/copy", summary="Copy a thread with its state and history", handle=copy, tag=tag),
    ]  # fmt: skip


# --- read ---------------------------------------------------------------------------------------------


async def newest(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/state: without a worker, what the last run left."""
    thread_id, subgraphs = call.uuid("thread_id"), _flag(call, "subgraphs")
    try:
        return await _state(parts, thread_id, {"subgraphs": subgraphs})
    except (GraphsUnavailable, NotFound):
        if subgraphs:
            raise
        return as_json(shapes.state(thread_row(parts, thread_id), parts.log.blob))


async def at_id(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/state/{checkpoint_id}."""
    thread_id, subgraphs = call.uuid("thread_id"), _flag(call, "subgraphs")
    checkpoint_id = _checked("checkpoint_id", str(call.params["checkpoint_id"]))
    return await _state(parts, thread_id, {"checkpoint_id": checkpoint_id, "subgraphs": subgraphs})


async def at_checkpoint(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/state/checkpoint."""
    thread_id, body = call.uuid("thread_id"), call.body(StateAtCheckpoint)
    place = _place(body.checkpoint)
    return await _state(parts, thread_id, {**place, "subgraphs": bool(body.subgraphs)})


async def history(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/history."""
    thread_id = call.uuid("thread_id")
    fields: dict[str, Any] = {"limit": call.number("limit", 10, 1, 1000)}
    if (before := call.text("before")) is not None:
        fields["before"] = _checked("before", before)
    return await _history(parts, thread_id, fields)


async def search_history(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/history."""
    thread_id, body = call.uuid("thread_id"), call.body(HistoryQuery)
    fields: dict[str, Any] = {"limit": body.limit or 1, "metadata": body.metadata or None}
    if body.before is not None:
        fields["before"] = _before(body.before)
    if body.checkpoint is not None:
        fields["checkpoint_ns"] = _place(body.checkpoint)["checkpoint_ns"]
    return await _history(parts, thread_id, fields)


async def _state(parts: GatewayParts, thread_id: UUID, fields: dict[str, Any]) -> Answer:
    row = thread_row(parts, thread_id)
    if not _graph_of(row):
        return as_json(shapes.state(row, parts.log.blob))
    return await _told(parts, row, queries.State(**_about(parts, row), **fields))


async def _history(parts: GatewayParts, thread_id: UUID, fields: dict[str, Any]) -> Answer:
    row = thread_row(parts, thread_id)
    if not _graph_of(row):
        return as_json([])
    return await _told(parts, row, queries.History(**_about(parts, row), **fields))


async def _told(parts: GatewayParts, row: Row, query: queries.GraphQuery) -> Answer:
    _known(parts, query.graph_id)
    body: msgspec.Raw = await graphs.ask(parts, query, msgspec.Raw)
    return Answer(200, bytes(body))


def _about(parts: GatewayParts, row: Row) -> dict[str, Any]:
    """Which graph is asked about which thread, with the configuration of the newest run's assistant."""
    assistant = _assistant(parts, row)
    return {
        "graph_id": _graph_of(row),
        "thread_id": str(UUID(bytes=row["thread_id"])),
        "config": assistant.config if assistant else {},
        "context": (assistant.context or None) if assistant else None,
    }


def _graph_of(row: Row) -> str:
    """The graph of the thread: its newest run's, else the one that its metadata name; '' when there is none."""
    if row["temporary"]:
        return ""  # nothing of it is kept
    named = row["graph_id"] or msgspec.json.decode(row["metadata"]).get("graph_id")
    return named if isinstance(named, str) else ""


def _known(parts: GatewayParts, graph_id: str) -> None:
    if graph_id not in parts.graphs:
        raise NotFound(f"graph_id: the project has no graph '{graph_id[:100]}', which the thread belongs to")


def _assistant(parts: GatewayParts, row: Row) -> Assistant | None:
    """The assistant of the newest run; None when there was no run, or it is gone."""
    if row["assistant_id"] is None:
        return None
    assistant_id = UUID(bytes=row["assistant_id"])
    return assistant_of(assistant_id, parts.log.newest([assistant_id]).get(assistant_id))


# --- write --------------------------------------------------------------------------------------------


async def update(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/state."""
    thread_id, body = call.uuid("thread_id"), call.body(StateUpdate)
    checkpoint = _start(body)
    assistant = _writing_assistant(parts, thread_row(parts, thread_id))
    updates = [updates_of([StateWrite(values=body.values, as_node=body.as_node)])]
    run_id = uuid7()
    plan = state_plan(updates, checkpoint, assistant, USER)
    await writes.write(parts, call, thread_id, run_id, plan)
    row = await writes.written(parts, call, thread_id, run_id, "values")
    return as_json(shapes.state_written(row))


def _start(body: StateUpdate) -> dict[str, Any]:
    """The checkpoint that is written on top of, or the subgraph that is written into; empty: the newest."""
    if body.checkpoint_id is not None:
        _checked("checkpoint_id", body.checkpoint_id)
    if body.checkpoint is None:
        return checkpoint_of(None, body.checkpoint_id)
    place = _place(body.checkpoint)
    named = checkpoint_of(body.checkpoint, body.checkpoint_id)
    return named or ({"checkpoint_ns": place["checkpoint_ns"]} if place["checkpoint_ns"] else {})


def _writing_assistant(parts: GatewayParts, row: Row) -> Assistant:
    """Whose configuration the graph has while the state is written. Raises ThreadWithoutGraph, NotFound."""
    graph_id = _graph_of(row)
    if not graph_id:
        raise ThreadWithoutGraph(
            "Thread has no graph: start a run on it, or create it with 'graph_id' in its metadata."
        )
    _known(parts, graph_id)
    assistant = _assistant(parts, row) or acting.assistant(parts, str(default_assistant_id(graph_id)))
    # It may have been given another graph since the run.
    return msgspec.structs.replace(assistant, graph_id=graph_id)


# --- copy ---------------------------------------------------------------------------------------------


async def copy(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/copy: checkpoints first, so that the new thread is whole when it appears."""
    thread_id, copy_id = call.uuid("thread_id"), uuid4()
    source = thread_row(parts, thread_id)
    if source["temporary"]:
        raise ThreadNotFound("Thread not found")
    if _graph_of(source):
        await graphs.ask(parts, queries.Copy(thread_id=str(thread_id), to_thread_id=str(copy_id)), None)
    command = CreateThread(
        thread_id=copy_id,
        user_id=USER,
        metadata=msgspec.json.decode(source["metadata"]),
        copied_from=thread_id,
    )

    def decide() -> Changes:
        acting.thread(parts, thread_id)
        return Changes(appends=threads.appends(copy_id, None, threads.decide(None, command)))

    await acting.act(parts, call, copy_id, decide)
    return as_json(shapes.thread(thread_row(parts, copy_id), parts.log.blob))


# --- what clients say ---------------------------------------------------------------------------------


def _place(checkpoint: Checkpoint) -> dict[str, Any]:
    """Namespace and id of the checkpoint; in a subgraph the id may be in the map alone."""
    namespace = checkpoint.checkpoint_ns or ""
    mapped = (checkpoint.checkpoint_map or {}).get(namespace)
    checkpoint_id = checkpoint.checkpoint_id or mapped
    if checkpoint_id is not None:
        checkpoint_id = _checked("checkpoint.checkpoint_id", checkpoint_id)
    if namespace:
        _checked("checkpoint.checkpoint_ns", namespace)
    return {"checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}


def _before(before: str | dict[str, Any]) -> str:
    """The id in any form: itself, in a checkpoint, in a config that holds one. Raises InvalidField."""
    if isinstance(before, str):
        return _checked("before", before)
    holder = before.get("configurable", before)
    return _checked("before", holder.get("checkpoint_id") if isinstance(holder, dict) else None)


def _checked(field: str, value: Any) -> str:
    """What may be an id or a namespace of a checkpoint. Raises InvalidField."""
    if isinstance(value, str) and 0 < len(value) <= MOST_CHARACTERS and value.isprintable():
        return value
    raise InvalidField(
        f"{field}: must name a checkpoint, with at most {MOST_CHARACTERS} printable characters"
    )


def _flag(call: Call, name: str) -> bool:
    given = call.text(name)
    if given is None:
        return False
    if given.lower() not in FLAGS:
        raise InvalidField(f"{name}: must be true or false")
    return FLAGS[given.lower()]
