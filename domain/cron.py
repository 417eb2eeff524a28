"""A cron: its fields and its life. Its firings are on the streams of their runs, so this one stays short."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, assert_never
from uuid import UUID

import msgspec

from contracts.api import Strategy
from contracts.codec import pack
from contracts.events import (
    CatchUp,
    CronCreated,
    CronDeleted,
    CronEvent,
    CronExhausted,
    CronExpired,
    CronPaused,
    CronRescheduled,
    CronResumed,
    CronUpdated,
    OnRunCompleted,
    Overlap,
    Rule,
    RuleEvent,
)
from contracts.ledger import Append, Blob, Payload, Recorded
from contracts.spec import RUN_FIELDS, CronPayload, RunSpec
from domain import overlap as overlaps
from domain.changes import Changes
from domain.errors import CronNotFound, InvalidField
from domain.overlap import Together
from domain.schedule import (
    parse,
    tzdata_version,
    zone,
)
from domain.timeline import newest_of, next_of

PAYLOAD_LIMIT = 64 * 1024
"""Bytes of JSON that a cron's payload may have."""
MOST_AHEAD = timedelta(days=3660)
"""How far ahead a start may lie: a zone's clock changes are reckoned up to it, year by year."""
HOW = ("catch_up", "catch_up_window_s", "jitter_s", "max_runs")
"""Fields of the rule that say what fires of what is due, and when, but never when something is due."""


class Cron(msgspec.Struct, frozen=True, kw_only=True):
    """A cron as its events left it. `revision` is the version of the newest event that a client caused."""

    cron_id: UUID
    version: int
    revision: int
    assistant_id: UUID
    graph_id: str
    user_id: str
    schedule: str
    canonical: str
    payload: Payload
    thread_id: UUID | None = None
    timezone: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    state: Literal["active", "paused", "expired", "exhausted", "deleted"] = "active"
    paused_until: datetime | None = None
    on_run_completed: OnRunCompleted | None = None
    metadata: dict[str, Any] = {}
    note: str = ""  # why it is as it is
    catch_up: CatchUp = "latest"
    catch_up_window_s: int | None = None  # None: as the server is set
    jitter_s: int = 0
    max_runs: int | None = None
    pause_after_failures: int | None = None
    overlap: Overlap | None = None  # None: of a thread's cron as its strategy says, of another one `allow`
    since: datetime  # when the rule came into force: it decides about what is due later
    tzdata: str = ""

    @property
    def is_active(self) -> bool:
        """True while occurrences are decided."""
        return self.state == "active"

    @property
    def rule(self) -> Rule:
        """What decides when."""
        return Rule(
            canonical=self.canonical,
            timezone=self.timezone,
            start_time=self.start_time,
            end_time=self.end_time,
            active=self.is_active,
            catch_up=self.catch_up,
            window_s=self.catch_up_window_s,
            until=self.paused_until,
            jitter_s=self.jitter_s,
            max_runs=self.max_runs,
        )


class CreateCron(msgspec.Struct, frozen=True, kw_only=True, tag="cron.create"):
    """Begin a schedule. `spec` describes the runs (`domain.spec.spec_of`); `enabled` None = it was not said."""

    cron_id: UUID
    assistant_id: UUID
    graph_id: str
    user_id: str
    schedule: str
    spec: RunSpec
    thread_id: UUID | None = None
    timezone: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    enabled: bool | None = None
    on_run_completed: OnRunCompleted | None = None
    note: str = ""
    catch_up: CatchUp = "latest"
    catch_up_window_s: int | None = None
    jitter_s: int = 0
    max_runs: int | None = None
    pause_after_failures: int | None = None
    overlap: Overlap | None = None  # None = it was not said
    seconds: bool = False  # six fields are allowed

    @property
    def is_enabled(self) -> bool:
        """Whether it begins at once."""
        return self.enabled is not False

    @property
    def together(self) -> Together:
        """What it says of its runs beside each other. Raises InvalidField."""
        strategy, on_thread = self.spec.multitask_strategy, self.thread_id is not None
        return overlaps.agreed(self.overlap, strategy, on_thread=on_thread)


class UpdateCron(msgspec.Struct, frozen=True, kw_only=True, tag="cron.update"):
    """Change fields; absent ones keep their value. `payload` is the cron's as it is, read by whoever asks, and
    `spec` what its run fields become, but for the strategy: that and `overlap` keep in step. `paused_until`
    belongs to a pause, `makes_up` to its end.
    """

    schedule: str | msgspec.UnsetType = msgspec.UNSET
    timezone: str | None | msgspec.UnsetType = msgspec.UNSET
    start_time: datetime | None | msgspec.UnsetType = msgspec.UNSET
    end_time: datetime | None | msgspec.UnsetType = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    on_run_completed: OnRunCompleted | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    note: str | msgspec.UnsetType = msgspec.UNSET
    catch_up: CatchUp | msgspec.UnsetType = msgspec.UNSET
    catch_up_window_s: int | None | msgspec.UnsetType = msgspec.UNSET
    jitter_s: int | msgspec.UnsetType = msgspec.UNSET
    max_runs: int | None | msgspec.UnsetType = msgspec.UNSET
    pause_after_failures: int | None | msgspec.UnsetType = msgspec.UNSET
    paused_until: datetime | None = None
    makes_up: CatchUp = "skip"
    overlap: Overlap | None | msgspec.UnsetType = msgspec.UNSET
    multitask_strategy: Strategy | msgspec.UnsetType = msgspec.UNSET
    spec: RunSpec | None = None
    payload: CronPayload = CronPayload()
    seconds: bool = False


class DeleteCron(msgspec.Struct, frozen=True, kw_only=True, tag="cron.delete"):
    """End the schedule."""

    reason: Literal["request", "thread_deleted", "assistant_deleted"] = "request"


CronCommand = CreateCron | UpdateCron | DeleteCron
Decision = tuple[list[CronEvent], tuple[Blob, ...]]


def cron_of(cron_id: UUID, events: Iterable[Recorded]) -> Cron | None:
    """The cron that the events of its stream tell of; None when there is none or it is deleted."""
    cron: Cron | None = None
    for recorded in events:
        cron = evolve(cron, cron_id, recorded)
    return None if cron is None or cron.state == "deleted" else cron


def decide(cron: Cron | None, command: CronCommand, now: datetime) -> Decision:
    """The events that the command leads to, with the large values they name. Raises Refused."""
    match command:
        case CreateCron():
            return _create(command, now)
        case UpdateCron():
            return _update(_present(cron), command, now)
        case DeleteCron():
            _present(cron)
            return [CronDeleted(reason=command.reason)], ()
        case _:
            assert_never(command)


def evolve(cron: Cron | None, cron_id: UUID, recorded: Recorded) -> Cron | None:
    """The cron after the event."""
    event = recorded.body
    if isinstance(event, CronCreated):
        return _created(cron_id, recorded, event)
    if cron is None:
        return None
    changed = msgspec.structs.replace(cron, version=recorded.version)
    if isinstance(event, RuleEvent) and event.rule is not None:
        changed = msgspec.structs.replace(changed, since=recorded.meta.at)
    match event:
        case CronUpdated():
            return _updated(changed, event, recorded)
        case CronPaused():
            return msgspec.structs.replace(
                changed,
                state="paused",
                revision=recorded.version,
                note=event.note or changed.note,
                paused_until=event.until,
            )
        case CronResumed():
            return msgspec.structs.replace(
                changed, state="active", revision=recorded.version, note=event.note, paused_until=None
            )
        case CronExpired():
            return msgspec.structs.replace(changed, state="expired")
        case CronExhausted():
            return msgspec.structs.replace(changed, state="exhausted")
        case CronRescheduled():
            return msgspec.structs.replace(changed, tzdata=event.tzdata)
        case CronDeleted():
            return msgspec.structs.replace(changed, state="deleted")
        case _:
            return changed


def changes(cron_id: UUID, cron: Cron | None, decision: Decision) -> Changes:
    """The changes that store a decision."""
    events, blobs = decision
    if not events:
        return Changes()
    version = cron.version if cron else 0
    return Changes(appends=(Append(cron_id, version, tuple(events)),), blobs=blobs)


def next_occurrence(rule: Rule, after: datetime) -> datetime | None:
    """The rule's first occurrence strictly after `after`, whether it is active or not; None = none."""
    epoch = next_of(rule, int(after.timestamp()))
    return None if epoch is None else datetime.fromtimestamp(epoch, UTC)


def aware(instant: datetime, field: str = "end_time") -> datetime:
    """The instant of that field in UTC; a naive one is UTC already. Raises InvalidField."""
    if instant.tzinfo is None:
        return instant.replace(tzinfo=UTC)
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise InvalidField(f"{field}: {instant.isoformat()} is not in the years 1 to 9999, UTC") from None


def _present(cron: Cron | None) -> Cron:
    if cron is None or cron.state == "deleted":
        raise CronNotFound("Cron not found")
    return cron


def check(
    schedule: str,
    timezone: str | None,
    end_time: datetime | None,
    now: datetime,
    *,
    seconds: bool,
    start_time: datetime | None = None,
) -> None:
    """Refuse what no cron can have, whatever it is for. Raises InvalidSchedule, InvalidTimezone, InvalidField."""
    parse(schedule, seconds=seconds)
    zone(timezone)
    _begun(start_time, None if end_time is None else _future(end_time, now), now)


def _create(command: CreateCron, now: datetime) -> Decision:
    schedule = parse(command.schedule, seconds=command.seconds)
    zone(command.timezone)
    end_time = None if command.end_time is None else _future(command.end_time, now)
    start_time = _begun(command.start_time, end_time, now)
    rule = Rule(
        canonical=schedule.canonical, timezone=command.timezone, start_time=start_time, end_time=end_time
    )
    stateless = command.thread_id is None
    both = command.together
    payload, blobs = _packed(_first_payload(command, end_time, both.strategy), command.cron_id)
    created = CronCreated(
        assistant_id=command.assistant_id,
        graph_id=command.graph_id,
        user_id=command.user_id,
        schedule=command.schedule,
        canonical=schedule.canonical,
        thread_id=command.thread_id,
        timezone=command.timezone,
        start_time=start_time,
        end_time=end_time,
        enabled=command.is_enabled,
        on_run_completed=(command.on_run_completed or "delete") if stateless else None,
        metadata=command.spec.metadata or {},
        payload=payload,
        note=command.note,
        catch_up=command.catch_up,
        catch_up_window_s=command.catch_up_window_s,
        jitter_s=command.jitter_s,
        max_runs=command.max_runs,
        pause_after_failures=command.pause_after_failures,
        overlap=both.overlap,
        next_at=next_occurrence(rule, now),
        tzdata=tzdata_version(),
    )
    return [created], blobs


def _first_payload(command: CreateCron, end_time: datetime | None, strategy: Strategy | None) -> CronPayload:
    spec = msgspec.structs.replace(command.spec, multitask_strategy=strategy)
    return CronPayload(
        **msgspec.structs.asdict(spec),
        assistant_id=str(command.assistant_id),
        schedule=command.schedule,
        timezone=command.timezone,
        end_time=None if end_time is None else end_time.isoformat(),
        enabled=command.enabled,
        on_run_completed=command.on_run_completed,
    )


def _begun(start_time: datetime | None, end_time: datetime | None, now: datetime) -> datetime | None:
    """Raises InvalidField when it does not begin before it ends, or too far ahead."""
    if start_time is None:
        return None
    start_time = aware(start_time, "start_time")
    if end_time is not None and start_time >= end_time:
        raise InvalidField("start_time: must be before end_time")
    return _not_too_far(start_time, now, "start_time")


def _not_too_far(instant: datetime, now: datetime, field: str) -> datetime:
    if instant - now > MOST_AHEAD:
        raise InvalidField(f"{field}: may be at most ten years ahead")
    return instant


def _future(instant: datetime, now: datetime, field: str = "end_time") -> datetime:
    instant = aware(instant, field)
    if instant <= now:
        raise InvalidField(f"{field}: must lie in the future")
    return instant


def _packed(payload: CronPayload, cron_id: UUID) -> tuple[Payload, tuple[Blob, ...]]:
    config = {**(payload.config or {}), "configurable": {**payload.configurable, "cron_id": str(cron_id)}}
    data = msgspec.json.encode(msgspec.structs.replace(payload, config=config))
    if len(data) > PAYLOAD_LIMIT:
        raise InvalidField(
            f"payload: {len(data)} bytes of JSON (input, config, context, metadata, ...);"
            f" at most {PAYLOAD_LIMIT} are allowed"
        )
    return pack(msgspec.Raw(data))


def _update(cron: Cron, command: UpdateCron, now: datetime) -> Decision:
    events: list[CronEvent] = []
    updated, blobs = _updated_fields(cron, command, now)
    if updated is not None:
        events.append(updated)
    events += _life(cron, command, updated, now)
    return events, blobs


def _updated_fields(
    cron: Cron, command: UpdateCron, now: datetime
) -> tuple[CronUpdated | None, tuple[Blob, ...]]:
    fields: dict[str, Any] = {}
    for name in ("schedule", "timezone", "on_run_completed", "pause_after_failures", *HOW):
        value = getattr(command, name)
        if value is not msgspec.UNSET and value != getattr(cron, name):
            fields[name] = value
    if cron.thread_id is not None:
        fields.pop("on_run_completed", None)  # a thread cron keeps its thread, whatever was sent
    if command.end_time is not msgspec.UNSET:
        fields["end_time"] = None if command.end_time is None else _future(command.end_time, now)
    if command.start_time is not msgspec.UNSET:
        fields["start_time"] = _begun(command.start_time, fields.get("end_time", cron.end_time), now)
    elif "end_time" in fields:
        _begun(cron.start_time, fields["end_time"], now)
    fields |= _timing(cron, command, fields, now)
    blobs: tuple[Blob, ...] = ()
    before, both = _together(cron, command)
    if both.overlap != before.overlap:
        fields["overlap"] = both.overlap
    payload = _new_payload(cron, command, fields, both.strategy)
    if payload != command.payload:
        fields["payload"], blobs = _packed(payload, cron.cron_id)
    if command.metadata is not msgspec.UNSET:
        fields["metadata"] = {**cron.metadata, **command.metadata}
    # A pause or its end says it itself.
    if not _changes_life(cron, command) and command.note not in (msgspec.UNSET, cron.note):
        fields["note"] = command.note
    return (CronUpdated(**fields) if fields else None), blobs


def _together(cron: Cron, command: UpdateCron) -> tuple[Together, Together]:
    """Overlap and strategy as they are, and as they become."""
    on_thread = cron.thread_id is not None
    before = overlaps.had(cron.overlap, command.payload.multitask_strategy, on_thread=on_thread)
    return before, overlaps.changed(before, command.overlap, command.multitask_strategy, on_thread=on_thread)


def _timing(cron: Cron, command: UpdateCron, fields: dict[str, Any], now: datetime) -> dict[str, Any]:
    schedule = parse(
        fields.get("schedule", cron.schedule), seconds=command.seconds or "schedule" not in fields
    )
    zone(fields.get("timezone", cron.timezone))
    when = fields.keys() & {"schedule", "timezone", "start_time", "end_time"}
    if not when and not fields.keys() & set(HOW):
        return {}
    timing: dict[str, Any] = {}
    if "schedule" in fields:
        timing["canonical"] = schedule.canonical
    ruled = {name: fields[name] for name in ("timezone", "start_time", "end_time", *HOW) if name in fields}
    rule = msgspec.structs.replace(cron, canonical=schedule.canonical, **ruled).rule
    if when:
        timing |= {"next_at": next_occurrence(rule, now), "tzdata": tzdata_version()}
    if rule != cron.rule:
        timing |= {"rule": rule, "newest": _newest(cron, now)}
    return timing


def _newest(cron: Cron, now: datetime) -> datetime | None:
    """The last occurrence of the rule that ends now, so that whoever knows the cursor knows what is left."""
    if cron.state == "exhausted":
        return None  # nothing has been due since
    newest = newest_of(cron.rule, int(cron.since.timestamp()), int(now.timestamp()))
    return None if newest is None else datetime.fromtimestamp(newest, UTC)


def _new_payload(
    cron: Cron, command: UpdateCron, fields: dict[str, Any], strategy: Strategy | None
) -> CronPayload:
    """The payload in step with what the cron becomes; what nobody has said of it stays unsaid."""
    spec = command.payload if command.spec is None else command.spec
    said = {name: getattr(spec, name) for name in RUN_FIELDS} | {"multitask_strategy": strategy}
    if command.metadata is not msgspec.UNSET:
        # One single metadata: the payload shows what the cron has.
        said["metadata"] = {**cron.metadata, **command.metadata}
    changed: dict[str, Any] = {
        name: fields[name] for name in ("schedule", "timezone", "on_run_completed") if name in fields
    }
    if "end_time" in fields:
        changed["end_time"] = None if fields["end_time"] is None else fields["end_time"].isoformat()
    if command.enabled is not msgspec.UNSET:
        changed["enabled"] = command.enabled
    said |= {name: value for name, value in changed.items() if getattr(command.payload, name) is not None}
    return msgspec.structs.replace(command.payload, **said)


def _life(cron: Cron, command: UpdateCron, updated: CronUpdated | None, now: datetime) -> list[CronEvent]:
    if not _changes_life(cron, command):
        return []
    note = "" if command.note is msgspec.UNSET else command.note
    rule, newest = cron.rule, _newest(cron, now)
    if updated is not None and updated.rule is not None:
        rule, newest = updated.rule, None  # the update has ended the rule before it at this same instant
    if not command.enabled:
        return [_paused(command, rule, newest, note, now)]
    if cron.state == "exhausted" and rule.max_runs is not None and rule.max_runs <= (cron.max_runs or 0):
        raise InvalidField("enabled: it has had its max_runs; set a larger max_runs or null with it")
    if rule.end_time is not None and rule.end_time <= now:
        raise InvalidField("enabled: the cron's end_time has passed; set a later end_time or null with it")
    resumed = resume(rule, newest, now)
    return [msgspec.structs.replace(resumed, note=note, makes_up=command.makes_up)]


def _paused(command: UpdateCron, rule: Rule, newest: datetime | None, note: str, now: datetime) -> CronPaused:
    until = _until(command)
    if until is not None:
        until = _not_too_far(_future(until, now, "until"), now, "until")
    paused = msgspec.structs.replace(rule, active=False, until=until)
    coming = msgspec.UNSET if until is None else next_occurrence(paused, now)
    return CronPaused(rule=paused, newest=newest, note=note, until=until, next_at=coming)


def resume(rule: Rule, newest: datetime | None, now: datetime) -> CronResumed:
    """The end of the pause that a rule is in."""
    active = msgspec.structs.replace(rule, active=True, until=None)
    return CronResumed(
        rule=active, newest=newest, next_at=next_occurrence(active, now), tzdata=tzdata_version()
    )


def _until(command: UpdateCron) -> datetime | None:
    return None if command.paused_until is None else aware(command.paused_until, "until")


def _changes_life(cron: Cron, command: UpdateCron) -> bool:
    if command.enabled is msgspec.UNSET:
        return False
    is_other_pause = cron.state == "paused" and _until(command) != cron.paused_until
    return command.enabled != cron.is_active or (not command.enabled and is_other_pause)


def _created(cron_id: UUID, recorded: Recorded, event: CronCreated) -> Cron:
    return Cron(
        cron_id=cron_id,
        version=recorded.version,
        revision=recorded.version,
        assistant_id=event.assistant_id,
        graph_id=event.graph_id,
        user_id=event.user_id,
        schedule=event.schedule,
        canonical=event.canonical,
        payload=event.payload,
        thread_id=event.thread_id,
        timezone=event.timezone,
        start_time=event.start_time,
        end_time=event.end_time,
        state="active" if event.enabled else "paused",
        on_run_completed=event.on_run_completed,
        metadata=event.metadata,
        note=event.note,
        catch_up=event.catch_up,
        catch_up_window_s=event.catch_up_window_s,
        jitter_s=event.jitter_s,
        max_runs=event.max_runs,
        pause_after_failures=event.pause_after_failures,
        overlap=event.overlap,
        since=recorded.meta.at,
        tzdata=event.tzdata,
    )


def _updated(cron: Cron, event: CronUpdated, recorded: Recorded) -> Cron:
    fields: dict[str, Any] = {"revision": recorded.version}
    for name in (
        "schedule",
        "canonical",
        "timezone",
        "start_time",
        "end_time",
        "on_run_completed",
        "metadata",
        "payload",
        "note",
        "pause_after_failures",
        "overlap",
        *HOW,
    ):
        value = getattr(event, name)
        if value is not msgspec.UNSET:
            fields[name] = value
    if event.tzdata:
        fields["tzdata"] = event.tzdata
    return msgspec.structs.replace(cron, **fields)
