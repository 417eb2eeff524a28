"""The ledger over HTTP: every event can be seen."""

from typing import Annotated, Literal
from uuid import UUID

from litestar import Controller, Response
from litestar.params import Parameter

from contracts.answers.ledger import EntryAnswer
from services.gateway.handlers import Limit, Parts, many, reads
from services.gateway.parts import GatewayParts
from services.gateway.queries import ledger as queries
from services.gateway.queries.filters import Filter
from services.gateway.queries.ledger import LedgerFilter, LedgerPage

Cursor = Annotated[str | None, Parameter(description="go on behind this position")]
Order = Annotated[Literal["asc", "desc"], Parameter(description="oldest first, or newest first")]
Full = Annotated[bool, Parameter(description="whether large values are put in")]
Stream = Annotated[str | None, Parameter(description="id of a stream")]
Thread = Annotated[str | None, Parameter(description="id of a thread")]
Cron = Annotated[str | None, Parameter(description="id of a cron")]
Run = Annotated[str | None, Parameter(description="id of a run")]
Type = Annotated[str | None, Parameter(query="type", description="a topic, or the beginning of one")]
Actor = Annotated[str | None, Parameter(description="who did it")]
Since = Annotated[str | None, Parameter(description="from this instant on (ISO 8601)")]
Until = Annotated[str | None, Parameter(description="before this instant (ISO 8601)")]


class LedgerController(Controller):
    """What happened."""

    path = "/"
    tags = ["ledger"]

    @reads("/ledger", summary="What happened")
    async def list_entries(
        self,
        parts: Parts,
        stream: Stream = None,
        thread: Thread = None,
        cron: Cron = None,
        run: Run = None,
        topic: Type = None,
        actor: Actor = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
        cursor: Cursor = None,
        order: Order = "asc",
        values: Full = False,
    ) -> Response[list[EntryAnswer]]:
        """Events that meet every condition that is given."""
        wanted = LedgerFilter(
            stream=stream,
            thread=thread,
            cron=cron,
            run=run,
            type=topic,
            actor=actor,
            since=since,
            until=until,
        )
        page = LedgerPage(limit=limit, cursor=cursor, order=order, values=values)
        return await _told(parts, queries.filter_of(wanted), page)

    @reads("/runs/crons/{cron_id:str}/ledger", summary="What happened to a cron")
    async def list_cron_entries(
        self,
        parts: Parts,
        cron_id: UUID,
        limit: Limit = 100,
        cursor: Cursor = None,
        order: Order = "asc",
        values: Full = False,
    ) -> Response[list[EntryAnswer]]:
        """And to its runs. It stays readable when the cron is deleted."""
        page = LedgerPage(limit=limit, cursor=cursor, order=order, values=values)
        return await _told(parts, await queries.of_cron(parts, cron_id), page)

    @reads("/threads/{thread_id:str}/runs/{run_id:str}/ledger", summary="What happened to a run")
    async def list_run_entries(
        self,
        parts: Parts,
        thread_id: UUID,
        run_id: UUID,
        limit: Limit = 100,
        cursor: Cursor = None,
        order: Order = "asc",
        values: Full = False,
    ) -> Response[list[EntryAnswer]]:
        """It stays readable when the run is deleted."""
        page = LedgerPage(limit=limit, cursor=cursor, order=order, values=values)
        return await _told(parts, await queries.of_run(parts, thread_id, run_id), page)


async def _told(parts: GatewayParts, wanted: Filter, page: LedgerPage) -> Response[list[EntryAnswer]]:
    found, headers = await queries.entries(parts, wanted, page)
    return await many(parts, found, headers)
