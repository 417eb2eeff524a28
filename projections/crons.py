"""Crons as they are now: what is shown, and what the scheduler starts from."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from contracts.events import (
    CronCreated,
    CronDeleted,
    CronExhausted,
    CronExpired,
    CronPaused,
    CronRescheduled,
    CronResumed,
    CronUpdated,
    OccurrenceMissed,
    OccurrenceSkipped,
    OccurrencesMissed,
    Rule,
    RuleEvent,
    RunFailed,
    RunRequested,
    RunSucceeded,
    RunTimedOut,
)
from contracts.ledger import Recorded
from projections import facets
from projections.rows import Row, Rows, Table, blob, maybe_micros, micros, seconds, text

NAME = "crons"
VERSION = 7
COUNTED = ("schedule", "catch_up")
"""Kinds of runs that are of its max_runs."""
PLAIN = (
    "schedule",
    "canonical",
    "timezone",
    "on_run_completed",
    "note",
    "catch_up",
    "catch_up_window_s",
    "jitter_s",
    "max_runs",
    "pause_after_failures",
    "overlap",
)
"""Columns that an update has under the same name."""
TABLES = (
    Table(
        "crons",
        {
            "cron_id": "id",
            "assistant_id": "id",
            "graph_id": "text",
            "thread_id": "id?",
            "user_id": "text",
            "schedule": "text",
            "canonical": "text",
            "timezone": "text?",
            "start_at": "instant?",
            "end_at": "instant?",
            "enabled": "flag",
            "state": "text",  # active, paused, expired, exhausted
            "paused_until": "instant?",
            "on_run_completed": "text?",
            "metadata": "json",
            "payload": "json",
            "cursor": "second",  # everything up to here is decided
            "wall": "second?",  # what the cron's clock showed at the newest occurrence that is, as seconds since 1970
            "since": "second",  # the rule in force decides about later instants
            "undecided": "text",  # JSON [[after, until, rule]], or '': what rules before it left over
            "next_at": "instant?",
            "revision": "int",
            "version": "int",  # of the stream
            "created_at": "instant",
            "updated_at": "instant",
            "tzdata": "text",
            "fired": "int",
            "skipped": "int",
            "missed": "int",
            "last_scheduled_for": "second?",
            "note": "text",
            "catch_up": "text",  # latest, skip, all
            "catch_up_window_s": "int?",  # NULL: as the server is set
            "jitter_s": "int",
            "max_runs": "int?",
            "counted": "int",  # runs of the schedule
            "pause_after_failures": "int?",
            "failures": "int",  # runs that failed since one succeeded, or since it was resumed
            "overlap": "text?",  # NULL: as its strategy says
            "position": "int",
        },
        "cron_id",
        (
            "(created_at, cron_id)",
            "(updated_at, cron_id)",
            "(next_at, cron_id)",
            "(end_at, cron_id)",
            "(thread_id, cron_id)",
            "(assistant_id, cron_id)",
            "(assistant_id, created_at, cron_id)",
            "(enabled)",
            "(user_id)",
        ),
    ),
    facets.facet_table("cron_facets"),
)


def apply(rows: Rows, recorded: Recorded) -> None:
    """Change the row of the cron that the event is about."""
    body = recorded.body
    if isinstance(body, RunRequested | OccurrenceSkipped | OccurrenceMissed):
        if body.cron_id is not None:
            _decided(rows, recorded, body)
    elif isinstance(body, RunSucceeded | RunFailed | RunTimedOut):
        if body.cron_id is not None:
            _ended(rows, recorded, body.cron_id.bytes)
    elif isinstance(body, CronCreated):
        _created(rows, recorded, body)
    elif recorded.topic.startswith("cron."):
        _edited(rows, recorded)


def _created(rows: Rows, recorded: Recorded, body: CronCreated) -> None:
    known = rows.get("crons", recorded.stream_id.bytes)
    if known is not None:
        return
    at = micros(recorded.meta.at)
    row: Row = {
        "cron_id": recorded.stream_id.bytes,
        "assistant_id": body.assistant_id.bytes,
        "graph_id": body.graph_id,
        "thread_id": blob(body.thread_id),
        "user_id": body.user_id,
        "schedule": body.schedule,
        "canonical": body.canonical,
        "timezone": body.timezone,
        "start_at": maybe_micros(body.start_time),
        "end_at": maybe_micros(body.end_time),
        "enabled": int(body.enabled),
        "state": "active" if body.enabled else "paused",
        "on_run_completed": body.on_run_completed,
        "metadata": text(body.metadata),
        "payload": text(body.payload),
        "cursor": seconds(recorded.meta.at),
        "wall": None,
        "since": seconds(recorded.meta.at),
        "undecided": "",
        "next_at": None,
        "revision": recorded.version,
        "version": recorded.version,
        "created_at": at,
        "updated_at": at,
        "tzdata": body.tzdata,
        "fired": 0,
        "skipped": 0,
        "missed": 0,
        "last_scheduled_for": None,
        "note": body.note,
        "catch_up": body.catch_up,
        "catch_up_window_s": body.catch_up_window_s,
        "jitter_s": body.jitter_s,
        "max_runs": body.max_runs,
        "counted": 0,
        "pause_after_failures": body.pause_after_failures,
        "failures": 0,
        "paused_until": None,
        "overlap": body.overlap,
        "position": recorded.position,
    }
    _move(row, body.next_at)
    facets.keep(rows, "cron_facets", row["cron_id"], None, row["metadata"])
    rows.put("crons", row)


def _decided(
    rows: Rows, recorded: Recorded, body: RunRequested | OccurrenceSkipped | OccurrenceMissed
) -> None:
    assert body.cron_id is not None
    row = _fresh(rows, body.cron_id.bytes, recorded)
    if row is None:
        return
    if isinstance(body, RunRequested):
        row["fired"] += 1
        row["counted"] += body.kind in COUNTED
    else:
        row["skipped" if isinstance(body, OccurrenceSkipped) else "missed"] += 1
    # A backfill comes beside the schedule: it may be of what the schedule has not decided yet.
    if body.scheduled_for is not None and body.backfill_id is None:
        due = seconds(body.scheduled_for)
        row["last_scheduled_for"] = max(due, row["last_scheduled_for"] or due)
        if due >= row["cursor"]:
            _move(row, body.next_at)
        _decide(row, due)
        _show(row, body.local)
    rows.put("crons", row)


def _ended(rows: Rows, recorded: Recorded, cron_id: bytes) -> None:
    """Count the failures in a row. A run that was cancelled says nothing."""
    row = rows.get("crons", cron_id)
    if row is None or row["position"] >= recorded.position:
        return
    failures = 0 if isinstance(recorded.body, RunSucceeded) else row["failures"] + 1
    if failures != row["failures"]:  # most runs succeed after one that did: their ends cost no write
        rows.put("crons", row | {"failures": failures, "position": recorded.position})


def _edited(rows: Rows, recorded: Recorded) -> None:
    key = recorded.stream_id.bytes
    if isinstance(recorded.body, CronDeleted):
        gone = rows.get("crons", key)
        facets.keep(rows, "cron_facets", key, gone["metadata"] if gone else None, None)
        rows.delete("crons", key)
        return
    row = _fresh(rows, key, recorded)
    if row is None:
        return
    before = row["metadata"]
    row["version"] = recorded.version
    if isinstance(recorded.body, RuleEvent) and recorded.body.rule is not None:
        _rule(row, recorded.body, recorded.meta.at)  # first: it looks at the rule that ends
    match recorded.body:
        case CronUpdated() as body:
            _updated(row, recorded, body)
        case CronPaused() as body:
            _live(row, recorded, "paused")
            row |= {"note": body.note or row["note"], "paused_until": maybe_micros(body.until)}
            _move(row, body.next_at)
        case CronResumed() as body:
            _live(row, recorded, "active")
            row |= {"note": body.note, "paused_until": None, "failures": 0}
            row["tzdata"] = body.tzdata or row["tzdata"]
            _move(row, body.next_at)
        case CronExpired():
            row |= {"state": "expired", "enabled": 0, "next_at": None}
        case CronExhausted():
            row |= {"state": "exhausted", "enabled": 0, "next_at": None}
        case CronRescheduled() as body:
            row["tzdata"] = body.tzdata
            _move(row, body.next_at)
            _decide(row, row["cursor"] if body.decided is None else seconds(body.decided))
        case OccurrencesMissed() as body:
            row["missed"] += body.count
            _move(row, body.next_at)
            _decide(row, seconds(body.last))
            _show(row, body.last_local)
    facets.keep(rows, "cron_facets", key, before, row["metadata"])
    rows.put("crons", row)


def _rule(row: Row, body: RuleEvent, at: datetime) -> None:
    """Note what the rule that ends has left over; an edit moves no cursor over what is undecided."""
    if body.rule is not None and (body.rule.canonical, body.rule.timezone) != (
        row["canonical"],
        row["timezone"],
    ):
        row["wall"] = None  # it was of another schedule, or of another clock
    newest = None if body.newest is None else seconds(body.newest)
    if newest is not None and newest > row["cursor"]:
        left = msgspec.json.decode(row["undecided"] or "[]")
        row["undecided"] = text([*left, [row["since"], newest, rule_of(row).over(body.made_up)]])
    row["since"] = max(row["since"], row["cursor"], seconds(body.since(at)))
    _decide(row, row["cursor"])


def rule_of(row: Row) -> Rule:
    """The rule in force, in whole seconds: from the first that may be an occurrence to the last."""
    start, end, until = row["start_at"], row["end_at"], row["paused_until"]
    if row["state"] == "exhausted":
        end = row["since"] * 1_000_000  # nothing has been due since
    return Rule(
        canonical=row["canonical"],
        timezone=row["timezone"],
        start_time=None if start is None else datetime.fromtimestamp(-(-start // 1_000_000), UTC),
        end_time=None if end is None else datetime.fromtimestamp(end // 1_000_000, UTC),
        active=row["state"] == "active",
        catch_up=row["catch_up"],
        window_s=row["catch_up_window_s"],
        until=None if until is None else datetime.fromtimestamp(-(-until // 1_000_000), UTC),
        jitter_s=row["jitter_s"],
        max_runs=row["max_runs"],
    )


def _decide(row: Row, until: int) -> None:
    """Move the cursor, over what had nothing due too."""
    row["cursor"] = max(row["cursor"], until)
    if row["undecided"]:
        left = [s for s in msgspec.json.decode(row["undecided"]) if s[1] > row["cursor"]]
        row["undecided"] = text(left) if left else ""
    if not row["undecided"]:
        row["cursor"] = max(row["cursor"], row["since"])


def _show(row: Row, local: str) -> None:
    """Note the wall time of what is decided; '': it is not known."""
    if local:
        wall = int(datetime.fromisoformat(local).replace(tzinfo=UTC).timestamp())
        row["wall"] = wall if row["wall"] is None else max(wall, row["wall"])


def _updated(row: Row, recorded: Recorded, body: CronUpdated) -> None:
    row |= {name: value for name in PLAIN if (value := getattr(body, name)) is not msgspec.UNSET}
    if body.start_time is not msgspec.UNSET:
        row["start_at"] = maybe_micros(body.start_time)
    if body.end_time is not msgspec.UNSET:
        row["end_at"] = maybe_micros(body.end_time)
    if body.metadata is not msgspec.UNSET:
        row["metadata"] = text(body.metadata)
    if body.payload is not msgspec.UNSET:
        row["payload"] = text(body.payload)
    row["tzdata"] = body.tzdata or row["tzdata"]
    row["revision"] = recorded.version
    row["updated_at"] = micros(recorded.meta.at)
    _move(row, body.next_at)


def _live(row: Row, recorded: Recorded, state: str) -> None:
    row |= {"state": state, "enabled": int(state == "active"), "revision": recorded.version}
    row["updated_at"] = micros(recorded.meta.at)


def _move(row: Row, next_at: Any) -> None:
    if next_at is not msgspec.UNSET:
        row["next_at"] = maybe_micros(next_at)


def _fresh(rows: Rows, key: bytes, recorded: Recorded) -> Row | None:
    """The row, unless it is gone or has seen the event already."""
    row = rows.get("crons", key)
    if row is None or row["position"] >= recorded.position:
        return None
    row["position"] = recorded.position
    return row
