"""Runs of a thread: ask for one, list, read, wait for, watch, stop, delete."""

from typing import Literal, get_args
from uuid import UUID

from contracts.api import RunCreate
from domain import requests
from domain import run as run_domain
from domain.changes import Changes
from domain.errors import InvalidField, NotSupported, RunNotActive, RunNotFound
from domain.run import CancelRun, DeleteRun, RunStatus
from services.gateway.answers import shapes
from services.gateway.commands import acting, runs
from services.gateway.commands.endings import stop_run
from services.gateway.commands.runs import Asked
from services.gateway.http import Answer, Call, Route, as_json, as_list, nothing
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import RUNS, SQL
from services.gateway.queries.search import Row, by_id, row_query, rows_of, selected, thread_row
from services.gateway.streams import followers, frames
from services.gateway.streams.channels import Listener
from services.gateway.streams.frames import Wanted
from services.kit.ids import uuid7

REQUESTED = "cancelled by request"
SELECTABLE = frozenset(
    {
        "run_id", "thread_id", "assistant_id", "user_id", "created_at", "updated_at", "status", "metadata",
        "kwargs", "multitask_strategy", "input", "output", "error_message", "config", "context", "cancel_reason",
    }
)  # fmt: skip
LARGE = frozenset({"kwargs", "input", "output", "config", "context"})
PAGING = {"limit": "1 to 1000, 10 by default", "offset": "from 0", "status": "only these", "select": "keys, may be repeated"}  # fmt: skip
LEAVING = {"cancel_on_disconnect": "true: stop the run when the client goes away"}
WATCHING = {"stream_mode": "only events of these modes: repeated, a JSON array, or with commas", **LEAVING}
CANCELLING = {"wait": "1: answer when it has stopped", "action": "interrupt (default) or rollback", "reason": "why, for the run and the ledger"}  # fmt: skip
MOST_REASON = 1000
Action = Literal["interrupt", "rollback"]


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag, base = "runs", "/threads/{thread_id}/runs"
    one, alone = base + "/{run_id}", "/runs/{run_id}"
    return [
        Route(method="POST", path=base, summary="Start a run in the background", handle=create, tag=tag, body=RunCreate),
        Route(method="POST", path=base + "/stream", summary="Start a run and stream its events", handle=create_and_stream, tag=tag, body=RunCreate),
        Route(method="POST", path=base + "/wait", summary="Start a run and wait for its final values", handle=create_and_wait, tag=tag, body=RunCreate),
        Route(method="GET", path=base, summary="The runs of a thread, newest first", handle=listed, tag=tag, query=PAGING),
        Route(method="GET", path=one, summary="Get a run", handle=read, tag=tag),
        Route(method="GET", path=one + "/join", summary="Wait until a run has ended; its final values", handle=join, tag=tag, query=LEAVING),
        Route(method="GET", path=one + "/stream", summary="Stream the events of a run", handle=watch, tag=tag, query=WATCHING),
        Route(method="POST", path=one + "/cancel", summary="Stop a run", handle=cancel, tag=tag, query=CANCELLING, status=202),
        Route(method="DELETE", path=one, summary="Stop a run if need be, and delete it", handle=delete, tag=tag, status=204),
        Route(method="GET", path=alone, summary="Get a run, whichever thread it is on", handle=read, tag=tag),
        Route(method="GET", path=alone + "/join", summary="Wait until a run has ended; its final values", handle=join, tag=tag, query=LEAVING),
        Route(method="GET", path=alone + "/stream", summary="Stream the events of a run", handle=watch, tag=tag, query=WATCHING),
    ]  # fmt: skip


# --- ask for one --------------------------------------------------------------------------------------


async def create(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/runs."""
    body, asked = _asked(parts, call)
    await runs.on_thread(parts, call, body, asked)
    return as_json(runs.shown(parts, asked), headers={"Content-Location": asked.path})


async def create_and_stream(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/runs/stream."""
    check_stream(call)
    body, asked = _asked(parts, call)
    listener = await parts.live.listen(asked.run_id)  # before it can begin, so that nothing is missed
    try:
        await runs.on_thread(parts, call, body, asked)
    except BaseException:
        listener.close()
        raise
    return streamed_from_birth(parts, call, body, asked, listener)


async def create_and_wait(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/runs/wait."""
    body, asked = _asked(parts, call)
    await runs.on_thread(parts, call, body, asked)
    return followers.waited(parts, call, asked, cancels=body.on_disconnect == "cancel")


def _asked(parts: GatewayParts, call: Call) -> tuple[RunCreate, Asked]:
    thread_id, body = call.uuid("thread_id"), call.body(RunCreate)
    runs.check(parts, body)
    return body, Asked(uuid7(), thread_id)


# --- look ---------------------------------------------------------------------------------------------


async def listed(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/runs."""
    thread_id = call.uuid("thread_id")
    limit, offset = call.number("limit", 10, 1, 1000), call.number("offset", 0, 0, 1 << 53)
    status, select = call.text("status"), call.texts("select")
    if status is not None and status not in get_args(RunStatus):
        raise InvalidField(f"status: must be one of {', '.join(get_args(RunStatus))}")
    if unknown := set(select) - SELECTABLE:
        raise InvalidField(f"select: unknown {', '.join(sorted(unknown))[:200]}")
    thread_row(parts, thread_id)
    name, params = ("runs_of_thread", ()) if status is None else ("runs_of_thread_by_status", (status,))
    found = parts.views.all(SQL[name], (thread_id.bytes, *params, limit, offset))
    query = SQL["run_without_values"] if select and not LARGE & set(select) else row_query(RUNS)
    rows = rows_of(parts.views, query, [row["id"] for row in found])
    return await as_list(parts, selected((shapes.run(row, parts.log.blob) for row in rows), select))


async def read(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/runs/{run_id} and GET /runs/{run_id}."""
    return as_json(shapes.run(_named(parts, call), parts.log.blob))


async def join(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/runs/{run_id}/join and GET /runs/{run_id}/join."""
    cancels = bool(call.flag("cancel_on_disconnect"))
    return followers.waited(parts, call, _place(_named(parts, call)), cancels=cancels)


async def watch(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/runs/{run_id}/stream and GET /runs/{run_id}/stream."""
    check_stream(call)
    cancels = bool(call.flag("cancel_on_disconnect"))
    modes = frames.modes_of(call.texts("stream_mode"))
    since = frames.mark_of(call.headers.get("last-event-id"))
    row = _named(parts, call)
    is_resumable = bool((shapes.value_of(row["kwargs"], parts.log.blob) or {}).get("resumable"))
    asked = _place(row)
    listener = await parts.live.listen(asked.run_id)
    wanted = Wanted(modes, with_ids=is_resumable)
    if not is_resumable:
        since = None  # its events have no ids, so nothing tells where to go on
    return followers.streamed(parts, call, asked, listener, wanted, since=since, cancels=cancels)


# --- stop ---------------------------------------------------------------------------------------------


async def cancel(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/runs/{run_id}/cancel."""
    asked = Asked(call.uuid("run_id"), call.uuid("thread_id"))
    waits = bool(call.flag("wait"))
    await stop(parts, call, asked, action_of(call))
    return followers.stopped(parts, call, asked) if waits else nothing(202)


def reason_of(call: Call) -> str:
    """Why the query says that it is to stop. Raises InvalidField."""
    reason = call.text("reason") or REQUESTED
    if len(reason) > MOST_REASON:
        raise InvalidField(f"reason: at most {MOST_REASON} characters are allowed")
    return reason


def check_stream(call: Call) -> None:
    """Refuse a choice of events that we do not make. Raises NotSupported."""
    if call.texts("namespace"):
        raise NotSupported("namespace: not supported; events of graphs inside come with `stream_subgraphs`")


def action_of(call: Call) -> Action:
    """What the query asks for; anything unknown means interrupt, as clients expect."""
    return "rollback" if call.text("action") == "rollback" else "interrupt"


async def stop(parts: GatewayParts, call: Call, asked: Asked, action: Action) -> None:
    """Ask that the run stops. Raises RunNotFound when it has ended, or is being stopped."""

    def decide() -> Changes:
        run = acting.run(parts, asked.thread_id, asked.run_id)
        if run.request.kind == "state":
            raise RunNotFound("Run not found")
        lane = acting.lane(parts, asked.thread_id)
        return requests.cancel(run, CancelRun(action=action, reason=reason), lane)

    reason = reason_of(call)
    try:
        await acting.act(parts, call, asked.thread_id, decide)
    except RunNotActive:
        raise RunNotFound("Run not found or not active") from None


async def delete(parts: GatewayParts, call: Call) -> Answer:
    """DELETE /threads/{thread_id}/runs/{run_id}: a run in flight is stopped first."""
    asked = _place(_named(parts, call))
    await stop_run(parts, call, asked.thread_id, asked.run_id, "deleted by request")
    timeout_s = parts.settings.cancel_grace_s + 3 * parts.settings.lease_s
    if not await parts.ends.wait(asked.run_id, timeout_s):
        raise RunNotActive("The run has not stopped yet; try again.")

    def decide() -> Changes:
        run = acting.run(parts, asked.thread_id, asked.run_id)
        return Changes(appends=run_domain.appends(run, run_domain.decide(run, DeleteRun())))

    await acting.act(parts, call, asked.run_id, decide)
    return nothing()


# --- shared -------------------------------------------------------------------------------------------


def streamed_from_birth(
    parts: GatewayParts, call: Call, body: RunCreate, asked: Asked, listener: Listener
) -> Answer:
    """The stream of a run that was just asked for."""
    wanted = Wanted(with_ids=bool(body.stream_resumable))
    cancels = body.on_disconnect == "cancel"
    return followers.streamed(parts, call, asked, listener, wanted, whole=True, cancels=cancels)


def visible(parts: GatewayParts, run_id: UUID) -> Row:
    """The row of a run that clients may see. Raises RunNotFound."""
    row = by_id(parts.views, "runs", "run_id", run_id)
    if row is None or row["hidden"]:
        raise RunNotFound("Run not found")
    return row


def _named(parts: GatewayParts, call: Call) -> Row:
    """The row of the run in the path; a thread in the path must be its own."""
    thread_id = call.uuid("thread_id") if "thread_id" in call.params else None
    row = visible(parts, call.uuid("run_id"))
    if thread_id is not None and row["thread_id"] != thread_id.bytes:
        raise RunNotFound("Run not found")
    return row


def _place(row: Row) -> Asked:
    return Asked(UUID(bytes=row["run_id"]), UUID(bytes=row["thread_id"]))
