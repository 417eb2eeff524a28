"""Crons that are looked for, and what they did and will do."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from contracts.answers.crons import Coming, CronWithLedger, CronWithRun, OccurrenceAnswer
from contracts.api import CronCount, CronSearch
from domain.errors import CronNotFound
from domain.schedule import dst_kind, local_time, next_after, parse, zone
from projections import crons as cron_rows
from services.gateway.answers import crons as answers
from services.gateway.answers.values import Row, instant
from services.gateway.parts import GatewayParts
from services.gateway.queries import fold, runs, search
from services.gateway.queries.filters import CRONS, OCCURRENCES, SQL, Filter

COLUMNS = {"next_run_date": "next_at", "end_time": "end_at"}


def by_id(parts: GatewayParts, cron_id: UUID) -> CronWithLedger:
    """The cron. Raises CronNotFound."""
    row = _row(parts, cron_id)
    return answers.with_ledger(row, parts.log.blob, parts.clock.wall_s(), _blocked(parts, row))


def just_made(parts: GatewayParts, cron_id: UUID, run_id: UUID) -> CronWithRun | CronWithLedger:
    """A new cron, with its first run if it has one; the read models may not have come to it.

    Raises CronNotFound when somebody deleted it at once.
    """
    row = fold.row(parts, cron_rows, "crons", cron_id)
    if row is None:
        raise CronNotFound("Cron was deleted at once")
    run = runs.first_shown(parts, run_id)
    if run is None:
        return answers.with_ledger(row, parts.log.blob, parts.clock.wall_s())
    return answers.with_run(row, run, parts.log.blob, parts.clock.wall_s())


async def matching(parts: GatewayParts, wanted: CronSearch) -> tuple[Iterator[Any], dict[str, str]]:
    """The crons of a page in their order, and its pagination headers. Raises InvalidField."""
    found = filter_of(wanted)
    if wanted.enabled is not None:
        found.equal("enabled", int(wanted.enabled))
    column = wanted.sort_by or "created_at"
    part = search.page(wanted.limit, wanted.offset, COLUMNS.get(column, column), wanted.sort_order)
    keys, headers = await search.search(parts.views, found, part)
    is_whole = not wanted.select or "payload" in wanted.select
    query = search.row_query(CRONS) if is_whole else SQL["cron_without_payload"]
    rows = search.rows_of(parts.views, query, keys)
    return search.chosen((answers.cron(row, parts.log.blob) for row in rows), wanted.select), headers


def filter_of(wanted: CronCount) -> Filter:
    """What is to be met. Raises InvalidField."""
    found = Filter(CRONS)
    found.assistant(wanted.assistant_id)
    found.uuid("thread_id", "thread_id", wanted.thread_id)
    found.metadata(wanted.metadata)
    return found


def upcoming(parts: GatewayParts, cron_id: UUID, limit: int) -> list[Coming]:
    """The next occurrences; none of a cron that is paused or has ended. Raises CronNotFound."""
    row = _row(parts, cron_id)
    schedule, place = parse(row["schedule"], seconds=True), zone(row["timezone"])
    found: list[Coming] = []
    at: int | None = int(parts.clock.wall_s())
    while row["enabled"] and len(found) < limit:
        assert at is not None
        at = next_after(schedule, place, at)
        if at is None or (row["end_at"] is not None and at * 1_000_000 > row["end_at"]):
            break
        local, dst = local_time(place, at).isoformat(), dst_kind(schedule, place, at)
        found.append(Coming(instant(at * 1_000_000), local, dst))
    return found


async def occurrences(
    parts: GatewayParts, cron_id: UUID, status: str | None, limit: int, offset: int
) -> tuple[Iterator[OccurrenceAnswer], dict[str, str]]:
    """What became of each, newest first, and the pagination headers; of a deleted cron too."""
    wanted = Filter(OCCURRENCES)
    wanted.equal("cron_id", cron_id.bytes)
    if status is not None:
        wanted.narrowed("status", status)
    part = search.page(limit, offset, "scheduled_for", "desc")
    keys, headers = await search.search(parts.views, wanted, part)
    rows = search.rows_of(parts.views, search.row_query(OCCURRENCES), keys)
    return map(answers.occurrence, rows), headers


def _blocked(parts: GatewayParts, row: Row) -> str:
    """Why nothing of the cron fires: the project has no longer the graph of its assistant."""
    assistant_id = UUID(bytes=row["assistant_id"])
    assistant = search.by_id(parts.views, "assistants", "assistant_id", assistant_id)
    if assistant is None or assistant["graph_id"] in parts.graphs:
        return ""
    return f"the project has no graph '{assistant['graph_id'][:100]}'"


def _row(parts: GatewayParts, cron_id: UUID) -> Row:
    row = search.by_id(parts.views, "crons", "cron_id", cron_id)
    if row is None:
        raise CronNotFound("Cron not found")
    return row
