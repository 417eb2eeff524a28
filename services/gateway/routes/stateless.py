"""Runs that bring their own thread, one or many at once; and the stop of many."""

import asyncio
from uuid import UUID

from contracts.api import RunsCancel, StatelessRunCreate
from domain.errors import InvalidField, Refused, RunNotFound
from services.gateway.commands import runs
from services.gateway.commands.runs import Asked
from services.gateway.http import Answer, Call, Route, as_json, nothing
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import SQL
from services.gateway.routes.runs import (
    CANCELLING,
    Action,
    action_of,
    check_stream,
    stop,
    streamed_from_birth,
)
from services.gateway.streams import followers
from services.kit.ids import parse_uuid, uuid7

MOST_RUNS = 1000
"""In one batch: they are one transaction."""
AT_ONCE = 16


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag, body = "runs", StatelessRunCreate
    action = {name: CANCELLING[name] for name in ("action", "reason")}
    return [
        Route(method="POST", path="/runs", summary="Start a run with a thread of its own", handle=create, tag=tag, body=body),
        Route(method="POST", path="/runs/stream", summary="The same, and stream its events", handle=create_and_stream, tag=tag, body=body),
        Route(method="POST", path="/runs/wait", summary="The same, and wait for its final values", handle=create_and_wait, tag=tag, body=body),
        Route(method="POST", path="/runs/batch", summary="Start several such runs: all or none", handle=create_batch, tag=tag, body=list[StatelessRunCreate]),
        Route(method="POST", path="/runs/cancel", summary="Stop runs: by status, or of a thread", handle=cancel_many, tag=tag, body=RunsCancel, query=action, status=204),
    ]  # fmt: skip


# --- ask for some -------------------------------------------------------------------------------------


async def create(parts: GatewayParts, call: Call) -> Answer:
    """POST /runs."""
    body = _body(parts, call)
    asked = Asked(uuid7(), uuid7())
    await runs.stateless(parts, call, [(asked, body)])
    return as_json(runs.shown(parts, asked), headers={"Content-Location": asked.path})


async def create_and_stream(parts: GatewayParts, call: Call) -> Answer:
    """POST /runs/stream."""
    check_stream(call)
    body = _body(parts, call)
    asked = Asked(uuid7(), uuid7())
    listener = await parts.live.listen(asked.run_id)
    try:
        await runs.stateless(parts, call, [(asked, body)])
    except BaseException:
        listener.close()
        raise
    return streamed_from_birth(parts, call, body, asked, listener)


async def create_and_wait(parts: GatewayParts, call: Call) -> Answer:
    """POST /runs/wait."""
    body = _body(parts, call)
    asked = Asked(uuid7(), uuid7())
    await runs.stateless(parts, call, [(asked, body)])
    return followers.waited(parts, call, asked, cancels=body.on_disconnect == "cancel")


async def create_batch(parts: GatewayParts, call: Call) -> Answer:
    """POST /runs/batch."""
    bodies = call.body(list[StatelessRunCreate])
    if not 1 <= len(bodies) <= MOST_RUNS:
        raise InvalidField(f"body: must have 1 to {MOST_RUNS} runs")
    for number, body in enumerate(bodies):
        _check_numbered(parts, number, body)
    wanted = [(Asked(uuid7(), uuid7()), body) for body in bodies]
    await runs.stateless(parts, call, wanted)
    return as_json([runs.shown(parts, asked) for asked, _ in wanted])


def _body(parts: GatewayParts, call: Call) -> StatelessRunCreate:
    body = call.body(StatelessRunCreate)
    runs.check_own_thread(parts, body)
    return body


def _check_numbered(parts: GatewayParts, number: int, body: StatelessRunCreate) -> None:
    """Check it, and say of which of the runs it is that something is wrong."""
    try:
        runs.check_own_thread(parts, body)
    except Refused as exc:
        raise type(exc)(f"[{number}].{exc}") from None


# --- stop some ----------------------------------------------------------------------------------------


async def cancel_many(parts: GatewayParts, call: Call) -> Answer:
    """POST /runs/cancel."""
    found = _chosen(parts, call.body(RunsCancel))
    places, action = asyncio.Semaphore(AT_ONCE), action_of(call)

    async def stopped(asked: Asked) -> bool:
        async with places:
            return await _stopped(parts, call, asked, action)

    if not any(await asyncio.gather(*(stopped(asked) for asked in found))):
        raise RunNotFound("No runs found to cancel")
    return nothing()


async def _stopped(parts: GatewayParts, call: Call, asked: Asked, action: Action) -> bool:
    try:
        await stop(parts, call, asked, action)
    except RunNotFound:
        return False  # it has ended meanwhile
    return True


def _chosen(parts: GatewayParts, body: RunsCancel) -> list[Asked]:
    if body.status is not None:
        if body.thread_id is not None or body.run_ids is not None:
            raise InvalidField("status: may not be given together with thread_id or run_ids")
        active = parts.views.all(SQL["active_runs"])
        rows = [row for row in active if body.status in ("all", row["status"])]
        return [Asked(UUID(bytes=row["run_id"]), UUID(bytes=row["thread_id"])) for row in rows]
    if body.thread_id is None or not body.run_ids:
        raise InvalidField("run_ids: needed with thread_id, unless a status is given")
    thread_id = _id("thread_id", body.thread_id)
    return [Asked(_id("run_ids", text), thread_id) for text in dict.fromkeys(body.run_ids)]


def _id(field: str, text: str) -> UUID:
    value = parse_uuid(text)
    if value is None:
        raise InvalidField(f"{field}: '{text[:100]}' must be a UUID")
    return value
