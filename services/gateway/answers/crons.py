"""Crons and their occurrences from rows of the read model."""

from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from contracts.answers.crons import (
    Coming,
    CreationLedger,
    CronAnswer,
    CronHistory,
    CronLedger,
    CronTold,
    CronWithLedger,
    CronWithRun,
    OccurrenceAnswer,
)
from contracts.answers.runs import RunAnswer
from contracts.codec import BlobOf
from contracts.events import Overlap
from domain.croniter_witness import witness_warnings
from domain.description import description
from domain.overlap import had
from domain.schedule import is_known, parse, zone
from services.gateway.answers.values import (
    Row,
    decoded,
    instant,
    json_of,
    maybe_instant,
    maybe_uuid,
    value_of,
)

UNSCHEDULED = ("first", "trigger", "backfill")
"""Kinds of firings that are for no instant."""
WITNESS_S = 3600
"""The witness is asked once an hour for the same schedule: it costs more than everything else here."""


def cron(row: Row, blob_of: BlobOf) -> CronAnswer:
    """The cron; a row without its payload shows none."""
    return CronAnswer(**_said(row, blob_of))


def with_ledger(row: Row, blob_of: BlobOf, wall_s: float, blocked: str = "") -> CronWithLedger:
    """The cron, and what became of it; `blocked` says why an active one does not fire."""
    is_blocked = bool(blocked) and row["state"] == "active"
    ledger = CronLedger(
        description=described(row),
        state="blocked" if is_blocked else row["state"],
        note=row["note"] or None,
        reason=blocked if is_blocked else None,
        revision=row["revision"],
        fired=row["fired"],
        skipped=row["skipped"],
        missed=row["missed"],
        tzdata=row["tzdata"],
        warnings=warnings(row, wall_s),
        catch_up=row["catch_up"],
        catch_up_window_seconds=row["catch_up_window_s"],
        start_time=maybe_instant(row["start_at"]),
        paused_until=maybe_instant(row["paused_until"]),
        jitter_seconds=row["jitter_s"],
        max_runs=row["max_runs"],
        runs=row["counted"],
        pause_after_failures=row["pause_after_failures"],
        failures=row["failures"],
        overlap=_overlap(row, blob_of),
    )
    return CronWithLedger(**_said(row, blob_of), ledger=ledger)


def told(small: CronWithLedger, recent: list[OccurrenceAnswer], upcoming: list[Coming]) -> CronTold:
    """The cron with its newest occurrences, newest first, and the next ones."""
    known = msgspec.structs.asdict(small.ledger)
    ledger = CronHistory(**known, last=recent[0] if recent else None, recent=recent, upcoming=upcoming)
    return CronTold(**msgspec.structs.asdict(small) | {"ledger": ledger})


def with_run(row: Row, run: RunAnswer, blob_of: BlobOf, wall_s: float) -> CronWithRun:
    """The answer to a cron's creation: every key of its first run and every key of the cron."""
    shown = cron(row, blob_of)
    both = {**msgspec.structs.asdict(run), **msgspec.structs.asdict(shown), "thread_id": run.thread_id}
    return CronWithRun(**both, cron=shown, ledger=CreationLedger(described(row), warnings(row, wall_s)))


def described(row: Row) -> str:
    """Its schedule in words."""
    return description(parse(row["schedule"], seconds=True), row["timezone"])


def warnings(row: Row, wall_s: float) -> list[str]:
    """What to know of its schedule."""
    return list(_warned(row["schedule"], row["timezone"], int(wall_s) // WITNESS_S * WITNESS_S))


def occurrence(row: Row) -> OccurrenceAnswer:
    """An occurrence, or a stretch of missed ones (`count`, `until`)."""
    due = row["scheduled_for"] * 1_000_000
    fired = row["status"] == "fired"
    return OccurrenceAnswer(
        cron_id=UUID(bytes=row["cron_id"]),
        scheduled_for=instant(due),
        until=maybe_instant(None if row["until"] is None else row["until"] * 1_000_000),
        count=row["count"],
        status=row["status"],
        reason=row["reason"] or None,
        kind=row["kind"] or None,
        fired_at=maybe_instant(row["fired_at"]) if fired else None,
        lateness_ms=(row["fired_at"] - (row["fires_at"] or due)) / 1000
        if fired and row["kind"] not in UNSCHEDULED
        else None,
        run_id=maybe_uuid(row["run_id"]),
        thread_id=maybe_uuid(row["thread_id"]),
        local=row["local"] or None,
        revision=row["revision"],
        tzdata=row["tzdata"],
    )


def pending(row: Row, coming: Coming) -> OccurrenceAnswer:
    """An occurrence that is to come, of the cron of the row."""
    return OccurrenceAnswer(
        cron_id=UUID(bytes=row["cron_id"]),
        scheduled_for=coming.scheduled_for,
        until=None,
        count=1,
        status="pending",
        reason=None,
        kind="schedule",
        fired_at=None,
        lateness_ms=None,
        run_id=coming.run_id,
        thread_id=maybe_uuid(row["thread_id"]),
        local=coming.local,
        revision=row["revision"],
        tzdata=row["tzdata"],
    )


def _said(row: Row, blob_of: BlobOf) -> dict[str, Any]:
    return {
        "cron_id": UUID(bytes=row["cron_id"]),
        "assistant_id": UUID(bytes=row["assistant_id"]),
        "thread_id": maybe_uuid(row["thread_id"]),
        "user_id": row["user_id"],
        "schedule": row["schedule"],
        "timezone": row["timezone"],
        "end_time": maybe_instant(row["end_at"]),
        "next_run_date": maybe_instant(row["next_at"]),
        "enabled": bool(row["enabled"]),
        "on_run_completed": row["on_run_completed"],
        "metadata": json_of(row["metadata"]),
        "payload": value_of(row["payload"], blob_of),
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
    }


def _overlap(row: Row, blob_of: BlobOf) -> Overlap:
    """What it has, also when only its strategy says so."""
    payload = {} if row["overlap"] else decoded(value_of(row["payload"], blob_of)) or {}
    on_thread = row["thread_id"] is not None
    return had(row["overlap"], payload.get("multitask_strategy"), on_thread=on_thread).overlap


@lru_cache(maxsize=2048)
def _warned(text: str, timezone: str | None, after: int) -> tuple[str, ...]:
    schedule = parse(text, seconds=True)
    if not is_known(timezone):
        return schedule.warnings
    return (*schedule.warnings, *witness_warnings(schedule, zone(timezone), after))
