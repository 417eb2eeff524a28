"""Events that are looked for in the ledger."""

from collections.abc import Iterator
from uuid import UUID

import msgspec

from contracts.answers.ledger import EntryAnswer
from contracts.events import BODIES
from domain.errors import CronNotFound, InvalidField, RunNotFound
from projections.rows import micros
from services.gateway.answers import ledger as answers
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import AUDIT, Filter, instant_of
from services.gateway.queries.search import find, page

EVER = 1 << 62  # microseconds
LAST = "\U0010ffff"  # sorts behind whatever goes on from a prefix


class LedgerFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events; every one that is given must be met."""

    stream: str | None = None
    thread: str | None = None
    cron: str | None = None
    run: str | None = None
    type: str | None = None  # a topic, or the beginning of one
    actor: str | None = None
    since: str | None = None
    until: str | None = None


class LedgerPage(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of them."""

    limit: int
    cursor: str | None
    order: str
    values: bool  # large values are put in


def filter_of(wanted: LedgerFilter) -> Filter:
    """What is to be met. Raises InvalidField."""
    found = Filter(AUDIT)
    for name in ("stream", "thread", "cron", "run"):
        found.uuid(f"{name}_id", name, getattr(wanted, name))
    if wanted.type in BODIES:
        found.equal("topic", wanted.type)
    elif wanted.type is not None:
        found.between("topic", wanted.type, wanted.type + LAST)
    found.equal("actor", wanted.actor)
    since, until = _micros("since", wanted.since), _micros("until", wanted.until)
    if since is not None or until is not None:
        found.between("at", -EVER if since is None else since, EVER if until is None else until)
    return found


async def of_cron(parts: GatewayParts, cron_id: UUID) -> Filter:
    """What happened to a cron and its runs; it stays readable when the cron is deleted. Raises CronNotFound."""
    if not await parts.read(lambda: parts.log.newest([cron_id])):
        raise CronNotFound("Cron not found")
    found = Filter(AUDIT)
    found.equal("cron_id", cron_id.bytes)
    return found


async def of_run(parts: GatewayParts, thread_id: UUID, run_id: UUID) -> Filter:
    """What happened to a run of that thread; it stays readable when the run is deleted. Raises RunNotFound."""
    events = await parts.read(lambda: parts.log.stream(run_id))
    if not events or getattr(events[0].body, "thread_id", None) != thread_id:
        raise RunNotFound("Run not found")
    found = Filter(AUDIT)
    found.equal("stream_id", run_id.bytes)
    return found


async def entries(
    parts: GatewayParts, wanted: Filter, part: LedgerPage
) -> tuple[Iterator[EntryAnswer], dict[str, str]]:
    """The events of a page, and where the next one begins. Raises InvalidField."""
    if part.cursor is not None:
        if not (part.cursor.isascii() and part.cursor.isdigit() and len(part.cursor) < 19):
            raise InvalidField("cursor: must be the position of an entry")
        wanted.beyond(">" if part.order == "asc" else "<", int(part.cursor))
    found, _ = await find(parts.views, wanted, page(part.limit, 0, "position", part.order))
    positions = found[: part.limit]
    recorded = await parts.read(lambda: parts.log.at_positions(positions))
    if part.order == "desc":
        recorded.reverse()
    headers = {"X-Pagination-Next": str(positions[-1])} if len(found) > part.limit else {}
    blob_of = parts.log.blob if part.values else None
    return (answers.entry(one, blob_of) for one in recorded), headers


def _micros(name: str, text: str | None) -> int | None:
    moment = instant_of(name, text)
    return None if moment is None else micros(moment)
