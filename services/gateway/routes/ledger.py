"""The ledger over HTTP: every event can be seen."""

from datetime import UTC, datetime

from contracts.events import BODIES
from domain.errors import CronNotFound, InvalidField, RunNotFound
from services.gateway.answers import shapes
from services.gateway.http import Answer, Call, Route, as_list
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import AUDIT, Filter
from services.gateway.queries.search import find, page

EVER = 1 << 62  # microseconds
LAST = "\U0010ffff"  # sorts behind whatever goes on from a prefix
PAGES = {
    "limit": "1 to 1000, 100 by default",
    "cursor": "go on after this position",
    "order": "asc (default) or desc",
    "values": "true: put large values in",
}
FILTERS = {
    "stream": "id of a stream",
    "thread": "id of a thread",
    "cron": "id of a cron",
    "run": "id of a run",
    "type": "a topic, or the beginning of one",
    "actor": "who did it",
    "since": "from this instant on",
    "until": "before this instant",
}


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag = "ledger"
    return [
        Route(method="GET", path="/ledger", summary="What happened", handle=everything, tag=tag, query={**FILTERS, **PAGES}),
        Route(method="GET", path="/runs/crons/{cron_id}/ledger", summary="What happened to a cron and its runs", handle=of_cron, tag=tag, query=PAGES),
        Route(method="GET", path="/threads/{thread_id}/runs/{run_id}/ledger", summary="What happened to a run", handle=of_run, tag=tag, query=PAGES),
    ]  # fmt: skip


async def everything(parts: GatewayParts, call: Call) -> Answer:
    """GET /ledger."""
    wanted = Filter(AUDIT)
    for name in ("stream", "thread", "cron", "run"):
        wanted.uuid(f"{name}_id", name, call.text(name))
    if (topic := call.text("type")) is not None:
        if topic in BODIES:
            wanted.equal("topic", topic)
        else:
            wanted.between("topic", topic, topic + LAST)
    wanted.equal("actor", call.text("actor"))
    since, until = (_micros(name, call.text(name)) for name in ("since", "until"))
    if since is not None or until is not None:
        wanted.between("at", -EVER if since is None else since, EVER if until is None else until)
    return await _answer(parts, call, wanted)


async def of_cron(parts: GatewayParts, call: Call) -> Answer:
    """GET /runs/crons/{cron_id}/ledger. It stays readable when the cron is deleted."""
    cron_id = call.uuid("cron_id")
    if not parts.log.newest([cron_id]):
        raise CronNotFound("Cron not found")
    wanted = Filter(AUDIT)
    wanted.equal("cron_id", cron_id.bytes)
    return await _answer(parts, call, wanted)


async def of_run(parts: GatewayParts, call: Call) -> Answer:
    """GET /threads/{thread_id}/runs/{run_id}/ledger. It stays readable when the run is deleted."""
    thread_id, run_id = call.uuid("thread_id"), call.uuid("run_id")
    events = parts.log.stream(run_id)
    if not events or getattr(events[0].body, "thread_id", None) != thread_id:
        raise RunNotFound("Run not found")
    wanted = Filter(AUDIT)
    wanted.equal("stream_id", run_id.bytes)
    return await _answer(parts, call, wanted)


async def _answer(parts: GatewayParts, call: Call, wanted: Filter) -> Answer:
    limit = call.number("limit", 100, 1, 1000)
    order = call.text("order") or "asc"
    if order not in ("asc", "desc"):
        raise InvalidField("order: must be asc or desc")
    if (cursor := call.text("cursor")) is not None:
        if parse_position(cursor) is None:
            raise InvalidField("cursor: must be the position of an entry")
        wanted.beyond(">" if order == "asc" else "<", int(cursor))
    found, _ = await find(parts.views, wanted, page(limit, 0, "position", order))
    positions = found[:limit]
    recorded = parts.log.at_positions(positions)
    if order == "desc":
        recorded.reverse()
    full = (call.text("values") or "").lower() in ("1", "true", "yes")
    headers = {"X-Pagination-Next": str(positions[-1])} if len(found) > limit else {}
    return await as_list(
        parts, (shapes.entry(r, parts.log.blob if full else None) for r in recorded), headers
    )


def parse_position(text: str) -> int | None:
    """A position, None for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _micros(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise InvalidField(f"{name}: must be an instant such as 2026-03-01T00:00:00+00:00") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    try:
        return int(moment.timestamp() * 1_000_000)
    except (OverflowError, ValueError):
        raise InvalidField(f"{name}: is out of range") from None
