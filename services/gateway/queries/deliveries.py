"""Deliveries of webhooks that are looked for."""

from collections.abc import Iterator
from uuid import UUID

from contracts.answers.deliveries import DeliveryAnswer
from domain.errors import CronNotFound, DeliveryNotFound, RunNotFound
from domain.identity import delivery_id_of
from projections import deliveries as delivery_rows
from services.gateway.answers import deliveries as answers
from services.gateway.parts import GatewayParts
from services.gateway.queries import fold, search
from services.gateway.queries.filters import DELIVERIES, Filter


def by_id(parts: GatewayParts, delivery_id: UUID) -> DeliveryAnswer:
    """The delivery. Raises DeliveryNotFound."""
    row = fold.row(parts, delivery_rows, "deliveries", delivery_id)
    if row is None:
        raise DeliveryNotFound("Delivery not found")
    return answers.delivery(row)


def of_run(parts: GatewayParts, run_id: UUID) -> list[DeliveryAnswer]:
    """That of a run, which may be deleted; none when nobody is to be told, or it has not ended. Raises RunNotFound."""
    row = fold.row(parts, delivery_rows, "deliveries", delivery_id_of(run_id))
    if row is not None:
        return [answers.delivery(row)]
    if not parts.log.newest([run_id]):
        raise RunNotFound("Run not found")
    return []


async def of_cron(
    parts: GatewayParts, cron_id: UUID, state: str | None, limit: int, offset: int
) -> tuple[Iterator[DeliveryAnswer], dict[str, str]]:
    """Those of a cron, which may be deleted, and the pagination headers. Raises CronNotFound."""
    if not await parts.read(lambda: parts.log.newest([cron_id])):
        raise CronNotFound("Cron not found")
    return await _matching(parts, cron_id, state, limit, offset)


async def matching(
    parts: GatewayParts, state: str | None, limit: int, offset: int
) -> tuple[Iterator[DeliveryAnswer], dict[str, str]]:
    """All of them, newest first, and the pagination headers."""
    return await _matching(parts, None, state, limit, offset)


async def _matching(
    parts: GatewayParts, cron_id: UUID | None, state: str | None, limit: int, offset: int
) -> tuple[Iterator[DeliveryAnswer], dict[str, str]]:
    wanted = Filter(DELIVERIES)
    wanted.equal("cron_id", None if cron_id is None else cron_id.bytes)
    wanted.equal("state", state)
    part = search.page(limit, offset, "requested_at", "desc")
    keys, headers = await search.search(parts.views, wanted, part)
    return map(answers.delivery, search.rows_of(parts.views, search.row_query(DELIVERIES), keys)), headers
