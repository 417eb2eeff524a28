"""Runs of a thread: ask for one, list, read, wait for, delete."""

from collections.abc import AsyncIterator
from typing import Any, get_args
from uuid import UUID

import msgspec

from contracts.api import RunCreate
from domain import requests
from domain import run as runs
from domain import thread as threads
from domain.changes import Changes
from domain.errors import InvalidField, RunNotActive, RunNotFound, ThreadNotFound
from domain.request import check_fields, spec_of
from domain.requests import Occurrence, plan_of
from domain.run import CancelRun, DeleteRun, RunStatus
from domain.thread import CreateThread, thread_of
from services.gateway import acting, shapes
from services.gateway.http import USER, Answer, Call, Route, as_json, nothing
from services.gateway.parts import GatewayParts
from services.gateway.queries import by_id, selected
from services.kit.ids import parse_uuid, uuid7

ENDED = frozenset({"success", "error", "timeout", "interrupted"})
KEEP_ALIVE_S = 5.0
LIST = """
SELECT * FROM runs WHERE thread_id = ? AND (? IS NULL OR status = ?)
ORDER BY created_at DESC, run_id DESC LIMIT ? OFFSET ?
"""
SELECTABLE = frozenset(
    {
        "run_id", "thread_id", "assistant_id", "user_id", "created_at", "updated_at", "status", "metadata",
        "kwargs", "multitask_strategy", "input", "output", "error_message", "config", "context", "cancel_reason",
    }
)  # fmt: skip


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag, base = "runs", "/threads/{thread_id}/runs"
    return [
        Route(method="POST", path=base, summary="Start a run in the background", handle=create, tag=tag, body=RunCreate),
        Route(method="GET", path=base, summary="The runs of a thread, newest first", handle=listed, tag=tag, query={"limit": "1 to 1000, 10 by default", "offset": "from 0", "status": "only these", "select": "keys, may be repeated"}),
        Route(method="GET", path=base + "/{run_id}", summary="Get a run", handle=read, tag=tag),
        Route(method="GET", path=base + "/{run_id}/join", summary="Wait until a run has ended; its final values", handle=join, tag=tag),
        Route(method="DELETE", path=base + "/{run_id}", summary="Stop a run if need be, and delete it", handle=delete, tag=tag, status=204),
    ]  # fmt: skip


async def create(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/runs."""
    thread_id, body = call.uuid("thread_id"), call.body(RunCreate)
    check_fields(body)
    if parse_uuid(body.assistant_id) is None and body.assistant_id not in parts.graphs:
        known = ", ".join(parts.graphs)
        raise InvalidField(
            f"assistant_id: '{body.assistant_id[:100]}' is no UUID and no graph; graphs are {known}"
        )
    run_id = uuid7()
    await acting.act(parts, call, thread_id, lambda: _requested(parts, body, thread_id, run_id))
    where = {"Content-Location": f"/threads/{thread_id}/runs/{run_id}"}
    return as_json(shapes.run(_row(parts, thread_id, run_id), parts.log.blob), headers=where)


def _requested(parts: GatewayParts, body: RunCreate, thread_id: UUID, run_id: UUID) -> Changes:
    assistant = acting.assistant(parts, body.assistant_id)
    thread = thread_of(thread_id, parts.log.stream(thread_id))
    changes, metadata = Changes(), {}
    if thread is not None:
        metadata = thread.metadata
    elif body.if_not_exists == "create":
        command = CreateThread(thread_id=thread_id, user_id=USER, chosen=True)
        changes = Changes(appends=threads.appends(thread_id, None, threads.decide(None, command)))
    else:
        raise ThreadNotFound("Thread not found")
    plan = plan_of(spec_of(body), assistant, USER)
    occurrence = Occurrence(run_id=run_id, thread_id=thread_id, kind="")
    return changes + requests.request_on_thread(plan, occurrence, acting.lane(parts, thread_id), metadata)


async def listed(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/runs."""
    thread_id = call.uuid("thread_id")
    limit, offset = call.number("limit", 10, 1, 1000), call.number("offset", 0, 0, 1 << 53)
    status, select = call.text("status"), call.texts("select")
    if status is not None and status not in get_args(RunStatus):
        raise InvalidField(f"status: must be one of {', '.join(get_args(RunStatus))}")
    if unknown := set(select) - SELECTABLE:
        raise InvalidField(f"select: unknown {', '.join(sorted(unknown))[:200]}")
    if by_id(parts.views, "threads", "thread_id", thread_id) is None:
        raise ThreadNotFound("Thread not found")
    rows = parts.views.all(LIST, (thread_id.bytes, status, status, limit, offset))
    return as_json(selected([shapes.run(row, parts.log.blob) for row in rows], select))


async def read(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/runs/{run_id}."""
    row = _row(parts, call.uuid("thread_id"), call.uuid("run_id"))
    return as_json(shapes.run(row, parts.log.blob))


async def join(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/runs/{run_id}/join."""
    thread_id, run_id = call.uuid("thread_id"), call.uuid("run_id")
    if (call.text("cancel_on_disconnect") or "0").lower() in ("1", "true", "yes"):
        raise InvalidField("cancel_on_disconnect: not supported yet")
    row = _row(parts, thread_id, run_id)
    base = f"/threads/{thread_id}/runs/{run_id}"
    headers = {"Location": base + "/join", "Content-Location": base}
    if row["status"] in ENDED:
        return as_json(_result(parts, row), headers=headers)
    return Answer(200, headers=headers, pieces=_joined(parts, thread_id, run_id))


async def _joined(parts: GatewayParts, thread_id: UUID, run_id: UUID) -> AsyncIterator[bytes]:
    """Line feeds that keep the connection alive, then one JSON document."""
    spoken = parts.clock.monotonic_s()
    while True:
        row = by_id(parts.views, "runs", "run_id", run_id)
        if row is None or row["thread_id"] != thread_id.bytes:
            yield b"{}"  # deleted meanwhile
            return
        if row["status"] in ENDED:
            yield msgspec.json.encode(_result(parts, row))
            return
        await parts.changed(KEEP_ALIVE_S)
        if parts.clock.monotonic_s() - spoken >= KEEP_ALIVE_S:
            spoken = parts.clock.monotonic_s()
            yield b"\n"


def _result(parts: GatewayParts, row: dict[str, Any]) -> dict[str, Any]:
    if row["status"] == "error":
        return {"__error__": {"error": row["error"], "message": row["message"]}}
    if row["status"] == "timeout":
        return {"__error__": {"error": "TimeoutError", "message": "the run took longer than it may"}}
    values = shapes.value_of(row["output"], parts.log.blob)
    result = dict(values) if isinstance(values, dict) else ({} if values is None else {"__root__": values})
    interrupts = [i for entries in msgspec.json.decode(row["interrupts"]).values() for i in entries]
    if interrupts:
        result["__interrupt__"] = interrupts
    return result


async def delete(parts: GatewayParts, call: Call) -> Answer:
    """DELETE /threads/{thread_id}/runs/{run_id}: a run in flight is stopped first."""
    thread_id, run_id = call.uuid("thread_id"), call.uuid("run_id")
    if acting.run(parts, thread_id, run_id).is_active:
        await _stop(parts, call, thread_id, run_id)

    def decide() -> Changes:
        run = acting.run(parts, thread_id, run_id)
        return Changes(appends=runs.appends(run, runs.decide(run, DeleteRun())))

    await acting.act(parts, call, run_id, decide)
    return nothing()


async def _stop(parts: GatewayParts, call: Call, thread_id: UUID, run_id: UUID) -> None:
    def decide() -> Changes:
        run = acting.run(parts, thread_id, run_id)
        if not run.is_active:
            return Changes()
        lane = acting.lane(parts, thread_id)
        return requests.cancel(
            run, CancelRun(reason="deleted by request"), lane, acting.following(parts, lane, run_id)
        )

    await acting.act(parts, call, thread_id, decide)
    await acting.signal_cancel(parts, run_id)
    deadline = parts.clock.monotonic_s() + parts.settings.cancel_grace_s + 3 * parts.settings.lease_s
    while acting.run(parts, thread_id, run_id).is_active:
        if parts.clock.monotonic_s() > deadline:
            raise RunNotActive("The run has not stopped yet; try again.")
        await parts.changed(0.5)


def _row(parts: GatewayParts, thread_id: UUID, run_id: UUID) -> dict[str, Any]:
    row = by_id(parts.views, "runs", "run_id", run_id)
    if row is None or row["thread_id"] != thread_id.bytes:
        raise RunNotFound("Run not found")
    return row
