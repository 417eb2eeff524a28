"""A cron: its fields and its life. Its firings are on the streams of their runs, so this one stays short."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, assert_never
from uuid import UUID

import msgspec

from contracts.codec import pack
from contracts.events import (
    CronCreated,
    CronDeleted,
    CronEvent,
    CronExpired,
    CronPaused,
    CronRescheduled,
    CronResumed,
    CronUpdated,
    MissedReason,
    OccurrencesMissed,
    OnRunCompleted,
)
from contracts.ledger import Append, Blob, Payload, Recorded
from domain.changes import Changes
from domain.errors import CronNotFound, EmptyUpdate, InvalidField
from domain.schedule import (
    InvalidSchedule,
    Schedule,
    Zone,
    count_between,
    newest_before,
    next_after,
    parse,
    tzdata_version,
    zone,
)

PAYLOAD_LIMIT = 64 * 1024
"""Bytes of JSON that a cron's payload may have."""


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
    end_time: datetime | None = None
    state: Literal["active", "paused", "expired", "deleted"] = "active"
    on_run_completed: OnRunCompleted | None = None
    metadata: dict[str, Any] = {}
    since: datetime  # start of the revision that decides when: nothing at or before it fires
    paused_at: datetime | None = None
    tzdata: str = ""

    @property
    def is_active(self) -> bool:
        """True while occurrences are decided."""
        return self.state == "active"


class CreateCron(msgspec.Struct, frozen=True, kw_only=True, tag="cron.create"):
    """Begin a schedule. `spec` describes the runs (`domain.request.spec_of`)."""

    cron_id: UUID
    assistant_id: UUID
    graph_id: str
    user_id: str
    schedule: str
    spec: dict[str, Any]
    thread_id: UUID | None = None
    timezone: str | None = None
    end_time: datetime | None = None
    enabled: bool = True
    on_run_completed: OnRunCompleted | None = None
    seconds: bool = False  # six fields are allowed


class UpdateCron(msgspec.Struct, frozen=True, kw_only=True, tag="cron.update"):
    """Change fields; absent ones keep their value. `spec` holds the run fields that are replaced."""

    schedule: str | msgspec.UnsetType = msgspec.UNSET
    timezone: str | None | msgspec.UnsetType = msgspec.UNSET
    end_time: datetime | None | msgspec.UnsetType = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    on_run_completed: OnRunCompleted | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    spec: dict[str, Any] = {}
    current_spec: dict[str, Any] = {}  # the payload as it is, read by whoever asks
    seconds: bool = False


class ExpireCron(msgspec.Struct, frozen=True, kw_only=True, tag="cron.expire"):
    """Say that no occurrence is left before its end. Twice is harmless."""


class RescheduleCron(msgspec.Struct, frozen=True, kw_only=True, tag="cron.reschedule"):
    """Say that new zone rules move the next occurrence to `next_at`."""

    next_at: datetime | None


class RecordMissed(msgspec.Struct, frozen=True, kw_only=True, tag="cron.record_missed"):
    """Say that a stretch of occurrences did not fire, and why."""

    first: datetime
    last: datetime
    count: int
    reason: MissedReason
    counted_all: bool = True
    next_at: datetime | None | msgspec.UnsetType = msgspec.UNSET


class DeleteCron(msgspec.Struct, frozen=True, kw_only=True, tag="cron.delete"):
    """End the schedule."""

    reason: Literal["request", "thread_deleted", "assistant_deleted"] = "request"


CronCommand = CreateCron | UpdateCron | ExpireCron | RescheduleCron | RecordMissed | DeleteCron
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
        case ExpireCron():
            return ([CronExpired()] if _present(cron).state != "expired" else []), ()
        case RescheduleCron():
            _present(cron)
            return [CronRescheduled(next_at=command.next_at, tzdata=tzdata_version())], ()
        case RecordMissed():
            _present(cron)
            return [_missed(command)], ()
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
    match event:
        case CronUpdated():
            return _updated(changed, event, recorded)
        case CronPaused():
            return msgspec.structs.replace(
                changed, state="paused", revision=recorded.version, paused_at=recorded.meta.at
            )
        case CronResumed():
            return msgspec.structs.replace(
                changed,
                state="active",
                revision=recorded.version,
                paused_at=None,
                since=recorded.meta.at,
            )
        case CronExpired():
            return msgspec.structs.replace(changed, state="expired", paused_at=recorded.meta.at)
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


def next_occurrence(
    schedule: Schedule, place: Zone, after: datetime, end_time: datetime | None
) -> datetime | None:
    """The first occurrence strictly after `after` and not after `end_time` (inclusive); None = none."""
    epoch = next_after(schedule, place, int(after.timestamp()))
    if epoch is None or (end_time is not None and epoch > end_time.timestamp()):
        return None
    return datetime.fromtimestamp(epoch, UTC)


def aware(instant: datetime) -> datetime:
    """The instant in UTC; a naive one is UTC already."""
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _present(cron: Cron | None) -> Cron:
    if cron is None or cron.state == "deleted":
        raise CronNotFound("Cron not found")
    return cron


def _create(command: CreateCron, now: datetime) -> Decision:
    schedule = parse(command.schedule, seconds=command.seconds)
    place = zone(command.timezone)
    end_time = _future(command.end_time, now)
    payload, blobs = _payload(command.cron_id, command.assistant_id, command.schedule, command.spec)
    stateless = command.thread_id is None
    created = CronCreated(
        assistant_id=command.assistant_id,
        graph_id=command.graph_id,
        user_id=command.user_id,
        schedule=command.schedule,
        canonical=schedule.canonical,
        thread_id=command.thread_id,
        timezone=command.timezone,
        end_time=end_time,
        enabled=command.enabled,
        on_run_completed=(command.on_run_completed or "delete") if stateless else None,
        metadata=command.spec.get("metadata") or {},
        payload=payload,
        next_at=next_occurrence(schedule, place, now, end_time),
        tzdata=tzdata_version(),
    )
    return [created], blobs


def _future(end_time: datetime | None, now: datetime) -> datetime | None:
    if end_time is None:
        return None
    end_time = aware(end_time)
    if end_time <= now:
        raise InvalidField("end_time: must lie in the future")
    return end_time


def _payload(
    cron_id: UUID, assistant_id: UUID, schedule: str, spec: dict[str, Any]
) -> tuple[Payload, tuple[Blob, ...]]:
    config = dict(spec.get("config") or {})
    config["configurable"] = {**config.get("configurable", {}), "cron_id": str(cron_id)}
    value = {"assistant_id": str(assistant_id), "schedule": schedule, **spec, "config": config}
    data = msgspec.json.encode(value)
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
    for name in ("schedule", "timezone", "on_run_completed"):
        value = getattr(command, name)
        if value is not msgspec.UNSET and value != getattr(cron, name):
            fields[name] = value
    if cron.thread_id is not None:
        fields.pop("on_run_completed", None)  # a thread cron keeps its thread, whatever was sent
    if command.end_time is not msgspec.UNSET:
        fields["end_time"] = _future(command.end_time, now)
    fields |= _timing(cron, command, fields, now)
    blobs: tuple[Blob, ...] = ()
    spec = _new_spec(cron, command)
    if spec is not None or "schedule" in fields:
        merged = command.current_spec if spec is None else spec
        schedule = fields.get("schedule", cron.schedule)
        fields["payload"], blobs = _payload(cron.cron_id, cron.assistant_id, schedule, merged)
    if command.metadata is not msgspec.UNSET:
        fields["metadata"] = {**cron.metadata, **command.metadata}
    return (CronUpdated(**fields) if fields else None), blobs


def _timing(cron: Cron, command: UpdateCron, fields: dict[str, Any], now: datetime) -> dict[str, Any]:
    schedule = parse(
        fields.get("schedule", cron.schedule), seconds=command.seconds or "schedule" not in fields
    )
    place = zone(fields.get("timezone", cron.timezone))
    if not fields.keys() & {"schedule", "timezone", "end_time"}:
        return {}
    moved = schedule.canonical != cron.canonical or "timezone" in fields
    end_time = fields.get("end_time", cron.end_time)
    timing: dict[str, Any] = {
        "next_at": next_occurrence(schedule, place, now, end_time),
        "tzdata": tzdata_version(),
        "moves_cursor": moved,
    }
    if "schedule" in fields:
        timing["canonical"] = schedule.canonical
    return timing


def _new_spec(cron: Cron, command: UpdateCron) -> dict[str, Any] | None:
    spec = dict(command.spec)
    if command.metadata is not msgspec.UNSET:
        # One single metadata: the payload shows what the cron has.
        spec["metadata"] = {**cron.metadata, **command.metadata}
    return {**command.current_spec, **spec} if spec else None


def _life(cron: Cron, command: UpdateCron, updated: CronUpdated | None, now: datetime) -> list[CronEvent]:
    if command.enabled is msgspec.UNSET or command.enabled == cron.is_active:
        return []
    if not command.enabled:
        # An expired cron is as good as paused already.
        return [CronPaused()] if cron.state == "active" else []
    end_time = cron.end_time
    schedule, timezone = cron.schedule, cron.timezone
    if updated is not None:
        end_time = end_time if updated.end_time is msgspec.UNSET else updated.end_time
        schedule = schedule if updated.schedule is msgspec.UNSET else updated.schedule
        timezone = timezone if updated.timezone is msgspec.UNSET else updated.timezone
    if end_time is not None and end_time <= now:
        raise InvalidField("enabled: the cron's end_time has passed; set a later end_time or null with it")
    coming = next_occurrence(parse(schedule, seconds=True), zone(timezone), now, end_time)
    resumed = CronResumed(next_at=coming, tzdata=tzdata_version())
    return [*_covered_by_pause(cron, now), resumed]


def _covered_by_pause(cron: Cron, now: datetime) -> list[CronEvent]:
    """What the pause covered, under the schedule that was in force; nothing after the end counts."""
    start = max(cron.paused_at or cron.since, cron.since)
    until = now if cron.end_time is None else min(now, cron.end_time)
    schedule, place = parse(cron.schedule, seconds=True), zone(cron.timezone)
    first = next_occurrence(schedule, place, start, until)
    if first is None:
        return []
    after, last_s = int(start.timestamp()), int(until.timestamp())
    count, counted_all = count_between(schedule, place, after, last_s)
    last = newest_before(schedule, place, after, last_s)
    assert last is not None
    missed = OccurrencesMissed(
        first=first,
        last=datetime.fromtimestamp(last, UTC),
        count=count,
        counted_all=counted_all,
        reason="paused",
    )
    return [missed]


def _missed(command: RecordMissed) -> OccurrencesMissed:
    return OccurrencesMissed(
        first=command.first,
        last=command.last,
        count=command.count,
        reason=command.reason,
        counted_all=command.counted_all,
        next_at=command.next_at,
    )


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
        end_time=event.end_time,
        state="active" if event.enabled else "paused",
        on_run_completed=event.on_run_completed,
        metadata=event.metadata,
        since=recorded.meta.at,
        paused_at=None if event.enabled else recorded.meta.at,
        tzdata=event.tzdata,
    )


def _updated(cron: Cron, event: CronUpdated, recorded: Recorded) -> Cron:
    fields: dict[str, Any] = {"revision": recorded.version}
    for name in (
        "schedule",
        "canonical",
        "timezone",
        "end_time",
        "on_run_completed",
        "metadata",
        "payload",
    ):
        value = getattr(event, name)
        if value is not msgspec.UNSET:
            fields[name] = value
    if event.tzdata:
        fields["tzdata"] = event.tzdata
    if event.moves_cursor:
        fields["since"] = recorded.meta.at
    return msgspec.structs.replace(cron, **fields)


__all__ = [
    "CreateCron",
    "Cron",
    "CronCommand",
    "DeleteCron",
    "EmptyUpdate",
    "ExpireCron",
    "InvalidSchedule",
    "RecordMissed",
    "RescheduleCron",
    "UpdateCron",
    "aware",
    "changes",
    "cron_of",
    "decide",
    "evolve",
    "next_occurrence",
]
