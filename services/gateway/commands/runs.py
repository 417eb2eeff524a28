"""Runs that are asked for: on a thread, on one that is made for it, or each with a thread of its own."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from contracts.api import RunCreate, StatelessRunCreate
from contracts.events import RunRequested
from domain import requests
from domain import thread as threads
from domain.changes import Changes
from domain.errors import AlreadyExists, InvalidField, ThreadNotFound
from domain.request import check_run, check_stateless, run_spec_of
from domain.requests import Occurrence, plan_of
from domain.thread import CreateThread, Thread, thread_of
from projections.runs import row_as_requested
from services.gateway.answers import shapes
from services.gateway.commands import acting
from services.gateway.commands.acting import Asks
from services.gateway.http import USER
from services.gateway.parts import GatewayParts
from services.gateway.queries.search import Row, by_id
from services.kit.ids import parse_uuid


class Asked(msgspec.Struct, frozen=True):
    """A run that was asked for: where it is."""

    run_id: UUID
    thread_id: UUID

    @property
    def path(self) -> str:
        """Its address; clients read both ids from it."""
        return f"/threads/{self.thread_id}/runs/{self.run_id}"


Wanted = tuple[Asked, StatelessRunCreate]


async def on_thread(parts: GatewayParts, call: Asks, body: RunCreate, asked: Asked) -> None:
    """Let the run take its place on its thread. Raises ThreadNotFound, ThreadBusy, LaneFull, AssistantNotFound."""
    await acting.act(parts, call, asked.thread_id, lambda: _on_thread(parts, body, asked))


async def stateless(parts: GatewayParts, call: Asks, wanted: Sequence[Wanted]) -> None:
    """Ask for runs with a thread each: all of them, or none. Raises AssistantNotFound."""
    key = wanted[0][0].run_id
    await acting.act(parts, call, key, lambda: _stateless(parts, wanted))


def shown(parts: GatewayParts, asked: Asked) -> dict[str, Any]:
    """The run that was asked for, as its client sees it first."""
    row = first_row(parts, asked.run_id)
    assert row is not None
    return shapes.run(row, parts.log.blob)


def first_row(parts: GatewayParts, run_id: UUID) -> Row | None:
    """The row of a run that was just asked for; None when it was not.

    Somebody may have undone it before we could look. It was accepted all the same.
    """
    row = by_id(parts.views, "runs", "run_id", run_id)
    if row is not None and not row["hidden"]:
        return row
    first = next(iter(parts.log.stream(run_id)), None)
    if first is None or not isinstance(first.body, RunRequested):
        return None
    return row_as_requested(first, first.body)


def check(parts: GatewayParts, body: RunCreate) -> None:
    """Refuse what no run on a thread can be. Raises Refused."""
    check_run(body)
    _check_assistant(parts, body)


def check_own_thread(parts: GatewayParts, body: StatelessRunCreate) -> None:
    """Refuse what no run with a thread of its own can be. Raises Refused."""
    check_stateless(body)
    _check_assistant(parts, body)


def _check_assistant(parts: GatewayParts, body: RunCreate) -> None:
    if parse_uuid(body.assistant_id) is None and body.assistant_id not in parts.graphs:
        known = ", ".join(parts.graphs)
        raise InvalidField(
            f"assistant_id: '{body.assistant_id[:100]}' is no UUID and no graph; graphs are {known}"
        )


def _on_thread(parts: GatewayParts, body: RunCreate, asked: Asked) -> Changes:
    assistant = acting.assistant(parts, body.assistant_id)
    events = parts.log.newest([asked.thread_id]).values()
    thread, made = thread_of(asked.thread_id, events), Changes()
    if thread is None:
        made = _made(body, asked.thread_id, was_used=bool(events))
    now = parts.clock.now()
    plan = plan_of(run_spec_of(body), assistant, USER)
    line = acting.line(parts, asked.thread_id, plan.strategy)
    limit = parts.settings.waiting_per_thread
    return made + requests.request_on_thread(
        plan, _occurrence(body, asked, now), line, _metadata(thread), now, limit
    )


def _made(body: RunCreate, thread_id: UUID, *, was_used: bool) -> Changes:
    """The thread that is made for the run."""
    if body.if_not_exists != "create":
        raise ThreadNotFound("Thread not found")
    if was_used:
        raise AlreadyExists(f"thread_id: the id {thread_id} is in use or was")
    command = CreateThread(thread_id=thread_id, user_id=USER, chosen=True)
    return Changes(appends=threads.appends(thread_id, None, threads.decide(None, command)))


def _metadata(thread: Thread | None) -> dict[str, object]:
    return {} if thread is None else thread.metadata


def _stateless(parts: GatewayParts, wanted: Sequence[Wanted]) -> Changes:
    changes, now = Changes(), parts.clock.now()
    for asked, body in wanted:
        assistant = acting.assistant(parts, body.assistant_id)
        temporary = (body.on_completion or "delete") == "delete"
        plan = plan_of(run_spec_of(body), assistant, USER, temporary=temporary)
        changes += requests.request_stateless(plan, _occurrence(body, asked, now), now)
    return changes


def _occurrence(body: RunCreate, asked: Asked, now: datetime) -> Occurrence:
    not_before = now + timedelta(seconds=body.after_seconds) if body.after_seconds else None
    return Occurrence(run_id=asked.run_id, thread_id=asked.thread_id, kind="", not_before=not_before)
