"""Crons that are looked for, and what they did and will do."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec

from contracts.answers.crons import (
    Coming,
    CronTold,
    CronWithLedger,
    CronWithRun,
    OccurrenceAnswer,
    SchedulePreview,
)
from contracts.api import CronCount, CronPreview, CronSearch
from contracts.events import Rule
from domain import cron as crons
from domain.description import description
from domain.errors import CronNotFound, InvalidField
from domain.identity import run_id_of
from domain.schedule import (
    count_between,
    dst_kind,
    is_known,
    local_time,
    next_after,
    parse,
    tzdata_version,
    zone,
)
from domain.timeline import fires_at
from projections import crons as cron_rows
from projections.rows import micros
from services.gateway.answers import crons as answers
from services.gateway.answers.values import Row, instant
from services.gateway.parts import GatewayParts
from services.gateway.queries import fold, runs, search
from services.gateway.queries.filters import CRONS, SQL, Filter, instant_of

MOST_AHEAD = 2000
LONGEST = timedelta(days=366)
HORIZON_S = 41 * 366 * 86_400
"""A zone's clock changes are reckoned year by year up to what is asked for: beyond 41 years it would take seconds,
and within these each schedule has an occurrence.
"""
MOST_COUNTED = 100_000
"""Up to here the runs that a cron may still have are counted, at 1.5 us each, to tell where they end."""
EVER = (1 << 62, 1 << 62)
"""Before it is every occurrence: seconds, and a position."""
CURSOR = re.compile(r"(\d{1,18})\.(\d{1,18})", re.ASCII)
RECENT, NEXT = 10, 5
COLUMNS = {"next_run_date": "next_at", "end_time": "end_at"}


class OccurrencePage(msgspec.Struct, frozen=True):
    """Occurrences in [begin, end), seconds; the first `limit` behind a place, or behind the first `offset`."""

    begin: int
    end: int
    limit: int
    offset: int | None = None
    behind: tuple[int, int] | None = None  # scheduled_for and position


def by_id(parts: GatewayParts, cron_id: UUID) -> CronWithLedger:
    """The cron. Raises CronNotFound."""
    row = _row(parts, cron_id)
    return answers.with_ledger(row, parts.log.blob, parts.clock.wall_s(), _blocked(parts, row))


def told(parts: GatewayParts, cron_id: UUID) -> CronTold:
    """The cron with what became of it last and what is next. Raises CronNotFound."""
    row = _row(parts, cron_id)
    small = answers.with_ledger(row, parts.log.blob, parts.clock.wall_s(), _blocked(parts, row))
    recorded = _recorded(parts, cron_id, None, OccurrencePage(-EVER[0], EVER[0], RECENT))
    recent = [answers.occurrence(one) for one in recorded[:RECENT]]
    now = int(parts.clock.wall_s())
    coming = list(islice(_coming(row, _resumed(row, now), _horizon(parts)), NEXT)) if _fires(row) else []
    return answers.told(small, recent, coming)


def just_made(parts: GatewayParts, cron_id: UUID, run_id: UUID | None) -> CronWithRun | CronWithLedger:
    """A new cron, with its first run if it has one; the read models may not have come to it.

    Raises CronNotFound when somebody deleted it at once.
    """
    row = fold.row(parts, cron_rows, "crons", cron_id)
    if row is None:
        raise CronNotFound("Cron was deleted at once")
    run = None if run_id is None else runs.first_shown(parts, run_id)
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
    wall_s, why = parts.clock.wall_s(), dict[tuple[Any, ...], str]()  # many crons have the same

    def shown(row: Row) -> CronWithLedger:
        its = row["assistant_id"], row["timezone"]
        if its not in why:
            why[its] = _blocked(parts, row)
        return answers.with_ledger(row, parts.log.blob, wall_s, why[its])

    if wanted.select and "ledger" not in wanted.select:
        return search.chosen((answers.cron(row, parts.log.blob) for row in rows), wanted.select), headers
    return search.chosen(map(shown, rows), wanted.select), headers


def filter_of(wanted: CronCount) -> Filter:
    """What is to be met. Raises InvalidField."""
    found = Filter(CRONS)
    found.assistant(wanted.assistant_id)
    found.uuid("thread_id", "thread_id", wanted.thread_id)
    found.metadata(wanted.metadata)
    return found


def upcoming(
    parts: GatewayParts, cron_id: UUID, limit: int, after: datetime | None, *, ignore_state: bool
) -> list[Coming]:
    """The next occurrences, strictly after an instant; none of a cron that does not fire. Raises CronNotFound."""
    row = _row(parts, cron_id)
    begin = int(parts.clock.wall_s() if after is None else after.timestamp())
    if not _fires(row) and not ignore_state:
        return []
    return list(islice(_coming(row, begin if ignore_state else _resumed(row, begin), _horizon(parts)), limit))


def preview(parts: GatewayParts, wanted: CronPreview) -> SchedulePreview:
    """What a schedule means. Raises InvalidSchedule, InvalidTimezone, InvalidField."""
    now, seconds = parts.clock.now(), parts.settings.seconds == "first"
    crons.check(wanted.schedule, wanted.timezone, wanted.end_time, now, seconds=seconds)
    schedule = parse(wanted.schedule, seconds=seconds)
    end_at = None if wanted.end_time is None else micros(crons.aware(wanted.end_time))
    row = {
        "cron_id": None,
        "schedule": wanted.schedule,
        "timezone": wanted.timezone,
        "start_at": None,
        "end_at": end_at,
        "max_runs": None,
    }
    begin = now if wanted.after is None else crons.aware(wanted.after, "after")
    return SchedulePreview(
        canonical=schedule.canonical,
        description=description(schedule, wanted.timezone),
        upcoming=list(islice(_coming(row, int(begin.timestamp()), _horizon(parts)), wanted.limit or 10)),
        warnings=answers.warnings(row, parts.clock.wall_s()),
    )


def _fires(row: Row) -> bool:
    """Whether something of it will fire, as it is."""
    return bool(row["enabled"]) or row["paused_until"] is not None


def _resumed(row: Row, after: int) -> int:
    """The same instant, or the last one of the pause that the cron is in."""
    return after if row["paused_until"] is None else max(after, -(-row["paused_until"] // 1_000_000) - 1)


def _horizon(parts: GatewayParts) -> int:
    """Where what is to come is told no further, seconds."""
    return int(parts.clock.wall_s()) + HORIZON_S


def _coming(row: Row, after: int, end: int) -> Iterator[Coming]:
    """The occurrences of the schedule of that row in (after, end), as many as it may have."""
    if not is_known(row["timezone"]):
        return iter(())
    left = None if row["max_runs"] is None else max(0, row["max_runs"] - row["counted"])
    if left is None or left > MOST_COUNTED:
        return _planned(row, after, end)
    begin = after if row["next_at"] is None else min(after, row["next_at"] // 1_000_000 - 1)
    before, _ = count_between(parse(row["schedule"], seconds=True), zone(row["timezone"]), begin, after, left)
    return islice(_planned(row, after, end), left - before)


def _planned(row: Row, after: int, end: int) -> Iterator[Coming]:
    schedule, place = parse(row["schedule"], seconds=True), zone(row["timezone"])
    cron_id = None if row["cron_id"] is None else UUID(bytes=row["cron_id"])
    if row["start_at"] is not None:
        after = max(after, -(-row["start_at"] // 1_000_000) - 1)
    at = next_after(schedule, place, after) if after < end else None
    while at is not None and at < end:
        if row["end_at"] is not None and at * 1_000_000 > row["end_at"]:
            return
        due = fires = instant(at * 1_000_000)
        run_id = None if cron_id is None else run_id_of(cron_id, at)
        if cron_id is not None and row["jitter_s"]:
            rule = Rule(canonical=row["canonical"], timezone=row["timezone"], jitter_s=row["jitter_s"])
            fires = instant(round(fires_at(rule, cron_id.bytes, at) * 1_000_000))
        yield Coming(due, local_time(place, at).isoformat(), fires, run_id, dst_kind(schedule, place, at))
        at = next_after(schedule, place, at)


def span_of(begin: str, until: str) -> tuple[datetime, datetime]:
    """The span of a calendar. Raises InvalidField."""
    first, end = instant_of("from", begin), instant_of("until", until)
    assert first is not None
    assert end is not None
    if not timedelta() < end - first <= LONGEST:
        raise InvalidField(f"until: must be after `from`, by {LONGEST.days} days at most")
    return first, end


def calendar(
    parts: GatewayParts, begin: datetime, end: datetime, cron_id: UUID | None, limit: int
) -> list[OccurrenceAnswer]:
    """What was and what will be in [begin, end), of all crons or of one, oldest first. Raises CronNotFound."""
    span = int(begin.timestamp()), int(end.timestamp())
    name, which = ("recorded", ()) if cron_id is None else ("recorded_of_cron", (cron_id.bytes,))
    past = [answers.occurrence(row) for row in parts.views.all(SQL[name], (*which, *span, limit))]
    if cron_id is not None and not past:
        _row(parts, cron_id)
    if len(past) == limit:
        return past
    return past + _pending(parts, span, cron_id, limit - len(past))


def _pending(
    parts: GatewayParts, span: tuple[int, int], cron_id: UUID | None, limit: int
) -> list[OccurrenceAnswer]:
    """The first so many that are to come in the span. Raises InvalidField."""
    begin, end = span
    name, which = ("due_until", ()) if cron_id is None else ("due_of_cron", (cron_id.bytes,))
    # From now on they are of no more crons than that, those that are due first; of a later span each cron may be.
    most = limit if begin <= parts.clock.wall_s() else MOST_AHEAD + 1
    rows = parts.views.all(SQL[name], (*which, end * 1_000_000, most))
    if len(rows) > MOST_AHEAD:
        raise InvalidField(
            f"from: over {MOST_AHEAD} crons may be due then; begin now, or name one by `cron_id`"
        )
    # What is due this moment may not be recorded yet, and what is recorded is past the cursor of the row.
    end = min(end, _horizon(parts))
    each = (_pending_of(row, max(begin - 1, row["next_at"] // 1_000_000 - 1), end) for row in rows)
    return list(islice(merge(*each, key=lambda told: told.scheduled_for), limit))


def _pending_of(row: Row, after: int, end: int) -> Iterator[OccurrenceAnswer]:
    for coming in _coming(row, after, end):
        yield answers.pending(row, coming)


def occurrence_page(
    begin: str | None, end: str | None, limit: int, offset: int | None, cursor: str | None
) -> OccurrencePage:
    """The part of the occurrences of a cron that a query names. Raises InvalidField."""
    if offset is not None and cursor is not None:
        raise InvalidField("cursor: may not be given together with offset")
    first, last = (ceil_s(instant_of(name, text)) for name, text in (("from", begin), ("to", end)))
    if first is not None and last is not None and first >= last:
        raise InvalidField("to: must be after `from`")
    return OccurrencePage(
        EVER[0] * -1 if first is None else first,
        EVER[0] if last is None else last,
        limit,
        offset,
        None if cursor is None else _place_of(cursor),
    )


def ceil_s(moment: datetime | None) -> int | None:
    """The first whole second that is not before it: occurrences are at whole ones."""
    return None if moment is None else -(-micros(moment) // 1_000_000)


def occurrences(
    parts: GatewayParts, cron_id: UUID, status: str | None, part: OccurrencePage
) -> tuple[list[OccurrenceAnswer], dict[str, str]]:
    """What became of each, newest first, or what is `pending`, soonest first; and where the next page begins.

    Of a deleted cron too. A long stretch stands where it begins.
    """
    if status == "pending":
        if part.offset is not None:  # each that is passed over would be computed
            raise InvalidField("offset: not of those that are pending; go on by the cursor")
        found = _to_come(parts, cron_id, part)
        places = [int(datetime.fromisoformat(told.scheduled_for).timestamp()) for told in found]
        return found[: part.limit], _next(part, [(at, 0) for at in places])
    rows = _recorded(parts, cron_id, status, part)
    headers = _next(part, [(row["scheduled_for"], row["position"]) for row in rows])
    return [answers.occurrence(row) for row in rows[: part.limit]], headers


def _recorded(parts: GatewayParts, cron_id: UUID, status: str | None, part: OccurrencePage) -> list[Row]:
    """The rows of the page, and one more if there is one."""
    name, which = ("occurrences_of_cron", ()) if status is None else ("occurrences_by_status", (status,))
    behind = min(part.behind or EVER, (part.end, 0))
    params = (cron_id.bytes, *which, part.begin, *behind, part.limit + 1, part.offset or 0)
    return parts.views.all(SQL[name], params)


def _to_come(parts: GatewayParts, cron_id: UUID, part: OccurrencePage) -> list[OccurrenceAnswer]:
    """The same of those that are to come: none of a cron that does not fire, or is deleted."""
    row = search.by_id(parts.views, "crons", "cron_id", cron_id)
    if row is None or not _fires(row) or row["next_at"] is None:
        return []
    after = max(part.begin - 1, row["next_at"] // 1_000_000 - 1)
    if part.behind is not None:
        after = max(after, part.behind[0])
    end = min(part.end, _horizon(parts))
    return list(islice(_pending_of(row, after, end), part.limit + 1))


def _next(part: OccurrencePage, places: list[tuple[int, int]]) -> dict[str, str]:
    """Whoever counts goes on by an offset, everybody else behind a place."""
    if len(places) <= part.limit:
        return {}
    at, position = places[part.limit - 1]
    following = f"{at}.{position}" if part.offset is None else str(part.offset + part.limit)
    return {"X-Pagination-Next": following}


def _place_of(cursor: str) -> tuple[int, int]:
    found = CURSOR.fullmatch(cursor)
    if found is None:
        raise InvalidField("cursor: must be the X-Pagination-Next of a page before")
    return int(found[1]), int(found[2])


def _blocked(parts: GatewayParts, row: Row) -> str:
    """Why nothing of the cron fires: its zone is known no longer, or the project has not the graph of its assistant."""
    if not is_known(row["timezone"]):
        return f"tzdata {tzdata_version()} has no zone '{row['timezone']}'"
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
