"""Searches over the read models: what is wanted, and the few rows or the walk in order that find it."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec

from domain.errors import ThreadNotFound
from projections.facets import LARGE
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import END, SQL, Condition, Driver, Filter, Kind, has_facet
from services.kit.reads import read
from services.kit.views import Views

FEW = 500
"""Rows that are fetched and sorted at once; of a condition that more rows have, a walk soon fills a page."""
COUNTED = 10_000
"""Further rows that the total of a page counts; beyond, it is the least that there are."""
AHEAD = 50
"""Rows that are read at once of a database that is far: of the largest, 64 KiB each, a few MiB."""
Row = dict[str, Any]


class Page(msgspec.Struct, frozen=True):
    """Which part of a search, in which order: a column, ties by key, greatest first unless `asc`."""

    limit: int
    offset: int
    column: str
    direction: str


def page(limit: int | None, offset: int | None, column: str, direction: str | None) -> Page:
    """A page in the order of a column; newest or greatest first by default."""
    return Page(10 if limit is None else limit, offset or 0, column, "ASC" if direction == "asc" else "DESC")


async def search(views: Views, wanted: Filter, part: Page) -> tuple[list[Any], dict[str, str]]:
    """The keys of a page in their order, and its pagination headers."""
    keys, total = await find(views, wanted, part)
    more = len(keys) > part.limit
    if total is None:
        total = await read(views, lambda: _at_least(views, wanted, part)) if more else part.offset + len(keys)
    headers = {"X-Pagination-Total": str(total)}
    if more:
        headers["X-Pagination-Next"] = str(part.offset + part.limit)
    return keys[: part.limit], headers


async def find(views: Views, wanted: Filter, part: Page) -> tuple[list[Any], int | None]:
    """The keys of a page and one more if there is one; how many match, None when that was not looked for."""
    driver = await read(views, lambda: _rarest(views, wanted, FEW + part.offset + part.limit))
    query, params = gathering(wanted, part, driver) if driver else walking(wanted, part)
    rows = await _rows(views, query, params, apart=driver is None and not wanted.is_plain)
    keys = [row["id"] for row in rows]
    return (keys[part.offset :][: part.limit + 1], len(keys)) if driver else (keys, None)


async def keys_of(views: Views, wanted: Filter) -> list[Any]:
    """The key of every row that matches, in the order of the keys."""
    everything = Page((1 << 62) - 1, 0, wanted.kind.key, "ASC")
    driver = await read(views, lambda: _rarest(views, wanted, everything.limit))
    query, params = gathering(wanted, everything, driver) if driver else walking(wanted, everything)
    return [row["id"] for row in await _rows(views, query, params, apart=not wanted.is_plain)]


async def count(views: Views, wanted: Filter) -> int:
    """How many rows match: exactly, so it costs what it counts; of JSON that many have, a look at each row."""
    driver = await read(views, lambda: _rarest(views, wanted, FEW))
    if driver is None and wanted.facets and len(wanted.tests) == 1:
        return await read(views, lambda: _facets_counted(views, wanted))
    if driver is None and wanted.is_plain and len(wanted.drivers) == 1:
        driver = wanted.drivers[0]
    query, params = counting(wanted, driver)
    rows = await _rows(views, query, params, apart=not wanted.is_plain)
    return int(rows[0]["n"])


def gathering(wanted: Filter, part: Page, driver: Driver) -> tuple[str, list[Any]]:
    """The query for all rows that the driver finds and the other conditions leave."""
    kind = wanted.kind
    tests = [f"+{test.clause}" for test in (*wanted.tests, *wanted.bounds)]
    query = SQL["gather"].format(
        key=kind.key,
        table=kind.table,
        driver=driver.clause,
        tests=" AND ".join(tests) or "true",
        order=_order(kind, part, "+"),
    )
    return query, [*driver.params, *_params(wanted.tests), *_params(wanted.bounds)]


def walking(wanted: Filter, part: Page) -> tuple[str, list[Any]]:
    """The query for a page by a walk in its order, in an index that also has one of the conditions if there is."""
    kind = wanted.kind
    clauses, params = list[str](), list[Any]()
    for driver in wanted.drivers:
        if (driver.column, part.column) in kind.together:
            clauses.append(driver.clause)
            params += driver.params
            break
    for test in wanted.bounds:
        clauses.append(test.clause)
        params += test.params
    for test in wanted.tests:
        clauses.append(f"CASE WHEN {test.hint} THEN {test.clause} END" if test.hint else f"+{test.clause}")
        params += [*test.hint_params, *test.params]
    query = SQL["walk"].format(
        key=kind.key, table=kind.table, tests=" AND ".join(clauses) or "true", order=_order(kind, part, "")
    )
    return query, [*params, part.limit + 1, part.offset]


def counting(wanted: Filter, driver: Driver | None) -> tuple[str, list[Any]]:
    """The query for how many match, by way of the driver if there is one."""
    clauses = [driver.clause] if driver else []
    clauses += [f"+{test.clause}" for test in wanted.tests]
    if not clauses:
        return SQL["count_all"].format(table=wanted.kind.table), []
    query = SQL["count"].format(table=wanted.kind.table, tests=" AND ".join(clauses))
    return query, [*(driver.params if driver else ()), *_params(wanted.tests)]


def _order(kind: Kind, part: Page, plus: str) -> str:
    columns = [part.column] if part.column == kind.key else [part.column, kind.key]
    return ", ".join(f'{plus}"{column}" {part.direction}{_nulls(kind, column, part)}' for column in columns)


def _nulls(kind: Kind, column: str, part: Page) -> str:
    """Said where it matters: the databases differ, and the other order has no index."""
    if column not in kind.missing:
        return ""
    return " NULLS FIRST" if part.direction == "ASC" else " NULLS LAST"


def _rarest(views: Views, wanted: Filter, most: int) -> Driver | None:
    """The condition that the fewest rows have, None when each has more than `most`."""
    best: Driver | None = None
    for driver in wanted.drivers:
        if not driver.source:
            return driver
        query = SQL["few"].format(source=driver.source)
        row = views.one(query, (*driver.source_params, most + 1))
        if row is not None and row["n"] <= most:
            best, most = driver, row["n"]
    return best


def _at_least(views: Views, wanted: Filter, part: Page) -> int:
    """How many rows match when there are more than the page: exactly if that is cheap to know."""
    known = part.offset + part.limit + 1
    if not wanted.is_plain or len(wanted.drivers) > 1:
        return known
    tests, params = next(((driver.clause, driver.params) for driver in wanted.drivers), ("true", ()))
    query = SQL["up_to"].format(table=wanted.kind.table, tests=tests)
    row = views.one(query, (*params, known + COUNTED))
    return known if row is None else max(known, int(row["n"]))


def _facets_counted(views: Views, wanted: Filter) -> int:
    """How many have all of the facets, and of those with too many facets, how many match."""
    kind, [first, *others] = wanted.kind, wanted.facets
    tests = [has_facet(kind, f"substr({kind.facets}.facet, 17)")] * len(others)
    query = SQL["count_facets"].format(facets=kind.facets, tests=" AND ".join(tests) or "true")
    row = views.one(query, (first, first + END, *others))
    clause = SQL["of_facet"].format(key=kind.key, facets=kind.facets)
    large, params = counting(wanted, Driver(clause, (LARGE, LARGE + END) * 2))
    of_large = views.one(large, params)
    assert row is not None
    assert of_large is not None
    return int(row["n"]) + int(of_large["n"])


async def _rows(views: Views, query: str, params: list[Any], *, apart: bool) -> list[Row]:
    """The rows; `apart` = in a thread, because many rows may be looked at."""
    if apart:
        return await asyncio.to_thread(views.all, query, params)
    return await read(views, lambda: views.all(query, params))


def _params(tests: Iterable[Condition]) -> list[Any]:
    return [value for test in tests for value in test.params]


def rows_of(views: Views, query: str, keys: Sequence[Any]) -> Iterator[Row]:
    """The rows of these keys, in their order, as they are asked for; those that are gone meanwhile are left out.

    The query is for one row, and ends in its key. Of a database that is far some are read ahead: the way there
    costs more than a row.
    """
    if views.is_near:
        for key in keys:
            if (row := views.one(query, (key,))) is not None:
                yield row
        return
    rest, _, column = query.removesuffix(" = ?").rpartition(" ")
    for start in range(0, len(keys), AHEAD):
        some = keys[start : start + AHEAD]
        found = views.all(f"{rest} {column} IN ({','.join('?' * len(some))})", some)
        rows = {row[column]: row for row in found}
        yield from (rows[key] for key in some if key in rows)


def row_query(kind: Kind) -> str:
    """The query for a whole row by its key."""
    return SQL["row"].format(table=kind.table, key=kind.key)


def chosen(objects: Iterable[msgspec.Struct], names: Sequence[str] | None) -> Iterator[Any]:
    """The objects with these keys only; whole when none is named."""
    return ({name: getattr(shown, name) for name in names} if names else shown for shown in objects)


def by_id(views: Views, table: str, column: str, value: UUID) -> Row | None:
    """One row by its id."""
    return views.one(SQL["row"].format(table=table, key=column), (value.bytes,))


def thread_row(parts: GatewayParts, thread_id: UUID) -> Row:
    """The row of a thread. Raises ThreadNotFound."""
    row = by_id(parts.views, "threads", "thread_id", thread_id)
    if row is None:
        raise ThreadNotFound("Thread not found")
    return row
