"""Crons and their occurrences, as clients see them."""

from typing import Any, Literal
from uuid import UUID

import msgspec

from contracts.answers.runs import RunStatusShown
from contracts.api import Json, Strategy
from contracts.events import CatchUp, OnRunCompleted, Overlap


class CronAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A cron. Instants are ISO 8601 with an offset; `payload` is the body that it was created with."""

    cron_id: UUID
    assistant_id: UUID
    thread_id: UUID | None  # null: each run has a thread of its own
    user_id: str
    schedule: str
    timezone: str | None  # null is UTC
    end_time: str | None
    next_run_date: str | None
    enabled: bool
    on_run_completed: OnRunCompleted | None
    metadata: Json
    payload: Json | None
    created_at: str
    updated_at: str


class CronLedger(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a cron so far, and what to know of its schedule."""

    description: str  # the schedule in words
    state: Literal["active", "paused", "expired", "exhausted", "blocked"]
    note: str | None  # why it is as it is, in the words of whoever changed it last
    reason: str | None  # why it is blocked: nothing fires until that is mended
    revision: int
    fired: int
    skipped: int
    missed: int
    tzdata: str
    warnings: list[str]
    catch_up: CatchUp
    catch_up_window_seconds: int | None  # null: as the server is set
    start_time: str | None
    paused_until: str | None  # it is resumed then by itself
    jitter_seconds: int
    max_runs: int | None
    runs: int  # that count to its `max_runs`: those of the schedule, late ones too
    pause_after_failures: int | None
    failures: int  # runs in a row that failed, since it was resumed
    overlap: Overlap


class CronWithLedger(CronAnswer, frozen=True, kw_only=True):
    """A cron, and what became of it."""

    ledger: CronLedger


class CronTold(CronWithLedger, frozen=True, kw_only=True):
    """A cron, what became of it last and what is next."""

    ledger: "CronHistory"


class CreationLedger(msgspec.Struct, frozen=True):
    """What to know of a new schedule."""

    description: str
    warnings: list[str]


class CronHistory(CronLedger, frozen=True, kw_only=True):
    """The same with its newest occurrences and the next ones."""

    last: "OccurrenceAnswer | None"  # the newest of them
    recent: "list[OccurrenceAnswer]"  # newest first, 10 at most
    upcoming: "list[Coming]"  # soonest first, 5 at most; none of a cron that does not fire


class CronWithRun(CronAnswer, frozen=True, kw_only=True):
    """A new cron with its first run: every key of both, the thread being the run's. `cron` is the cron alone."""

    run_id: UUID
    status: RunStatusShown
    kwargs: Json
    multitask_strategy: Strategy
    langsmith_session_name: None = None
    input: Any
    output: Any
    error_message: str | None
    config: Json
    context: Json
    cancel_reason: str | None
    cron: CronAnswer
    ledger: CreationLedger


class Coming(msgspec.Struct, frozen=True):
    """An occurrence that is to come."""

    scheduled_for: str
    local: str  # on the clock of the cron's zone
    fires_at: str
    run_id: UUID | None  # what its run will be called; null of a schedule that no cron has
    dst: Literal["gap", "overlap"] | None  # its wall time is skipped, or shown twice


class SchedulePreview(msgspec.Struct, frozen=True):
    """What a schedule means, whether or not a cron has it."""

    canonical: str
    description: str
    upcoming: list[Coming]
    warnings: list[str]


class OccurrenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an occurrence, or of a stretch of `count` missed ones up to `until`; `pending`: it is to come."""

    cron_id: UUID
    scheduled_for: str
    until: str | None
    count: int
    status: Literal["fired", "skipped", "missed", "pending"]
    reason: str | None
    kind: str | None
    fired_at: str | None
    lateness_ms: float | None
    run_id: UUID | None
    thread_id: UUID | None
    local: str | None
    revision: int | None
    tzdata: str | None
