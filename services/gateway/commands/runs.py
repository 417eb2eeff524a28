"""Runs: asked for (on a thread, on one that is made for it, or each with a thread of its own), stopped, deleted."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from contracts.api import RunCreate, StatelessRunCreate
from domain import decisions
from domain import run as runs
from domain.assistant import Assistant
from domain.changes import Changes
from domain.decisions import Line, Occurrence, RunPlan, plan_of
from domain.errors import InvalidField, RunNotActive, RunNotFound
from domain.lane import Lane
from domain.run import CancelRun, DeleteRun
from domain.spec import check_run, check_stateless, configured, spec_of
from domain.thread import CreateThread
from services.gateway.commands import threads, webhooks
from services.gateway.commands.endings import Standing, standing, stop_run
from services.gateway.commands.execution import act
from services.gateway.commands.threads import Occupancy
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.gateway.queries import states
from services.gateway.queries.assistants import served
from services.gateway.queries.runs import RunAddress
from services.kit.ids import parse_uuid, uuid7
from services.repository import Aggregates

Action = Literal["interrupt", "rollback"]
Asked = tuple[RunAddress, StatelessRunCreate]


async def check(parts: GatewayParts, body: RunCreate) -> None:
    """Refuse what no such run can be, by its body alone (and by where its webhook leads). Raises Refused."""
    if isinstance(body, StatelessRunCreate):
        check_stateless(body)
    else:
        check_run(body)
    if parse_uuid(body.assistant_id) is None and body.assistant_id not in parts.graphs:
        known = ", ".join(parts.graphs)
        raise InvalidField(
            f"assistant_id: '{body.assistant_id[:100]}' is no UUID and no graph; graphs are {known}"
        )
    await webhooks.check(parts, body.webhook)


async def request(parts: GatewayParts, caller: Caller, body: RunCreate, address: RunAddress) -> None:
    """Let a run that was checked take its place, on its thread or with one of its own.

    Raises ThreadNotFound, ThreadBusy, LaneFull, AssistantNotFound.
    """
    if isinstance(body, StatelessRunCreate):
        await request_all(parts, caller, [(address, body)])
    else:
        await _on_thread(parts, caller, body, address)


async def request_all(parts: GatewayParts, caller: Caller, asked: Sequence[Asked]) -> None:
    """Ask for runs with a thread each: all of them, or none. Raises AssistantNotFound."""

    def load(log: Aggregates) -> list[Assistant]:
        known = {
            name: served(parts, log.assistant(name)) for name in {body.assistant_id for _, body in asked}
        }
        return [known[body.assistant_id] for _, body in asked]

    def decide(assistants: list[Assistant]) -> Changes:
        changes, now = Changes(), parts.clock.now()
        for (address, body), assistant in zip(asked, assistants, strict=True):
            temporary = (body.on_completion or "delete") == "delete"
            spec = configured(spec_of(body), caller.configurable)
            plan = plan_of(spec, assistant, caller.user_id, temporary=temporary)
            changes += decisions.request_stateless(plan, _occurrence(body, address, now), now)
        return changes

    await act(parts, caller, asked[0][0].run_id, load, decide)


async def cancel(
    parts: GatewayParts, caller: Caller, address: RunAddress, action: Action, reason: str
) -> None:
    """Ask that the run stops. Raises RunNotFound when it has ended, or is being stopped."""
    command = CancelRun(action=action, reason=reason)

    def decide(found: Standing) -> Changes:
        run, places = found
        if run.request.kind == "state":
            raise RunNotFound("Run not found")
        return decisions.cancel(run, command, places)

    try:
        await act(
            parts,
            caller,
            address.thread_id,
            lambda log: standing(log, address.thread_id, address.run_id),
            decide,
        )
    except RunNotActive:
        raise RunNotFound("Run not found or not active") from None


async def delete(parts: GatewayParts, caller: Caller, address: RunAddress) -> None:
    """Delete the run; one in flight is stopped first. Raises RunNotFound, RunNotActive when it does not stop."""
    await stop_run(parts, caller, address.thread_id, address.run_id, "deleted by request")
    timeout_s = parts.settings.cancel_grace_s + 3 * parts.settings.lease_s
    if not await parts.ends.wait(address.run_id, timeout_s):
        raise RunNotActive("The run has not stopped yet; try again.")
    await act(
        parts,
        caller,
        address.run_id,
        lambda log: log.run(address.thread_id, address.run_id),
        lambda run: Changes(appends=runs.appends(run, runs.decide(run, DeleteRun()))),
    )


async def _on_thread(parts: GatewayParts, caller: Caller, body: RunCreate, address: RunAddress) -> None:
    spec, thread_id = configured(spec_of(body), caller.configurable), address.thread_id
    await states.must_have(parts, thread_id, spec.configurable)

    makes = body.if_not_exists == "create"
    former = await threads.former_version(parts, thread_id) if makes else 0

    def load(log: Aggregates) -> tuple[Assistant, Occupancy, Line]:
        assistant = served(parts, log.assistant(body.assistant_id))
        if not makes:
            log.thread(thread_id)
        return assistant, threads.place_of(log, thread_id), log.line(Lane(thread_id=thread_id), spec.strategy)

    def decide(found: tuple[Assistant, Occupancy, Line]) -> Changes:
        assistant, place, line = found
        thread, made = place.thread, Changes()
        if thread is None:
            command = CreateThread(thread_id=thread_id, user_id=caller.user_id, chosen=True)
            made, lane = threads.made(command, place, former, joined=True)
            line = Line(lane=lane)
        plan: RunPlan = plan_of(spec, assistant, caller.user_id)
        now, limit = parts.clock.now(), parts.settings.waiting_per_thread
        metadata = thread.metadata if thread else {}
        occurrence = _occurrence(body, address, now)
        return made + decisions.request_on_thread(plan, occurrence, line, metadata, now, limit)

    await act(parts, caller, thread_id, load, decide)


def _occurrence(body: RunCreate, address: RunAddress, now: datetime) -> Occurrence:
    not_before = now + timedelta(seconds=body.after_seconds) if body.after_seconds else None
    return Occurrence(run_id=address.run_id, thread_id=address.thread_id, kind="", not_before=not_before)


def new_address(thread_id: UUID | None) -> RunAddress:
    """The address of a run to be asked for; without a thread it brings its own."""
    return RunAddress(uuid7(), thread_id or uuid7())
