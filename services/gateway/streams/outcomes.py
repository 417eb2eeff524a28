"""What runs came to, as far as their streams tell it."""

from typing import Any
from uuid import UUID

import msgspec

from domain.run import Run, run_of
from domain.thread import thread_of
from projections.runs import GONE
from services.gateway.answers.runs import failure_of
from services.gateway.queries.filters import SQL
from services.kit.eventlog import EventLog
from services.kit.views import Views

ROW = SQL["row"].format(table="runs", key="run_id")


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended: the status that its clients see, why it failed, whether it asks something."""

    status: str
    failure: dict[str, Any] | None = None  # error, message
    ended_s: float | None = None  # seconds since the epoch; None: nobody knows
    was_started: bool = False
    asks: bool = False


def outcome_of(views: Views, log: EventLog, run_id: UUID) -> Outcome | None:
    """What the run came to; None while it goes on, or the read models do not show its end.

    Nothing more becomes of a run that has its outcome, is gone, or whose thread is.
    """
    row = views.one(ROW, (run_id.bytes,))
    if row is not None and row["phase"] == "ended":
        return Outcome(
            status=row["status"],
            failure=failure_of(row),
            ended_s=row["ended_at"] / 1_000_000,
            was_started=row["attempt"] > 0,
            asks=any(msgspec.json.decode(row["interrupts"]).values()),
        )
    if row is not None and row["hidden"] != GONE:
        return None
    run = run_of(run_id, log.stream(run_id))
    if run is None:
        return Outcome("interrupted")
    if row is None and run.is_active and not _is_thread_gone(log, run):
        return None
    is_undone = run.gone and run.cancel == "rollback"
    shown = "interrupted" if run.is_active else run.status
    return Outcome("rollback" if is_undone else shown, was_started=run.attempt > 0)


def _is_thread_gone(log: EventLog, run: Run) -> bool:
    thread_id = run.request.thread_id
    return not run.request.temporary and thread_of(thread_id, log.newest([thread_id]).values()) is None
