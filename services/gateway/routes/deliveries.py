"""Deliveries of webhooks: read, and asked for again."""

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response
from litestar.params import Parameter

from contracts.answers.deliveries import DeliveryAnswer, DeliveryStateShown
from services.gateway.commands import webhooks as commands
from services.gateway.handlers import By, Limit, Offset, Parts, many, posts, reads
from services.gateway.queries import deliveries as queries

State = Annotated[DeliveryStateShown | None, Parameter(query="state", description="only those in this state")]


class DeliveryController(Controller):
    """Who is told of the ends of runs."""

    path = "/"
    tags = ["webhooks"]

    @reads("/runs/{run_id:str}/deliveries", summary="Who is told of a run's end")
    async def list_run_deliveries(self, parts: Parts, run_id: UUID) -> list[DeliveryAnswer]:
        """Empty as long as it has not ended. It stays readable when the run is deleted."""
        return await parts.read(lambda: queries.of_run(parts, run_id))

    @reads("/runs/crons/{cron_id:str}/deliveries", summary="Who is told of the runs of a cron")
    async def list_cron_deliveries(
        self, parts: Parts, cron_id: UUID, which: State = None, limit: Limit = 100, offset: Offset = 0
    ) -> Response[list[DeliveryAnswer]]:
        """Newest first. It stays readable when the cron is deleted."""
        found, headers = await queries.of_cron(parts, cron_id, which, limit, offset)
        return await many(parts, found, headers)

    @reads("/deliveries", summary="Deliveries of webhooks")
    async def list_deliveries(
        self, parts: Parts, which: State = None, limit: Limit = 100, offset: Offset = 0
    ) -> Response[list[DeliveryAnswer]]:
        """Of all runs, newest first: what is `abandoned` is for whoever operates the server."""
        found, headers = await queries.matching(parts, which, limit, offset)
        return await many(parts, found, headers)

    @reads("/deliveries/{delivery_id:str}", summary="Get a delivery")
    async def get_delivery(self, parts: Parts, delivery_id: UUID) -> DeliveryAnswer:
        """Each of its attempts is in the ledger: `GET /ledger?stream=` its id."""
        return await parts.read(lambda: queries.by_id(parts, delivery_id))

    @posts("/deliveries/{delivery_id:str}/redeliver", summary="Send a webhook once more")
    async def redeliver(self, parts: Parts, caller: By, delivery_id: UUID) -> DeliveryAnswer:
        """At once, with the same id, whatever became of it; it has another day of attempts."""
        await commands.redeliver(parts, caller, delivery_id)
        return await parts.read(lambda: queries.by_id(parts, delivery_id))
