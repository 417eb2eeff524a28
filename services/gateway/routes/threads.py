"""Threads: create, read, change, delete, search, and the state that their last run left."""

import re
from typing import Any
from uuid import UUID

from contracts.api import ThreadCount, ThreadCreate, ThreadPatch, ThreadSearch
from domain import cron as crons
from domain import requests
from domain import thread as threads
from domain.changes import Changes
from domain.cron import DeleteCron, cron_of
from domain.errors import AlreadyExists, InvalidField, NotSupported, ThreadNotFound
from domain.run import run_of
from domain.thread import CreateThread, UpdateThread, thread_of
from services.gateway import acting, shapes
from services.gateway.http import USER, Answer, Call, Route, as_json, nothing
from services.gateway.parts import GatewayParts
from services.gateway.queries import Filter, by_id, count, page, search, selected
from services.kit.ids import parse_uuid, uuid7

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
        Route(method="GET", path="/threads/{thread_id}/state", summary="The state that the last run left", handle=state, tag=tag),
    ]  # fmt: skip


async def create(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads."""
    body = call.body(ThreadCreate)
    for name in ("ttl", "supersteps"):
        if getattr(body, name) is not None:
            raise NotSupported(f"{name}: not supported yet")
    thread_id = uuid7()
    if body.thread_id is not None:
        chosen = parse_uuid(body.thread_id)
        if chosen is None:
            raise InvalidField("thread_id: Invalid thread ID: must be a UUID")
        thread_id = chosen
    command = CreateThread(
        thread_id=thread_id, user_id=USER, metadata=body.metadata or {}, chosen=body.thread_id is not None
    )
    await acting.act(
        parts, call, thread_id, lambda: _created(parts, command, keep=body.if_exists == "do_nothing")
    )
    return as_json(shapes.thread(_row(parts, thread_id), parts.log.blob))


def _created(parts: GatewayParts, command: CreateThread, *, keep: bool) -> Changes:
    events = parts.log.stream(command.thread_id)
    thread = thread_of(command.thread_id, events)
    if thread is not None and keep:
        return Changes()
    if events and thread is None:
        raise AlreadyExists(f"thread_id: the id {command.thread_id} is in use or was")
    return Changes(appends=threads.appends(command.thread_id, None, threads.decide(thread, command)))


async def read(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}."""
    return as_json(shapes.thread(_row(parts, call.uuid("thread_id")), parts.log.blob))


async def change(parts: GatewayParts, call: Call) -> Answer:
    """PATCH /threads/{thread_id}."""
    thread_id, body = call.uuid("thread_id"), call.body(ThreadPatch)
    if body.ttl is not None:
        raise NotSupported("ttl: not supported yet")

    def decide() -> Changes:
        thread = acting.thread(parts, thread_id)
        events = threads.decide(thread, UpdateThread(metadata=body.metadata or {}))
        return Changes(appends=threads.appends(thread_id, thread, events))

    await acting.act(parts, call, thread_id, decide)
    if "return=minimal" in call.headers.get("prefer", ""):
        return nothing()
    return as_json(shapes.thread(_row(parts, thread_id), parts.log.blob))


async def delete(parts: GatewayParts, call: Call) -> Answer:
    """DELETE /threads/{thread_id}."""
    thread_id = call.uuid("thread_id")
    running: list[UUID] = []

    def decide() -> Changes:
        thread, lane = acting.thread(parts, thread_id), acting.lane(parts, thread_id)
        in_flight = [
            run for entry in lane.in_flight if (run := run_of(entry.run_id, parts.log.stream(entry.run_id)))
        ]
        running[:] = [run.run_id for run in in_flight if run.status == "running"]
        ended = _crons_end(parts, call, thread_id)
        return requests.delete_thread(thread, lane, in_flight, ended.appends)

    await acting.act(parts, call, thread_id, decide)
    for run_id in running:
        await acting.signal_cancel(parts, run_id)
    return nothing()


def _crons_end(parts: GatewayParts, call: Call, thread_id: UUID) -> Changes:
    changes = Changes()
    for row in parts.views.all("SELECT cron_id FROM crons WHERE thread_id = ?", (thread_id.bytes,)):
        cron_id = UUID(bytes=row["cron_id"])
        cron = cron_of(cron_id, parts.log.stream(cron_id))
        if cron is not None:
            decision = crons.decide(cron, DeleteCron(reason="thread_deleted"), call.meta(parts).at)
            changes += crons.changes(cron_id, cron, decision)
    return changes


async def find(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/search."""
    body = call.body(ThreadSearch)
    paths = _paths(body.extract or {})
    column = body.sort_by or "updated_at"
    part = page(body.limit, body.offset, column, "thread_id", body.sort_order)
    rows, headers = search(parts.views, "threads", _filter(body), part)
    whole = [shapes.thread(row, parts.log.blob) for row in rows]
    shown = selected(whole, body.select)
    if paths:
        shown = [
            {**thread, "extracted": {alias: _at(full, path) for alias, path in paths.items()}}
            for thread, full in zip(shown, whole, strict=True)
        ]
    return as_json(shown, headers=headers)


async def how_many(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/count."""
    return as_json(count(parts.views, "threads", _filter(call.body(ThreadCount))))


async def state(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/state."""
    return as_json(shapes.state(_row(parts, call.uuid("thread_id")), parts.log.blob))


def _filter(body: ThreadCount) -> Filter:
    wanted = Filter()
    if body.ids is not None:
        ids = [parse_uuid(text) for text in body.ids]
        if None in ids:
            raise InvalidField("ids: every one must be a UUID")
        marks = ",".join("?" * len(ids))
        wanted.add(f"thread_id IN ({marks})", *(value.bytes for value in ids if value is not None))
    wanted.contains("metadata", body.metadata)
    if body.values:
        # Values are payloads: the inline form is one level deeper. Large ones (by digest) do not match.
        wanted.contains("values", {"inline": body.values})
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
        if not alias.isidentifier() or alias in ("thread_id", "values", "metadata", "status", "config"):
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


def _row(parts: GatewayParts, thread_id: UUID) -> dict[str, Any]:
    row = by_id(parts.views, "threads", "thread_id", thread_id)
    if row is None:
        raise ThreadNotFound("Thread not found")
    return row
