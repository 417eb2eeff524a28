"""Backfills that are looked for."""

from collections.abc import Iterator
from uuid import UUID

from contracts.answers.backfills import BackfillAnswer
from domain.errors import BackfillNotFound, CronNotFound
from projections import backfills as backfill_rows
from services.gateway.answers import backfills as answers
from services.gateway.parts import GatewayParts
from services.gateway.queries import fold, search
from services.gateway.queries.filters import BACKFILLS, Filter


def by_id(parts: GatewayParts, cron_id: UUID, backfill_id: UUID) -> BackfillAnswer:
    """The backfill of that cron. Raises BackfillNotFound."""
    row = fold.row(parts, backfill_rows, "backfills", backfill_id)
    if row is None or row["cron_id"] != cron_id.bytes:
        raise BackfillNotFound("Backfill not found")
    return answers.backfill(row)


async def of_cron(
    parts: GatewayParts, cron_id: UUID, limit: int, offset: int
) -> tuple[Iterator[BackfillAnswer], dict[str, str]]:
    """Those of a cron, which may be deleted, newest first, and the pagination headers. Raises CronNotFound."""
    if not await parts.read(lambda: parts.log.newest([cron_id])):
        raise CronNotFound("Cron not found")
    wanted = Filter(BACKFILLS)
    wanted.equal("cron_id", cron_id.bytes)
    keys, headers = await search.search(
        parts.views, wanted, search.page(limit, offset, "requested_at", "desc")
    )
    return map(answers.backfill, search.rows_of(parts.views, search.row_query(BACKFILLS), keys)), headers
