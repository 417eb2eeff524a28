"""What must end because something else does: runs are stopped, threads are deleted with all they have."""

from typing import Literal
from uuid import UUID

from domain import cron as crons
from domain import requests
from domain.changes import Changes
from domain.cron import DeleteCron, cron_of
from domain.errors import RunNotFound, ThreadNotFound
from domain.run import CancelRun, run_of
from services.gateway.commands import acting
from services.gateway.commands.acting import Asks
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import SQL


async def stop_run(parts: GatewayParts, call: Asks, thread_id: UUID, run_id: UUID, reason: str) -> None:
    """Ask that the run stops; one that waits ends at once. Harmless when it has ended or is gone."""

    def decide() -> Changes:
        try:
            run = acting.run(parts, thread_id, run_id)
        except RunNotFound:
            return Changes()
        if not run.is_active or run.cancel:
            return Changes()
        return requests.cancel(run, CancelRun(reason=reason), acting.lane(parts, thread_id))

    await acting.act(parts, call, thread_id, decide)


async def delete_thread(parts: GatewayParts, call: Asks, thread_id: UUID) -> None:
    """Delete the thread with its runs and crons. Harmless when it is gone.

    Its crons are found in the read models, which may lag. One that is created elsewhere while we decide rests on
    the thread's version, so that it comes before the deletion or never: a second look finds it.
    """

    def decide() -> Changes:
        try:
            thread = acting.thread(parts, thread_id)
        except ThreadNotFound:
            return Changes()
        lane = acting.lane(parts, thread_id)
        found = [run_of(entry.run_id, parts.log.stream(entry.run_id)) for entry in lane.in_flight]
        in_flight = [run for run in found if run is not None]
        ended = end_crons(parts, call, "thread", thread_id, DeleteCron(reason="thread_deleted"))
        return requests.delete_thread(thread, lane, in_flight, ended.appends)

    def left_behind() -> Changes:
        return end_crons(parts, call, "thread", thread_id, DeleteCron(reason="thread_deleted"))

    await acting.act(parts, call, thread_id, decide)
    await acting.act(parts, call, thread_id, left_behind)


def end_crons(
    parts: GatewayParts,
    call: Asks,
    owner: Literal["thread", "assistant"],
    owner_id: UUID,
    command: DeleteCron,
) -> Changes:
    """The end of every cron of that thread or assistant."""
    changes, name = Changes(), f"crons_of_{owner}"
    for row in parts.views.all(SQL[name], (owner_id.bytes,)):
        cron_id = UUID(bytes=row["cron_id"])
        cron = cron_of(cron_id, parts.log.stream(cron_id))
        if cron is not None:
            changes += crons.changes(cron_id, cron, crons.decide(cron, command, call.meta(parts).at))
    return changes
