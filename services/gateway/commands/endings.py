"""What must end because something else does: runs are stopped, threads are deleted with all they have."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from domain import cron as crons
from domain import decisions
from domain.changes import Changes
from domain.cron import Cron, DeleteCron
from domain.decisions import Line, Places
from domain.errors import RunNotFound
from domain.run import CancelRun, Run
from domain.thread import Thread
from services.gateway.commands.execution import act
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import SQL
from services.repository import Aggregates

Standing = tuple[Run, Places]
"""A run, and the lanes in which it stands."""


def standing(log: Aggregates, thread_id: UUID, run_id: UUID) -> Standing:
    """The run of that thread. Raises RunNotFound."""
    run = log.run(thread_id, run_id)
    return run, log.lanes(run.lanes)


async def stop_run(parts: GatewayParts, caller: Caller, thread_id: UUID, run_id: UUID, reason: str) -> None:
    """Ask that the run stops; one that waits ends at once. Harmless when it has ended or is gone."""

    def load(log: Aggregates) -> Standing | None:
        try:
            return standing(log, thread_id, run_id)
        except RunNotFound:
            return None

    def decide(found: Standing | None) -> Changes:
        if found is None or not found[0].is_active or found[0].cancel:
            return Changes()
        return decisions.cancel(found[0], CancelRun(reason=reason), found[1])

    await act(parts, caller, thread_id, load, decide)


async def delete_thread(parts: GatewayParts, caller: Caller, thread_id: UUID) -> None:
    """Delete the thread with its runs and crons. Harmless when it is gone.

    Its crons are found in the read models, which may lag. One that is created elsewhere while we decide rests on
    the thread's version, so that it comes before the deletion or never: a second look finds it.
    """
    ending = DeleteCron(reason="thread_deleted")

    def load(log: Aggregates) -> tuple[Thread, Line, Sequence[Cron]] | None:
        thread = log.thread_or_none(thread_id)
        if thread is None:
            return None
        return thread, log.whole_line(log.lane(thread_id)), crons_of(parts, log, "thread", thread_id)

    def decide(found: tuple[Thread, Line, Sequence[Cron]] | None) -> Changes:
        if found is None:
            return Changes()
        thread, line, theirs = found
        ended = ended_crons(theirs, ending, parts.clock.now())
        return decisions.delete_thread(thread, line, ended.appends)

    await act(parts, caller, thread_id, load, decide)
    await act(
        parts,
        caller,
        thread_id,
        lambda log: crons_of(parts, log, "thread", thread_id),
        lambda left_behind: ended_crons(left_behind, ending, parts.clock.now()),
    )


def crons_of(
    parts: GatewayParts, log: Aggregates, owner: Literal["thread", "assistant"], owner_id: UUID
) -> list[Cron]:
    """Every cron of that thread or assistant, as far as the read models show them."""
    rows = parts.views.all(SQL[f"crons_of_{owner}"], (owner_id.bytes,))
    found = [log.cron(UUID(bytes=row["cron_id"])) for row in rows]
    return [cron for cron in found if cron is not None]


def ended_crons(theirs: Sequence[Cron], command: DeleteCron, now: datetime) -> Changes:
    """The end of these crons."""
    changes = Changes()
    for cron in theirs:
        changes += crons.changes(cron.cron_id, cron, crons.decide(cron, command, now))
    return changes
