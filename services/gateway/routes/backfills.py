"""Backfills of a cron: begin, read, cancel."""

from datetime import UTC, datetime
from uuid import UUID

from litestar import Controller, Response

from contracts.answers.backfills import BackfillAnswer, BackfillBegun
from contracts.api import CronBackfill
from services.gateway.commands import backfills as commands
from services.gateway.handlers import By, Limit, Offset, Parts, many, posts, reads
from services.gateway.queries import backfills as queries


class BackfillController(Controller):
    """Occurrences that lie in the past, and have runs after all."""

    path = "/runs/crons/{cron_id:str}"
    tags = ["crons"]

    @posts("/backfill", summary="Run what a cron has missed")
    async def begin_backfill(
        self, parts: Parts, caller: By, cron_id: UUID, data: CronBackfill
    ) -> Response[BackfillBegun]:
        """Its occurrences in [`start`, `end`), at most 1,000, begin ten a second, beside its schedule; by default those
        only that have had no run, so that asking twice begins nothing twice.
        """
        backfill_id, plan = await commands.begin(parts, caller, cron_id, data)
        edges = [datetime.fromtimestamp(plan.planned[n], UTC).isoformat() for n in (0, -1) if plan.planned]
        first, last = edges or (None, None)
        begun = BackfillBegun(
            backfill_id=backfill_id,
            planned=len(plan.planned),
            already_fired=plan.already_fired,
            first=first,
            last=last,
        )
        # Not 202, of which the npm client gives no body to whoever calls it.
        place = {"Content-Location": f"/runs/crons/{cron_id}/backfills/{backfill_id}"}
        return Response(begun, headers=place if backfill_id else None)

    @reads("/backfills", summary="Backfills of a cron")
    async def list_backfills(
        self, parts: Parts, cron_id: UUID, limit: Limit = 100, offset: Offset = 0
    ) -> Response[list[BackfillAnswer]]:
        """Newest first. It stays readable when the cron is deleted."""
        found, headers = await queries.of_cron(parts, cron_id, limit, offset)
        return await many(parts, found, headers)

    @reads("/backfills/{backfill_id:str}", summary="Get a backfill")
    async def get_backfill(self, parts: Parts, cron_id: UUID, backfill_id: UUID) -> BackfillAnswer:
        """How far it has come."""
        return await parts.read(lambda: queries.by_id(parts, cron_id, backfill_id))

    @posts("/backfills/{backfill_id:str}/cancel", summary="Cancel a backfill")
    async def cancel_backfill(
        self, parts: Parts, caller: By, cron_id: UUID, backfill_id: UUID
    ) -> BackfillAnswer:
        """No more of its runs begin; those that have begun go on. Harmless when it is over."""
        await commands.cancel(parts, caller, cron_id, backfill_id)
        return await parts.read(lambda: queries.by_id(parts, cron_id, backfill_id))
