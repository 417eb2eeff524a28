"""Webhooks: where they may go is looked at before anything is stored; a delivery can be asked for again."""

from uuid import UUID

from domain import delivery as deliveries
from domain.delivery import Redeliver
from domain.errors import NotSupported
from services.destinations import resolved
from services.gateway.commands.execution import act
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts


async def check(parts: GatewayParts, url: str | None) -> None:
    """Refuse a URL to which nothing may be sent, or that leads nowhere. Raises InvalidField, NotSupported."""
    if url is None:
        return
    if not parts.webhooks.enabled:
        raise NotSupported("webhook: this server sends none (http.disable_webhooks)")
    await resolved(url, parts.webhooks.url)


async def redeliver(parts: GatewayParts, caller: Caller, delivery_id: UUID) -> None:
    """Let it be sent once more, at once, whatever became of it. Raises DeliveryNotFound, NotSupported."""
    if not parts.webhooks.enabled:
        raise NotSupported("delivery: this server sends none (http.disable_webhooks)")

    await act(
        parts,
        caller,
        delivery_id,
        lambda log: log.delivery(delivery_id),
        lambda found: deliveries.decide(found, Redeliver(), parts.clock.now()),
    )
