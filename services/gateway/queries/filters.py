"""What a search wants: conditions as they are tested on a row, and as an index finds the rows that meet them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from domain.assistant import default_assistant_id
from domain.cron import aware
from domain.errors import InvalidField
from projections.facets import LARGE, needed
from services.kit.ids import parse_uuid
from services.kit.queries import named

SQL = named(Path(__file__).with_name("queries.sql"))
DEEPEST = 100
END = b"\xff" * 17  # behind every owner's id


class Kind(msgspec.Struct, frozen=True):
    """A read model that is searched: its table, its key, and where its facets are."""

    table: str
    key: str
    facets: str = ""
    indexed: frozenset[str] = frozenset()  # columns of which an index finds the rows with a value
    together: frozenset[tuple[str, str]] = frozenset()  # (column, order): its index has them in that order
    missing: frozenset[str] = (
        frozenset()
    )  # columns that a row may lack: those rows come last, or first when ASC


def _pairs(column: str, *orders: str) -> frozenset[tuple[str, str]]:
    return frozenset((column, order) for order in orders)


THREADS = Kind(
    "threads",
    "thread_id",
    "thread_facets",
    frozenset({"status"}),
    _pairs("status", "thread_id", "status", "created_at", "updated_at", "state_updated_at"),
    frozenset({"state_updated_at"}),
)
CRONS = Kind(
    "crons",
    "cron_id",
    "cron_facets",
    frozenset({"assistant_id", "thread_id", "enabled"}),
    _pairs("assistant_id", "cron_id", "created_at") | _pairs("thread_id", "cron_id"),
    frozenset({"thread_id", "next_at", "end_at"}),
)
ASSISTANTS = Kind(
    "assistants",
    "assistant_id",
    "assistant_facets",
    frozenset({"graph_id"}),
    _pairs("graph_id", "assistant_id", "graph_id", "created_at"),
)
VERSIONS = Kind(
    "assistant_versions", "version_id", "", frozenset({"assistant_id"}), _pairs("assistant_id", "version")
)
RUNS = Kind("runs", "run_id")
DELIVERIES = Kind(
    "deliveries",
    "delivery_id",
    "",
    frozenset({"run_id", "cron_id", "state"}),
    _pairs("cron_id", "requested_at") | _pairs("state", "requested_at"),
)
BACKFILLS = Kind("backfills", "backfill_id", "", frozenset({"cron_id"}), _pairs("cron_id", "requested_at"))
EVENTS_OF = ("stream_id", "thread_id", "cron_id", "run_id", "topic", "actor")
AUDIT = Kind(
    "audit",
    "position",
    "",
    frozenset(EVENTS_OF),
    frozenset((column, "position") for column in EVENTS_OF),
)


class Condition(msgspec.Struct, frozen=True):
    """A condition as it is tested on a row that is looked at; no index may be chosen because of it."""

    clause: str
    params: tuple[Any, ...]
    hint: str = ""  # looked at before, when many rows are walked over
    hint_params: tuple[Any, ...] = ()


class Driver(msgspec.Struct, frozen=True):
    """A condition as an index finds its rows: in which order, and where they are counted."""

    clause: str
    params: tuple[Any, ...]
    source: str = ""  # a table and a condition; '' = there are few by nature
    source_params: tuple[Any, ...] = ()
    column: str = ""


class Filter:
    """Conditions that are all to be met, over one read model."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.tests: list[Condition] = []
        self.drivers: list[Driver] = []
        self.facets: list[bytes] = []
        self.is_plain = True  # no JSON or text is looked into
        self.bounds: list[Condition] = []  # of the key itself

    def equal(self, column: str, value: Any) -> None:
        """The column has that value, unless none is asked for."""
        if value is None:
            return
        clause = f'"{column}" = ?'
        self.tests.append(Condition(clause, (value,)))
        if column in self.kind.indexed:
            self._found(clause, (value,), column)

    def between(self, column: str, low: Any, below: Any) -> None:
        """The column is at least that, and below that; an index on it serves when few rows are."""
        clauses = (f'"{column}" >= ?', f'"{column}" < ?')
        self.tests += [Condition(clauses[0], (low,)), Condition(clauses[1], (below,))]
        self._found(" AND ".join(clauses), (low, below), "")

    def beyond(self, comparison: str, key: int) -> None:
        """The key is on that side of a value: a walk in its order begins there."""
        self.bounds.append(Condition(f'"{self.kind.key}" {comparison} ?', (key,)))

    def one_of(self, ids: Sequence[bytes]) -> None:
        """The key is one of these."""
        clause = f'"{self.kind.key}" IN ({",".join("?" * len(ids)) or "NULL"})'  # of none: nothing is equal to NULL
        self.tests.append(Condition(clause, tuple(ids)))
        self.drivers.append(Driver(clause, tuple(ids)))

    def named(self, text: str | None) -> None:
        """The name has that text in it, whatever its case. Every row is looked at."""
        if text is not None:
            self.is_plain = False
            self.tests.append(Condition("instr(folded_name, ?) > 0", (text.casefold(),)))

    def holds(self, column: str, value: Mapping[str, Any] | None) -> None:
        """The JSON of the column contains that. Every row that the other conditions leave is looked at."""
        if value:
            self.is_plain = False
            self.tests.append(_json_test(column, value))

    def metadata(self, value: dict[str, Any] | None) -> None:
        """The metadata contain that: an index finds the rows, or says of each whether it has it."""
        if not value:
            return
        test, (facets, exact) = _json_test("metadata", value), needed(value)
        has = has_facet(self.kind, self.kind.key)
        hint = f"({' AND '.join([has] * len(facets))} OR {has})"
        self.is_plain = False
        self.tests.append(Condition(test.clause, test.params, hint, (*facets, LARGE)))
        self.facets = sorted(facets) if exact else []
        clause = SQL["of_facet"].format(key=self.kind.key, facets=self.kind.facets)
        source = f"{self.kind.facets} WHERE facet >= ? AND facet < ?"
        for facet in facets:
            own, large = (facet, facet + END), (LARGE, LARGE + END)
            self.drivers.append(Driver(clause, (*own, *large), source, own))

    def uuid(self, column: str, field: str, text: str | None) -> None:
        """The column has that id. Raises InvalidField for what is none."""
        if text is not None:
            value = parse_uuid(text)
            if value is None:
                raise InvalidField(f"{field}: must be a UUID")
            self.equal(column, value.bytes)

    def assistant(self, text: str | None) -> None:
        """The assistant has that id, or is the default one of that graph."""
        if text is not None:
            self.equal("assistant_id", (parse_uuid(text) or default_assistant_id(text)).bytes)

    def _found(self, clause: str, params: tuple[Any, ...], column: str) -> None:
        self.drivers.append(Driver(clause, params, f"{self.kind.table} WHERE {clause}", params, column))


def instant_of(field: str, text: str | None) -> datetime | None:
    """An instant that a query names; naive is UTC. Raises InvalidField."""
    if text is None:
        return None
    try:
        # A plus that nobody has encoded comes as a space.
        return aware(datetime.fromisoformat(text.replace(" ", "+")), field)
    except ValueError:
        raise InvalidField(f"{field}: must be an instant such as 2026-03-01T00:00:00+00:00") from None


def has_facet(kind: Kind, owner: str) -> str:
    """A condition: the owner (SQL) has the facet of its parameter."""
    return SQL["has_facet"].format(facets=kind.facets, owner=owner)


def _json_test(column: str, value: Mapping[str, Any]) -> Condition:
    if _depth(value) > DEEPEST:
        raise InvalidField(f"{column}: nested too deeply to be searched for")
    return Condition(f'json_contains("{column}", ?)', (msgspec.json.encode(value).decode(),))


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth
