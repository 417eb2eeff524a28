"""Backfills: asked for, cancelled."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from contracts.api import CronBackfill
from domain import backfill as backfills
from domain.backfill import BackfillPlan, RequestBackfill
from domain.changes import Changes
from domain.cron import Cron
from domain.errors import CronNotFound
from domain.identity import run_id_of
from domain.run import is_run
from domain.schedule import tzdata_version
from services.gateway.commands.execution import act
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.kit.ids import uuid7
from services.repository import Aggregates


class Past(msgspec.Struct, frozen=True):
    """What a backfill rests on: the cron, its occurrences in the stretch, and which of them are runs already."""

    cron: Cron
    due: tuple[int, ...]
    runs: tuple[UUID, ...]


async def begin(
    parts: GatewayParts, caller: Caller, cron_id: UUID, body: CronBackfill
) -> tuple[UUID | None, BackfillPlan]:
    """The new backfill and what it comes to; no id when there is nothing to run, or it was only asked what would be.

    Raises CronNotFound, InvalidField.
    """
    command = RequestBackfill(
        backfill_id=uuid7(),
        start=body.start,
        end=body.end,
        include=body.include or "unfired",
        overlap=body.overlap,
        limit=body.limit,
        note=body.note or "",
    )
    plan = BackfillPlan((), 0)

    def load(log: Aggregates) -> Past:
        cron = log.cron(cron_id)
        if cron is None:
            raise CronNotFound("Cron not found")
        due = backfills.candidates(cron, command, parts.clock.now())
        return Past(cron, due, tuple(_runs(log, cron_id, due)))

    def decide(found: Past) -> Changes:
        nonlocal plan
        plan = backfills.planned(found.cron, command, found.due, found.runs)
        if body.dry_run:
            return Changes()
        return backfills.request(found.cron, command, plan, tzdata_version())

    position = await act(parts, caller, cron_id, load, decide)
    return None if position is None else command.backfill_id, plan


async def cancel(parts: GatewayParts, caller: Caller, cron_id: UUID, backfill_id: UUID) -> None:
    """Let no more of it begin; harmless when it is over. Raises BackfillNotFound."""
    await act(
        parts,
        caller,
        cron_id,
        lambda log: log.backfill(backfill_id),
        lambda found: backfills.cancel(found, cron_id),
    )


def _runs(log: Aggregates, cron_id: UUID, due: Sequence[int]) -> list[UUID]:
    """Ids of those that have had a run. The append does not rest on them: whoever releases looks again."""
    newest = log.log.newest([run_id_of(cron_id, at) for at in due])
    return [run_id for run_id, event in newest.items() if is_run(event.body)]
