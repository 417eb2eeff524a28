"""Crons: created (with a first run, unless that is not wanted), changed, deleted."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from contracts.api import CronCreate, CronPatch, CronTrigger
from contracts.events import CatchUp, Overlap
from contracts.spec import RUN_FIELDS, CronPayload, RunSpec
from domain import cron as crons
from domain import decisions
from domain import overlap as overlaps
from domain.assistant import Assistant
from domain.changes import Changes
from domain.cron import CreateCron, Cron, DeleteCron, UpdateCron
from domain.decisions import Line, Occurrence, RunPlan, plan_of
from domain.errors import CronNotFound, NotSupported, TooManyCrons
from domain.identity import DAY_S, trigger_id_of
from domain.lane import Lane
from domain.spec import (
    check_config,
    check_fields,
    clean_metadata,
    cleaned,
    client_keys,
    configured,
    spec_of,
)
from domain.thread import Thread
from services.gateway.answers.values import payload_of
from services.gateway.commands import webhooks
from services.gateway.commands.execution import act
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.gateway.queries import states
from services.gateway.queries.assistants import served
from services.gateway.queries.filters import SQL
from services.kit.ids import uuid7
from services.repository import Aggregates

SINGLE_RUN_FIELDS = ("command", "checkpoint", "checkpoint_id", "after_seconds")


class Basis(msgspec.Struct, frozen=True):
    """What a new cron rests on: nobody may delete it in between, and leave the cron behind."""

    assistant: Assistant
    thread: Thread | None
    line: Line | None  # the thread's, for its first run
    theirs: int  # how many crons the user has, as far as that matters


class Triggered(msgspec.Struct, frozen=True):
    """What a run besides the schedule rests on."""

    cron: Cron
    spec: RunSpec
    assistant: Assistant
    thread: Thread | None
    line: Line | None
    overlap: Overlap
    earlier: UUID | None  # the run that the same key has begun


async def create(
    parts: GatewayParts, caller: Caller, body: CronCreate, thread_id: UUID | None
) -> tuple[UUID, UUID | None]:
    """The ids of the new cron and of its first run, None when it has none.

    Raises ThreadNotFound, AssistantNotFound, TooManyCrons, InvalidField, InvalidSchedule, InvalidTimezone,
    NotSupported, ContradictoryRequest, LaneFull, ThreadBusy.
    """
    _check(parts, body)
    await webhooks.check(parts, body.webhook)
    cron_id, run_id = uuid7(), uuid7()
    strategy = overlaps.agreed(
        body.overlap, body.multitask_strategy, on_thread=thread_id is not None
    ).strategy
    given = configured(spec_of(body), caller.configurable)
    spec = msgspec.structs.replace(given, multitask_strategy=strategy)
    if thread_id is not None:
        await states.must_have(parts, thread_id, spec.configurable)
    has_first_run = body.enabled is not False and parts.settings.first_run == "immediate"
    if body.start_time is not None and crons.aware(body.start_time, "start_time") > parts.clock.now():
        has_first_run = False  # nothing fires before it

    def load(log: Aggregates) -> Basis:
        thread = None if thread_id is None else log.thread(thread_id)
        assistant = served(parts, log.assistant(body.assistant_id))
        line = None
        if thread_id is not None and has_first_run:
            line = log.line(Lane(thread_id=thread_id), spec.strategy)
        return Basis(assistant, thread, line, _crons_of(parts, caller))

    def decide(basis: Basis) -> Changes:
        most, now = parts.settings.crons_per_user, parts.clock.now()
        if most and basis.theirs >= most:
            raise TooManyCrons(f"A user may have at most {most} crons on this server")
        command = CreateCron(
            cron_id=cron_id,
            assistant_id=basis.assistant.assistant_id,
            graph_id=basis.assistant.graph_id,
            user_id=caller.user_id,
            schedule=body.schedule,
            spec=spec,
            thread_id=thread_id,
            timezone=body.timezone,
            start_time=body.start_time,
            end_time=body.end_time,
            enabled=body.enabled,
            on_run_completed=body.on_run_completed,
            note=body.note or "",
            catch_up=body.catch_up or "latest",
            catch_up_window_s=body.catch_up_window_seconds,
            jitter_s=body.jitter_seconds or 0,
            max_runs=body.max_runs,
            pause_after_failures=body.pause_after_failures,
            overlap=body.overlap,
            seconds=parts.settings.seconds == "first",
        )
        changes = crons.changes(cron_id, None, crons.decide(None, command, now))
        return changes + _first_run(parts, command, basis, run_id) if has_first_run else changes

    await act(parts, caller, thread_id or cron_id, load, decide)
    return cron_id, run_id if has_first_run else None


async def pause(
    parts: GatewayParts, caller: Caller, cron_id: UUID, note: str | None, until: datetime | None
) -> None:
    """Pause it, until an instant if there is one. Raises CronNotFound, InvalidField."""
    body = CronPatch(enabled=False, note=note or msgspec.UNSET)
    await change(parts, caller, cron_id, body, paused_until=until)


async def resume(
    parts: GatewayParts, caller: Caller, cron_id: UUID, note: str | None, makes_up: CatchUp
) -> None:
    """Resume it, and say what fires late of the pause. Raises CronNotFound, InvalidField."""
    body = CronPatch(enabled=True, note=note or msgspec.UNSET)
    await change(parts, caller, cron_id, body, makes_up=makes_up)


async def change(
    parts: GatewayParts,
    caller: Caller,
    cron_id: UUID,
    body: CronPatch,
    *,
    paused_until: datetime | None = None,
    makes_up: CatchUp = "skip",
) -> None:
    """Change, pause or resume it. Raises CronNotFound, and what a creation raises of its body."""
    if body.webhook is not msgspec.UNSET:
        await webhooks.check(parts, body.webhook)

    def load(log: Aggregates) -> tuple[Cron, CronPayload]:
        cron = log.cron(cron_id)
        if cron is None:
            raise CronNotFound("Cron not found")
        return cron, _payload_now(cron, parts)

    def decide(found: tuple[Cron, CronPayload]) -> Changes:
        cron, payload = found
        command = _update(body, payload, seconds=parts.settings.seconds == "first")
        command = msgspec.structs.replace(command, paused_until=paused_until, makes_up=makes_up)
        return crons.changes(cron_id, cron, crons.decide(cron, command, parts.clock.now()))

    await act(parts, caller, cron_id, load, decide)


async def trigger(
    parts: GatewayParts, caller: Caller, cron_id: UUID, body: CronTrigger, key: str | None, *, force: bool
) -> UUID:
    """The id of a run that the cron has besides its schedule, also while it is paused.

    The same `key` within a day gives the same run. `force` lets it wait where the cron's `overlap` would refuse it.
    Raises CronNotFound, AssistantNotFound, ThreadNotFound, ThreadBusy, CronBusy, LaneFull, and what a creation raises.
    """
    now = parts.clock.now()
    today = int(now.timestamp()) // DAY_S
    # By yesterday's id or by today's, one of which is a day long the one that is there.
    known = [] if key is None else [trigger_id_of(cron_id, key, day) for day in (today, today - 1)]
    run_id = known[0] if known else uuid7()

    def load(log: Aggregates) -> Triggered:
        cron = log.cron(cron_id)
        if cron is None:
            raise CronNotFound("Cron not found")
        lately = (log.requested(earlier, now - timedelta(days=1)) for earlier in known)
        thread = None if cron.thread_id is None else log.thread(cron.thread_id)
        spec = _triggered(_payload_now(cron, parts), body, force=force)
        overlap = overlaps.had(cron.overlap, spec.multitask_strategy, on_thread=thread is not None).overlap
        line = None
        if thread is not None:
            line = log.line(Lane(thread_id=thread.thread_id), spec.strategy)
        elif overlap != "allow":
            line = log.line(Lane(cron_id=cron_id), spec.strategy)
        assistant = served(parts, log.assistant(str(cron.assistant_id)))
        return Triggered(
            cron, spec, assistant, thread, line, overlap, next((found for found in lately if found), None)
        )

    def decide(found: Triggered) -> Changes:
        nonlocal run_id
        if found.earlier is not None:
            run_id = found.earlier
            return Changes()
        cron = found.cron
        plan = plan_of(
            found.spec,
            found.assistant,
            cron.user_id,
            cron_id=cron_id,
            revision=cron.revision,
            cron_metadata={**cron.metadata, **clean_metadata(body.metadata or {})},
            temporary=cron.thread_id is None and cron.on_run_completed != "keep",
            overlap=found.overlap,
        )
        thread_id = cron.thread_id or uuid7()
        occurrence = Occurrence(run_id=run_id, thread_id=thread_id, kind="trigger", note=body.note or "")
        limit = parts.settings.waiting_per_thread if force else plan.most_waiting
        return _requested(parts, plan, occurrence, found.thread, found.line, limit)

    await act(parts, caller, cron_id, load, decide)
    return run_id


async def delete(parts: GatewayParts, caller: Caller, cron_id: UUID) -> None:
    """End it. Raises CronNotFound."""

    def decide(cron: Cron | None) -> Changes:
        return crons.changes(cron_id, cron, crons.decide(cron, DeleteCron(), parts.clock.now()))

    await act(parts, caller, cron_id, lambda log: log.cron(cron_id), decide)


def _check(parts: GatewayParts, body: CronCreate) -> None:
    """Refuse what can be told from the body alone."""
    check_fields(body)
    if body.if_not_exists == "create":
        raise NotSupported("if_not_exists: 'create' is not supported on crons; create the thread first")
    for name in SINGLE_RUN_FIELDS:
        if getattr(body, name) is not None:
            raise NotSupported(f"{name}: is for a single run, not for a cron")
    now, seconds = parts.clock.now(), parts.settings.seconds == "first"
    crons.check(body.schedule, body.timezone, body.end_time, now, seconds=seconds, start_time=body.start_time)


def _crons_of(parts: GatewayParts, caller: Caller) -> int:
    """How many crons the user has, at most as many as matter."""
    most = parts.settings.crons_per_user
    row = parts.views.one(SQL["crons_of_user"], (caller.user_id, most)) if most else None
    return 0 if row is None else int(row["n"])


def _first_run(parts: GatewayParts, command: CreateCron, basis: Basis, run_id: UUID) -> Changes:
    temporary = command.thread_id is None and (command.on_run_completed or "delete") == "delete"
    plan = plan_of(
        command.spec,
        basis.assistant,
        command.user_id,
        cron_id=command.cron_id,
        revision=1,
        cron_metadata=command.spec.metadata,
        temporary=temporary,
        overlap=command.together.overlap,
    )
    occurrence = Occurrence(run_id=run_id, thread_id=command.thread_id or uuid7(), kind="first")
    line = basis.line
    if basis.thread is None and plan.takes_turns:
        line = Line(lane=Lane(cron_id=command.cron_id))
    return _requested(parts, plan, occurrence, basis.thread, line, plan.most_waiting)


def _requested(
    parts: GatewayParts,
    plan: RunPlan,
    occurrence: Occurrence,
    thread: Thread | None,
    line: Line | None,
    most_waiting: int,
) -> Changes:
    """A run that the schedule does not ask for: on the cron's thread, or with one of its own."""
    now, limit = parts.clock.now(), min(most_waiting, parts.settings.waiting_per_thread)
    if thread is None or line is None:
        return decisions.request_stateless(plan, occurrence, now, line, limit)
    return decisions.request_on_thread(plan, occurrence, line, thread.metadata, now, limit)


def _triggered(payload: CronPayload, body: CronTrigger, *, force: bool) -> RunSpec:
    """What the cron's runs are, with what this one has in its place. Raises Refused."""
    given = {
        name: value for name in ("input", "config", "context") if (value := getattr(body, name)) is not None
    }
    if "context" in given or "config" in given:
        given = {"config": None, "context": None} | given  # one alone: they say the same in two ways
    spec: RunSpec = msgspec.structs.replace(payload, **given)
    check_config(spec.config, spec.context)
    if force and spec.strategy == "reject":
        spec = msgspec.structs.replace(spec, multitask_strategy="enqueue")
    return cleaned(spec)


def _update(body: CronPatch, payload: CronPayload, *, seconds: bool) -> UpdateCron:
    given = {
        name: value
        for name in RUN_FIELDS - {"metadata"}
        if (value := getattr(body, name, msgspec.UNSET)) is not msgspec.UNSET
    }
    spec: RunSpec = msgspec.structs.replace(payload, **given)
    check_config(spec.config, spec.context)
    metadata = body.metadata
    return UpdateCron(
        schedule=body.schedule,
        timezone=body.timezone,
        start_time=body.start_time,
        end_time=body.end_time,
        enabled=body.enabled,
        on_run_completed=body.on_run_completed,
        metadata=metadata if metadata is msgspec.UNSET else clean_metadata(metadata),
        note=body.note or "" if body.note is not msgspec.UNSET else msgspec.UNSET,
        catch_up="latest" if body.catch_up is None else body.catch_up,
        catch_up_window_s=body.catch_up_window_seconds,
        jitter_s=0 if body.jitter_seconds is None else body.jitter_seconds,
        max_runs=body.max_runs,
        pause_after_failures=body.pause_after_failures,
        overlap=body.overlap,
        multitask_strategy=body.multitask_strategy,
        spec=cleaned(spec) if given else None,
        payload=payload,
        seconds=seconds,
    )


def _payload_now(cron: Cron, parts: GatewayParts) -> CronPayload:
    """The cron's payload without what the server has put in."""
    data: Any = payload_of(cron.payload, parts.log.blob)
    payload = CronPayload() if data is None else msgspec.json.decode(data, type=CronPayload)
    config = dict(payload.config or {})
    own = client_keys(config.pop("configurable", {}))
    if own:
        config["configurable"] = own
    return msgspec.structs.replace(payload, config=config or None)
