"""Searches over the read models: filters as SQL, pages, and the headers that tell of them."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from domain.assistant import default_assistant_id
from domain.errors import InvalidField, ThreadNotFound
from services.gateway.parts import GatewayParts
from services.kit.ids import parse_uuid
from services.kit.views import Views

Row = dict[str, Any]


class Filter:
    """Conditions that are all to be met."""

    def __init__(self) -> None:
        self._clauses: list[str] = ["1"]
        self.params: list[Any] = []

    def add(self, clause: str, *params: Any) -> None:
        """One more condition."""
        self._clauses.append(clause)
        self.params += params

    def equal(self, column: str, value: Any) -> None:
        """The column has that value, unless none is asked for."""
        if value is not None:
            self.add(f'"{column}" = ?', value)

    def contains(self, column: str, value: Mapping[str, Any] | None) -> None:
        """The JSON of the column contains what is asked for."""
        if value:
            self.add(f'json_contains("{column}", ?)', msgspec.json.encode(value).decode())

    def uuid(self, column: str, field: str, text: str | None) -> None:
        """The column has that id. Raises InvalidField for what is none."""
        if text is not None:
            value = parse_uuid(text)
            if value is None:
                raise InvalidField(f"{field}: must be a UUID")
            self.add(f'"{column}" = ?', value.bytes)

    def assistant(self, text: str | None) -> None:
        """The assistant has that id, or is the default one of that graph."""
        if text is not None:
            value = parse_uuid(text) or default_assistant_id(text)
            self.add('"assistant_id" = ?', value.bytes)

    @property
    def sql(self) -> str:
        """The conditions."""
        return " AND ".join(self._clauses)


class Page(msgspec.Struct, frozen=True):
    """Which part of a search, in which order."""

    limit: int
    offset: int
    order: str  # SQL


def page(limit: int | None, offset: int | None, column: str, key: str, direction: str | None) -> Page:
    """A page in the order of a column, ties by key; newest or greatest first by default."""
    way = "ASC" if direction == "asc" else "DESC"
    return Page(10 if limit is None else limit, offset or 0, f'"{column}" {way}, "{key}" {way}')


def count(views: Views, table: str, wanted: Filter) -> int:
    """How many rows match."""
    row = views.one(f"SELECT count(*) AS n FROM {table} WHERE {wanted.sql}", wanted.params)
    assert row is not None
    return int(row["n"])


def search(views: Views, table: str, wanted: Filter, part: Page) -> tuple[list[Row], dict[str, str]]:
    """The rows of a page, and its pagination headers."""
    query = f"SELECT * FROM {table} WHERE {wanted.sql} ORDER BY {part.order} LIMIT ? OFFSET ?"
    rows = views.all(query, [*wanted.params, part.limit + 1, part.offset])
    more = len(rows) > part.limit
    rows = rows[: part.limit]
    total = count(views, table, wanted) if more else part.offset + len(rows)
    headers = {"X-Pagination-Total": str(total)}
    if more:
        headers["X-Pagination-Next"] = str(part.offset + part.limit)
    return rows, headers


def selected(objects: list[Row], names: Sequence[str] | None) -> list[Row]:
    """The objects with these keys only; all of them when none is named."""
    if not names:
        return objects
    return [{name: shown[name] for name in names} for shown in objects]


def by_id(views: Views, table: str, column: str, value: UUID) -> Row | None:
    """One row by its id."""
    return views.one(f"SELECT * FROM {table} WHERE {column} = ?", (value.bytes,))


def thread_row(parts: GatewayParts, thread_id: UUID) -> Row:
    """The row of a thread. Raises ThreadNotFound."""
    row = by_id(parts.views, "threads", "thread_id", thread_id)
    if row is None:
        raise ThreadNotFound("Thread not found")
    return row
