"""Threads: create, read, change, delete, search."""

import re
from collections.abc import Sequence
from typing import Any, get_args
from uuid import UUID

from contracts.api import ThreadCount, ThreadCreate, ThreadPatch, ThreadSearch, ThreadSelect
from domain import requests
from domain import thread as threads
from domain.changes import Changes
from domain.errors import AlreadyExists, InvalidField, NotSupported, Refused
from domain.lane import Lane
from domain.requests import RunPlan
from domain.thread import CreateThread, UpdateThread, thread_of
from projections import threads as thread_rows
from services.gateway.answers import shapes
from services.gateway.commands import execution, writes
from services.gateway.commands.endings import delete_thread
from services.gateway.http import USER, Answer, Call, Route, as_json, as_list, nothing
from services.gateway.parts import GatewayParts
from services.gateway.queries import fold
from services.gateway.queries.filters import SQL, THREADS, Filter
from services.gateway.queries.graphs import GraphsUnavailable
from services.gateway.queries.search import Row, count, page, row_query, rows_of, search, thread_row
from services.kit.ids import parse_uuid, uuid7

MOST_IDS = 10_000
MOST_PATHS = 10
PATH = re.compile(r"(values|metadata|config|interrupts)((?:\.[^.\[\]]+|\[-?[0-9]{1,6}\])*)")
STEP = re.compile(r"\.([^.\[\]]+)|\[(-?[0-9]+)\]")


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag = "threads"
    return [
        Route(method="POST", path="/threads", summary="Create a thread", handle=create, tag=tag, body=ThreadCreate),
        Route(method="POST", path="/threads/search", summary="Search threads", handle=find, tag=tag, body=ThreadSearch),
        Route(method="POST", path="/threads/count", summary="Count threads", handle=how_many, tag=tag, body=ThreadCount),
        Route(method="GET", path="/threads/{thread_id}", summary="Get a thread", handle=read, tag=tag),
        Route(method="PATCH", path="/threads/{thread_id}", summary="Merge into a thread's metadata", handle=change, tag=tag, body=ThreadPatch),
        Route(method="DELETE", path="/threads/{thread_id}", summary="Delete a thread with its runs and crons", handle=delete, tag=tag, status=204),
    ]  # fmt: skip


async def create(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads, empty or with the state that supersteps make: then all of it, or nothing."""
    body = call.body(ThreadCreate)
    if body.ttl is not None:
        raise NotSupported("ttl: not supported yet")
    thread_id = _chosen(body.thread_id) or uuid7()
    command = CreateThread(
        thread_id=thread_id, user_id=USER, metadata=body.metadata or {}, chosen=body.thread_id is not None
    )
    plan, run_id, keep = _first_state(parts, body), uuid7(), body.if_exists == "do_nothing"
    made = await execution.act(
        parts, call, thread_id, lambda: _created(parts, command, plan, run_id, keep=keep)
    )
    if plan is not None and made is not None:
        await _written_or_gone(parts, call, thread_id, run_id)
    row = fold.row(parts, thread_rows, "threads", thread_id) or thread_row(parts, thread_id)
    return as_json(shapes.thread(row, parts.log.blob))


def _chosen(text: str | None) -> UUID | None:
    if text is None:
        return None
    chosen = parse_uuid(text)
    if chosen is None:
        raise InvalidField("thread_id: Invalid thread ID: must be a UUID")
    return chosen


def _first_state(parts: GatewayParts, body: ThreadCreate) -> RunPlan | None:
    """The plan of the supersteps, if there are any. Raises InvalidField."""
    if not body.supersteps:
        return None
    updates, graph_id = writes.checked(body.supersteps), (body.metadata or {}).get("graph_id")
    if graph_id not in parts.graphs:
        known = ", ".join(parts.graphs)
        raise InvalidField(f"metadata.graph_id: must name the graph of the supersteps; graphs are {known}")
    return requests.state_plan(updates, {}, execution.assistant(parts, graph_id), USER)


def _created(
    parts: GatewayParts, command: CreateThread, plan: RunPlan | None, run_id: UUID, *, keep: bool
) -> Changes:
    thread_id = command.thread_id
    events = parts.log.newest([thread_id]).values()
    thread = thread_of(thread_id, events)
    if thread is not None and keep:
        return Changes()
    if events and thread is None:
        raise AlreadyExists(f"thread_id: the id {thread_id} is in use or was")
    created = Changes(appends=threads.appends(thread_id, None, threads.decide(thread, command)))
    if plan is None:
        return created
    line = requests.Line(lane=Lane(thread_id=thread_id))
    return created + requests.write_state(plan, run_id, line, command.metadata, parts.clock.now())


async def _written_or_gone(parts: GatewayParts, call: Call, thread_id: UUID, run_id: UUID) -> None:
    """Wait for the first state; when it can't be made, the thread is deleted again, and the reason raised."""
    try:
        await writes.written(parts, call, thread_id, run_id, "supersteps")
    except (Refused, GraphsUnavailable):
        await delete_thread(parts, call, thread_id)
        raise


async def read(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}."""
    return as_json(shapes.thread(thread_row(parts, call.uuid("thread_id")), parts.log.blob))


async def change(parts: GatewayParts, call: Call) -> Answer:
    """PATCH /threads/{thread_id}."""
    thread_id, body = call.uuid("thread_id"), call.body(ThreadPatch)
    if body.ttl is not None:
        raise NotSupported("ttl: not supported yet")

    def decide() -> Changes:
        thread = execution.thread(parts, thread_id)
        events = threads.decide(thread, UpdateThread(metadata=body.metadata or {}))
        return Changes(appends=threads.appends(thread_id, thread, events))

    await execution.act(parts, call, thread_id, decide)
    if "return=minimal" in call.headers.get("prefer", ""):
        return nothing()
    return as_json(shapes.thread(thread_row(parts, thread_id), parts.log.blob))


async def delete(parts: GatewayParts, call: Call) -> Answer:
    """DELETE /threads/{thread_id}: its runs are stopped, its crons end."""
    thread_id = call.uuid("thread_id")
    execution.thread(parts, thread_id)
    await delete_thread(parts, call, thread_id)
    return nothing()


async def find(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/search."""
    body = call.body(ThreadSearch)
    paths = _paths(body.extract or {})
    part = page(body.limit, body.offset, body.sort_by or "updated_at", body.sort_order)
    keys, headers = await search(parts.views, _filter(body), part)
    looks_in = {path[0] for path in paths.values()} | set(body.select or ["values"])
    query = row_query(THREADS) if "values" in looks_in else SQL["thread_without_values"]
    rows = rows_of(parts.views, query, keys)
    shown = (_shown(shapes.thread(row, parts.log.blob), body.select, paths) for row in rows)
    return await as_list(parts, shown, headers)


def _shown(thread: Row, names: Sequence[str] | None, paths: dict[str, list[str | int]]) -> Row:
    shown = {name: thread[name] for name in names} if names else thread
    if not paths:
        return shown
    return {**shown, "extracted": {alias: _at(thread, path) for alias, path in paths.items()}}


async def how_many(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/count."""
    return as_json(await count(parts.views, _filter(call.body(ThreadCount))))


def _filter(body: ThreadCount) -> Filter:
    wanted = Filter(THREADS)
    if body.ids is not None:
        if len(body.ids) > MOST_IDS:
            raise InvalidField(f"ids: at most {MOST_IDS} are allowed")
        ids = [parse_uuid(text) for text in body.ids]
        if None in ids:
            raise InvalidField("ids: every one must be a UUID")
        wanted.one_of([value.bytes for value in ids if value is not None])
    wanted.metadata(body.metadata)
    if body.values:
        # Values are payloads: the inline form is one level deeper. Large ones (by digest) do not match.
        wanted.holds("values", {"inline": body.values})
    wanted.equal("status", body.status)
    return wanted


def _paths(extract: dict[str, str]) -> dict[str, list[str | int]]:
    if len(extract) > MOST_PATHS:
        raise InvalidField(f"extract: at most {MOST_PATHS} paths are allowed")
    found: dict[str, list[str | int]] = {}
    for alias, path in extract.items():
        match = PATH.fullmatch(path)
        if match is None:
            raise InvalidField(
                f"extract.{alias}: '{path[:100]}' is not a path such as 'values.messages[-1].content'"
            )
        if not alias.isidentifier() or alias in get_args(ThreadSelect):
            raise InvalidField(f"extract: '{alias[:100]}' may not be an alias")
        steps: list[str | int] = [match[1]]
        steps += [key or int(index) for key, index in STEP.findall(match[2])]
        found[alias] = steps
    return found


def _at(value: Any, path: list[str | int]) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value
