"""Crons: create, read, change, delete, search, and what they did and will do."""

from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from contracts.api import CRON_EXTENSIONS, CronCount, CronCreate, CronPatch, CronSearch
from contracts.ledger import Expect
from domain import cron as crons
from domain import requests
from domain.assistant import Assistant
from domain.changes import Changes
from domain.cron import CreateCron, Cron, DeleteCron, UpdateCron, cron_of
from domain.croniter_witness import witness_warnings
from domain.errors import CronNotFound, EmptyUpdate, InvalidField, NotSupported, TooManyCrons
from domain.request import (
    SPEC_FIELDS,
    check_config,
    check_fields,
    clean_spec,
    client_keys,
    spec_of,
)
from domain.requests import Occurrence, plan_of
from domain.schedule import dst_kind, local_time, next_after, parse, zone
from projections import crons as cron_rows
from services.gateway.answers import shapes
from services.gateway.commands import acting, runs
from services.gateway.http import USER, Answer, Call, Route, as_json, as_list, nothing
from services.gateway.parts import GatewayParts
from services.gateway.queries import fold
from services.gateway.queries.filters import CRONS, OCCURRENCES, SQL, Filter
from services.gateway.queries.search import by_id, count, page, row_query, rows_of, search, selected
from services.kit.ids import uuid7

COLUMNS = {"next_run_date": "next_at", "end_time": "end_at"}
SINGLE_RUN_FIELDS = ("command", "checkpoint", "checkpoint_id", "after_seconds")
WITNESS_S = 3600
"""The witness is asked once an hour for the same schedule: it costs more than everything else here."""


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag = "crons"
    return [
        Route(method="POST", path="/threads/{thread_id}/runs/crons", summary="Create a cron for a thread", handle=create_for_thread, tag=tag, body=CronCreate),
        Route(method="POST", path="/runs/crons", summary="Create a cron whose runs have a thread each", handle=create_stateless, tag=tag, body=CronCreate),
        Route(method="POST", path="/runs/crons/search", summary="Search crons", handle=find, tag=tag, body=CronSearch),
        Route(method="POST", path="/runs/crons/count", summary="Count crons", handle=how_many, tag=tag, body=CronCount),
        Route(method="GET", path="/runs/crons/{cron_id}", summary="Get a cron", handle=read, tag=tag),
        Route(method="PATCH", path="/runs/crons/{cron_id}", summary="Change, pause or resume a cron", handle=change, tag=tag, body=CronPatch),
        Route(method="DELETE", path="/runs/crons/{cron_id}", summary="Delete a cron", handle=delete, tag=tag, status=204),
        Route(method="GET", path="/runs/crons/{cron_id}/upcoming", summary="The next occurrences of a cron", handle=upcoming, tag=tag, query={"limit": "1 to 1000, 10 by default"}),
        Route(method="GET", path="/runs/crons/{cron_id}/occurrences", summary="What became of each occurrence, newest first", handle=past, tag=tag, query={"status": "fired, skipped or missed", "limit": "1 to 1000, 100 by default", "offset": "from 0"}),
    ]  # fmt: skip


async def create_for_thread(parts: GatewayParts, call: Call) -> Answer:
    """POST /threads/{thread_id}/runs/crons."""
    return await _create(parts, call, call.uuid("thread_id"))


async def create_stateless(parts: GatewayParts, call: Call) -> Answer:
    """POST /runs/crons."""
    return await _create(parts, call, None)


async def _create(parts: GatewayParts, call: Call, thread_id: UUID | None) -> Answer:
    body = call.body(CronCreate)
    _refuse_extensions(call, body)
    check_fields(body)
    if body.if_not_exists == "create":
        raise NotSupported("if_not_exists: 'create' is not supported on crons; create the thread first")
    for name in SINGLE_RUN_FIELDS:
        if getattr(body, name) is not None:
            raise NotSupported(f"{name}: is for a single run, not for a cron")
    if body.timezone == "":
        zone("")
    cron_id, run_id = uuid7(), uuid7()

    def decide() -> Changes:
        return _created(parts, call, body, cron_id, run_id, thread_id)

    await acting.act(parts, call, thread_id or cron_id, decide)
    row, run_row = fold.row(parts, cron_rows, "crons", cron_id), runs.first_row(parts, run_id)
    if row is None:
        raise CronNotFound("Cron was deleted at once")
    headers = {}
    if run_row is not None:
        headers["Content-Location"] = f"/threads/{shapes.uuid(run_row['thread_id'])}/runs/{run_id}"
    shown = shapes.created(row, run_row, _warnings(row, parts), parts.log.blob)
    return as_json(shown, headers=headers)


def _created(
    parts: GatewayParts, call: Call, body: CronCreate, cron_id: UUID, run_id: UUID, thread_id: UUID | None
) -> Changes:
    now = call.meta(parts).at
    thread = None if thread_id is None else acting.thread(parts, thread_id)
    assistant = acting.assistant(parts, body.assistant_id)
    _check_cap(parts)
    spec = spec_of(body)
    enabled = body.enabled is not False
    command = CreateCron(
        cron_id=cron_id,
        assistant_id=assistant.assistant_id,
        graph_id=assistant.graph_id,
        user_id=USER,
        schedule=body.schedule,
        spec=spec,
        thread_id=thread_id,
        timezone=body.timezone,
        end_time=body.end_time,
        enabled=enabled,
        on_run_completed=body.on_run_completed,
        seconds=parts.settings.seconds == "first",
    )
    changes = crons.changes(cron_id, None, crons.decide(None, command, now))
    # Nobody may delete what it rests on in between, and leave it behind.
    changes += Changes(expects=(Expect(assistant.assistant_id, assistant.version),))
    if thread is not None:
        changes += Changes(expects=(Expect(thread.thread_id, thread.version),))
    if not enabled or parts.settings.first_run != "immediate":
        return changes
    metadata = {} if thread is None else thread.metadata
    return changes + _first_run(parts, command, assistant, run_id, metadata, now)


def _first_run(
    parts: GatewayParts,
    command: CreateCron,
    assistant: Assistant,
    run_id: UUID,
    metadata: dict[str, Any],
    now: datetime,
) -> Changes:
    temporary = command.thread_id is None and (command.on_run_completed or "delete") == "delete"
    plan = plan_of(
        command.spec,
        assistant,
        USER,
        cron_id=command.cron_id,
        revision=1,
        cron_metadata={**(command.spec.get("metadata") or {})},
        temporary=temporary,
    )
    occurrence = Occurrence(run_id=run_id, thread_id=command.thread_id or uuid7(), kind="first")
    if command.thread_id is None:
        return requests.request_stateless(plan, occurrence, now)
    line = acting.line(parts, command.thread_id, plan.strategy)
    limit = parts.settings.waiting_per_thread
    return requests.request_on_thread(plan, occurrence, line, metadata, now, limit)


def _check_cap(parts: GatewayParts) -> None:
    most = parts.settings.crons_per_user
    if not most:
        return
    row = parts.views.one(SQL["crons_of_user"], (USER, most))
    if row is not None and row["n"] >= most:
        raise TooManyCrons(f"A user may have at most {most} crons on this server")


def _refuse_extensions(call: Call, body: CronCreate | CronPatch) -> None:
    for name in CRON_EXTENSIONS:
        if getattr(body, name) is not None or name in call.names():
            raise NotSupported(f"{name}: not supported yet")


async def read(parts: GatewayParts, call: Call) -> Answer:
    """GET /runs/crons/{cron_id}."""
    return as_json(_shown(parts, _row(parts, call.uuid("cron_id"))))


async def change(parts: GatewayParts, call: Call) -> Answer:
    """PATCH /runs/crons/{cron_id}."""
    cron_id = call.uuid("cron_id")
    body = call.body(CronPatch)
    if not call.data.strip() or call.data.strip() == b"{}":
        raise EmptyUpdate("Request body cannot be empty")
    _refuse_extensions(call, body)
    _check_patch(body)

    def decide() -> Changes:
        cron = cron_of(cron_id, parts.log.stream(cron_id))
        command = UpdateCron() if cron is None else _update(parts, cron, body)
        return crons.changes(cron_id, cron, crons.decide(cron, command, call.meta(parts).at))

    await acting.act(parts, call, cron_id, decide)
    return as_json(_shown(parts, _row(parts, cron_id)))


def _check_patch(body: CronPatch) -> None:
    if body.webhook is not None:
        raise NotSupported("webhook: not supported yet")


def _update(parts: GatewayParts, cron: Cron, body: CronPatch) -> UpdateCron:
    spec = {
        name: value
        for name in SPEC_FIELDS
        if name != "metadata" and (value := getattr(body, name)) is not msgspec.UNSET
    }
    current = _current_spec(parts, cron)
    check_config(spec.get("config", current.get("config")), spec.get("context", current.get("context")))
    metadata = body.metadata
    if metadata is not msgspec.UNSET:
        metadata = clean_spec({"metadata": metadata})["metadata"]
    return UpdateCron(
        schedule=body.schedule,
        timezone=body.timezone,
        end_time=body.end_time,
        enabled=body.enabled,
        on_run_completed=body.on_run_completed,
        metadata=metadata,
        spec=clean_spec(spec),
        current_spec=current,
        seconds=parts.settings.seconds == "first",
    )


def _current_spec(parts: GatewayParts, cron: Cron) -> dict[str, Any]:
    stored = msgspec.json.encode(cron.payload).decode()
    payload: dict[str, Any] = shapes.value_of(stored, parts.log.blob) or {}
    spec = {name: payload[name] for name in SPEC_FIELDS if name in payload}
    config = dict(spec.get("config") or {})
    own = client_keys(config.pop("configurable", {}))
    if own:
        config["configurable"] = own
    spec.pop("config", None)
    return {**spec, "config": config} if config else spec


async def delete(parts: GatewayParts, call: Call) -> Answer:
    """DELETE /runs/crons/{cron_id}."""
    cron_id = call.uuid("cron_id")

    def decide() -> Changes:
        cron = cron_of(cron_id, parts.log.stream(cron_id))
        return crons.changes(cron_id, cron, crons.decide(cron, DeleteCron(), call.meta(parts).at))

    await acting.act(parts, call, cron_id, decide)
    return nothing()


async def find(parts: GatewayParts, call: Call) -> Answer:
    """POST /runs/crons/search."""
    body = call.body(CronSearch)
    wanted = _filter(body)
    if body.enabled is not None:
        wanted.equal("enabled", int(body.enabled))
    column = body.sort_by or "created_at"
    part = page(body.limit, body.offset, COLUMNS.get(column, column), body.sort_order)
    keys, headers = await search(parts.views, wanted, part)
    is_whole = not body.select or "payload" in body.select
    query = row_query(CRONS) if is_whole else SQL["cron_without_payload"]
    shown = (shapes.cron(row, parts.log.blob) for row in rows_of(parts.views, query, keys))
    return await as_list(parts, selected(shown, body.select), headers)


async def how_many(parts: GatewayParts, call: Call) -> Answer:
    """POST /runs/crons/count."""
    return as_json(await count(parts.views, _filter(call.body(CronCount))))


async def upcoming(parts: GatewayParts, call: Call) -> Answer:
    """GET /runs/crons/{cron_id}/upcoming."""
    row = _row(parts, call.uuid("cron_id"))
    limit = call.number("limit", 10, 1, 1000)
    schedule, place = parse(row["schedule"], seconds=True), zone(row["timezone"])
    found: list[dict[str, Any]] = []
    at: int | None = int(parts.clock.wall_s())
    while row["enabled"] and len(found) < limit:
        assert at is not None
        at = next_after(schedule, place, at)
        if at is None or (row["end_at"] is not None and at * 1_000_000 > row["end_at"]):
            break
        found.append(
            {
                "scheduled_for": shapes.instant(at * 1_000_000),
                "local": local_time(place, at).isoformat(),
                "dst": dst_kind(schedule, place, at),
            }
        )
    return as_json(found)


async def past(parts: GatewayParts, call: Call) -> Answer:
    """GET /runs/crons/{cron_id}/occurrences. It stays readable when the cron is deleted."""
    wanted = Filter(OCCURRENCES)
    wanted.equal("cron_id", call.uuid("cron_id").bytes)
    status = call.text("status")
    if status not in (None, "fired", "skipped", "missed"):
        raise InvalidField("status: must be fired, skipped or missed")
    if status is not None:
        wanted.narrowed("status", status)
    limit = call.number("limit", 100, 1, 1000)
    part = page(limit, call.number("offset", 0, 0, 1 << 53), "scheduled_for", "desc")
    keys, headers = await search(parts.views, wanted, part)
    rows = rows_of(parts.views, row_query(OCCURRENCES), keys)
    return await as_list(parts, map(shapes.occurrence, rows), headers)


def _filter(body: CronCount) -> Filter:
    wanted = Filter(CRONS)
    wanted.assistant(body.assistant_id)
    wanted.uuid("thread_id", "thread_id", body.thread_id)
    wanted.metadata(body.metadata)
    return wanted


def _row(parts: GatewayParts, cron_id: UUID) -> dict[str, Any]:
    row = by_id(parts.views, "crons", "cron_id", cron_id)
    if row is None:
        raise CronNotFound("Cron not found")
    return row


def _shown(parts: GatewayParts, row: dict[str, Any]) -> dict[str, Any]:
    ledger = {
        "state": row["state"],
        "revision": row["revision"],
        "fired": row["fired"],
        "skipped": row["skipped"],
        "missed": row["missed"],
        "tzdata": row["tzdata"],
        "warnings": _warnings(row, parts),
    }
    return {**shapes.cron(row, parts.log.blob), "ledger": ledger}


def _warnings(row: dict[str, Any], parts: GatewayParts) -> list[str]:
    hour = int(parts.clock.wall_s()) // WITNESS_S * WITNESS_S
    return list(_warned(row["schedule"], row["timezone"], hour))


@lru_cache(maxsize=2048)
def _warned(text: str, timezone: str | None, after: int) -> tuple[str, ...]:
    schedule = parse(text, seconds=True)
    return (*schedule.warnings, *witness_warnings(schedule, zone(timezone), after))
