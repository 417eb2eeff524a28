"""Every query of the services on the read models of both databases, made of the same events: equal answers."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
import pytest

from contracts.codec import EventCodec, pack
from contracts.events import (
    AssistantUpdated,
    BackfillRequested,
    OccurrenceSkipped,
    RunFailed,
    RunRequested,
    RunStarted,
    RunSucceeded,
    ThreadCreated,
    ThreadDeleted,
    WebhookRequested,
)
from contracts.ledger import Append, Meta, Transaction
from projections.rows import Table
from services.commandline.audit import SQL as COMMAND_SQL
from services.gateway.queries.filters import (
    ASSISTANTS,
    AUDIT,
    BACKFILLS,
    CRONS,
    DELIVERIES,
    RUNS,
    THREADS,
    VERSIONS,
    Filter,
    Kind,
)
from services.gateway.queries.filters import SQL as GATEWAY_SQL
from services.gateway.queries.runs import NEWEST
from services.gateway.queries.search import count, find, keys_of, page, row_query, rows_of, search
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.postgres import connect, migrate
from services.kit.views import Views, ViewsUnavailable
from services.kit.views.postgres import SCHEMA, PostgresViews, translated
from services.kit.views.sqlite import SqliteViews
from services.projector.catalog import ALL
from services.projector.projector import build
from services.projector.replay import verify
from services.projector.store import ViewStore
from services.registered import SQL as START_SQL
from services.relay.turns import SQL as RELAY_SQL
from services.scheduler.plans import SQL as SCHEDULER_SQL
from services.webhooks.sender import SQL as WEBHOOKS_SQL
from tests.containment import CONTAINMENT
from tests.populated import ASSISTANT, START, cron_id, populate, project, run_id, thread_id
from tests.postgres import Postgres

META = Meta(at=START + timedelta(days=1), actor="test")
NUL = "a\0b"
SECOND = int(START.timestamp())
FIRED, SKIPPED, DEEP = UUID(int=1077), UUID(int=1078), UUID(int=1079)


class Both(NamedTuple):
    """The read models of one log in either database."""

    lite: Views
    post: Views
    url: str
    folder: Path

    def same(self, query: str, params: Sequence[Any] = (), *, ordered: bool = True) -> list[dict[str, Any]]:
        """The answer of both."""
        ours, theirs = self.lite.all(query, params), self.post.all(query, params)
        if not ordered:
            ours, theirs = (sorted(rows, key=repr) for rows in (ours, theirs))
        assert ours == theirs
        return ours


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("views")
    url = postgres.url_of(postgres.database())
    migrate(url, [SCHEMA], lambda _: None)
    asyncio.run(_fill(folder, url))
    made = Both(SqliteViews(folder / "views.db"), PostgresViews(url), url, folder)
    yield made
    made.lite.close()
    made.post.close()


async def _fill(folder: Path, url: str) -> None:
    await populate(folder, threads=700, some_crons=200, active=5)
    log = SqliteLog(folder / "ledger.db", EventCodec())
    await log.start()
    outcomes = await log.append_many([Transaction(meta=META, appends=(append,)) for append in _odd()])
    assert all(isinstance(outcome, int) for outcome in outcomes), outcomes
    (folder / "views.db").unlink()
    project(log, folder / "views.db")
    project(log, url)
    assert verify(log, url) == verify(log, folder / "views.db") == []
    await log.stop()


def _odd() -> Iterator[Append]:
    """What is rare, and what a database may stumble over."""
    kwargs, _ = pack({"input": {"x": NUL}, "config": {}})
    output, _ = pack({"answer": 1, "nul": NUL, "big": 1 << 70, "tags": [1, 2]})
    run: dict[str, Any] = {
        "thread_id": thread_id(1),
        "assistant_id": ASSISTANT,
        "graph_id": "counter",
        "user_id": "u",
    }
    at = START + timedelta(minutes=5)
    for n, backfill in ((0, None), (1, FIRED)):
        asked = RunRequested(
            **run, kwargs=kwargs, cron_id=cron_id(2), scheduled_for=at + timedelta(minutes=n), kind="schedule",
            backfill_id=backfill, cron_lane=n == 1,
        )  # fmt: skip
        yield Append(UUID(int=1077 + 10 * n), 0, (asked,))
    skipped = OccurrenceSkipped(
        thread_id=thread_id(1), cron_id=cron_id(2), scheduled_for=at + timedelta(minutes=2), reason="overlap"
    )
    yield Append(SKIPPED, 0, (skipped,))
    made = ThreadCreated(
        user_id="é", metadata={"tags": ["x", {"a": 1, "b": 2}], "π": 1.0, "deep": {"er": [None, True]}}
    )
    yield Append(DEEP, 0, (made,))
    yield Append(thread_id(3), 1, (ThreadDeleted(),))
    ended = RunFailed(thread_id=thread_id(1), attempt=1, error="E", message="no", cron_id=cron_id(2))
    yield Append(FIRED, 1, (RunStarted(thread_id=thread_id(1), attempt=1, worker="w"), ended))
    values = RunSucceeded(thread_id=DEEP, attempt=1, output=output)
    yield Append(UUID(int=1099), 0, (RunRequested(**run | {"thread_id": DEEP}, kwargs=kwargs), values))
    for n in range(3):
        told = WebhookRequested(
            run_id=run_id(n), thread_id=thread_id(n), cron_id=None, url="http://x.example/y"
        )
        yield Append(UUID(int=1200 + n), 0, (told,))
    asked_for = BackfillRequested(
        cron_id=cron_id(2),
        user_id="u",
        start=START,
        end=at,
        include="all",
        planned=(SECOND,),
        revision=1,
        tzdata="x",
    )
    yield Append(UUID(int=1300), 0, (asked_for,))
    for n, name in enumerate(("ÄRGER", "straße", "100%", "a?b", "Ω")):
        body = AssistantUpdated(graph_id="counter", user_id="u", name=name, number=2)
        yield Append(UUID(int=n + 1), 1, (body,))


# --- queries that have a name -------------------------------------------------------------------------

EVER = (1 << 62, b"\xff" * 17)
SPAN = (0, 1 << 40)
OCCURRENCES = (0, 1 << 40, 0, 10, 0)
NAMED: dict[str, tuple[dict[str, str], dict[str, Sequence[Any]]]] = {
    "gateway": (
        GATEWAY_SQL,
        {
            "thread_without_values": (thread_id(1).bytes,),
            "cron_without_payload": (cron_id(1).bytes,),
            "run_without_values": (run_id(1).bytes,),
            "runs_of_thread": (thread_id(1).bytes, 10, 0),
            "runs_of_thread_by_status": (thread_id(1).bytes, "success", 10, 0),
            "runs_of_all": (*NEWEST, 50),
            "runs_by_status": ("error", *NEWEST, 50),
            "runs_of_cron": (cron_id(2).bytes, *NEWEST, 50),
            "runs_of_cron_by_status": (cron_id(2).bytes, "error", *NEWEST, 50),
            "active_runs": (),
            "active_runs_of_assistant": (ASSISTANT.bytes,),
            "not_ended": (run_id(699).bytes,),
            "happened": (100,),
            "happened_before": (1 << 62,),
            "happened_on_thread": (thread_id(1).bytes, 0, 100),
            "happened_to_run": (run_id(1).bytes,),
            "at_work_on_thread": (thread_id(1).bytes,),
            "happened_until": (),
            "recorded": (*SPAN, 10),
            "recorded_of_cron": (cron_id(2).bytes, *SPAN, 10),
            "occurrences_of_cron": (cron_id(2).bytes, 0, *SPAN[::-1], 10, 0),
            "occurrences_by_status": (cron_id(2).bytes, "skipped", 0, *SPAN[::-1], 10, 0),
            "due_until": (1 << 62, 30),
            "due_of_cron": (cron_id(2).bytes, 1 << 62, 30),
            "crons_of_thread": (thread_id(10).bytes,),
            "crons_of_assistant": (UUID(int=1).bytes,),
            "crons_of_user": ("anonymous", 50),
            "assistants_behind": (-(1 << 62), b"", 50),
        },
    ),
    "commands": (
        {name: query.format(tests="true AND actor = 'test'") for name, query in COMMAND_SQL.items()},
        {
            "crons": (),
            "cron": (cron_id(1).bytes,),
            "audit": (10, 50),
            "deliveries": (10,),
            "deliveries_in_state": ("pending", 10),
        },
    ),
    "scheduler": (
        {name: query.format(marks="?,?") for name, query in SCHEDULER_SQL.items()},
        {
            "crons": (b"", 500),
            "active_cursors": (b"", 500),
            "crons_of": (cron_id(1).bytes, cron_id(2).bytes),
            "cursors": (cron_id(1).bytes, cron_id(2).bytes),
            "failing": (cron_id(1).bytes, cron_id(2).bytes),
            "backfills": (b"", 10),
            "plans": (cron_id(1).bytes, cron_id(2).bytes),
            "thread_metadata": (thread_id(1).bytes, DEEP.bytes),
        },
    ),
    "relay": (RELAY_SQL, {"lanes": (), "temporary": (), "cron_lanes": ()}),
    "start": (START_SQL, {"graphs": (), "default_assistants": ()}),
    "webhooks": (WEBHOOKS_SQL, {"pending": (0, b"", 10)}),
}
PUT_TOGETHER = {
    "few", "gather", "walk", "count", "count_all", "up_to", "of_facet", "has_facet", "count_facets", "row",
}  # fmt: skip
NOTHING = {"failing", "temporary", "at_work_on_thread"}
"""Queries that find nothing here: their answers are equal all the same."""


@pytest.mark.parametrize("who", NAMED)
def test_named_queries(both: Both, who: str) -> None:
    queries, params = NAMED[who]
    assert queries.keys() - PUT_TOGETHER == params.keys()
    for name, given in params.items():
        found = both.same(queries[name], given, ordered="ORDER BY" in queries[name])
        assert found or name in NOTHING, name


@pytest.mark.parametrize("kind", [THREADS, CRONS, ASSISTANTS, DELIVERIES, VERSIONS, AUDIT, BACKFILLS, RUNS])
def test_whole_rows(both: Both, kind: Kind) -> None:
    rows = both.same(f"SELECT {kind.key} AS id FROM {kind.table} ORDER BY {kind.key} LIMIT 20")
    assert rows
    for row in rows:
        both.same(row_query(kind), (row["id"],))
    keys = [
        row["id"] for row in reversed(rows)
    ] * 6  # more than are read ahead, not in the order of the table
    keys.insert(7, -1 if kind is AUDIT else b"gone")
    ours, theirs = (list(rows_of(views, row_query(kind), keys)) for views in (both.lite, both.post))
    assert ours == theirs
    assert len(ours) == len(keys) - 1


# --- searches -----------------------------------------------------------------------------------------

SORTS = {
    THREADS: ("thread_id", "status", "created_at", "updated_at", "state_updated_at"),
    CRONS: ("cron_id", "assistant_id", "thread_id", "next_at", "end_at", "created_at", "updated_at"),
    ASSISTANTS: ("assistant_id", "created_at", "updated_at", "name", "graph_id"),
    DELIVERIES: ("requested_at",),
    VERSIONS: ("version",),
    AUDIT: ("position",),
    BACKFILLS: ("requested_at",),
}
Condition = Callable[[Filter], None]


def both_of(one: Condition, other: Condition) -> Condition:
    def add(wanted: Filter) -> None:
        one(wanted)
        other(wanted)

    return add


def named_like(text: str) -> Condition:
    return lambda wanted: wanted.named(text)


FILTERS: dict[Kind, list[Condition]] = {
    THREADS: [
        lambda wanted: wanted.equal("status", "error"),
        lambda wanted: wanted.metadata({"team": "team-1", "all": True}),
        both_of(lambda wanted: wanted.equal("status", "idle"), lambda wanted: wanted.metadata({"all": True})),
        lambda wanted: wanted.metadata({"all": 1}),
        lambda wanted: wanted.metadata({"tags": [{"a": 1}]}),
        lambda wanted: wanted.metadata({"π": 1, "deep": {"er": [True]}}),
        lambda wanted: wanted.metadata({"a": NUL}),
        lambda wanted: wanted.holds("values", {"inline": {"answer": 1}}),
        lambda wanted: wanted.holds("values", {"inline": {"tags": [2], "big": 1 << 70}}),
        lambda wanted: wanted.one_of([]),
        lambda wanted: wanted.one_of([thread_id(5).bytes, b"2", DEEP.bytes]),
    ],
    CRONS: [
        lambda wanted: wanted.equal("assistant_id", UUID(int=2).bytes),
        lambda wanted: wanted.equal("thread_id", thread_id(10).bytes),
        both_of(
            lambda wanted: wanted.equal("enabled", 1), lambda wanted: wanted.metadata({"team": "team-2"})
        ),
    ],
    ASSISTANTS: [
        lambda wanted: wanted.equal("graph_id", "counter"),
        *(named_like(text) for text in ("TEAM 1", "ä", "STRASSE", "%", "?", "ω", NUL)),
        lambda wanted: wanted.metadata({"team": "team-1"}),
    ],
    DELIVERIES: [lambda wanted: wanted.equal("state", "pending")],
    VERSIONS: [lambda wanted: wanted.equal("assistant_id", UUID(int=1).bytes)],
    AUDIT: [
        lambda wanted: wanted.equal("thread_id", thread_id(1).bytes),
        lambda wanted: wanted.equal("actor", "test"),
        lambda wanted: wanted.between("topic", "run.", "run.z"),
        lambda wanted: wanted.between("at", 0, 1 << 62),
        lambda wanted: wanted.beyond(">", 100),
    ],
    BACKFILLS: [lambda wanted: wanted.equal("cron_id", cron_id(2).bytes)],
}


@pytest.mark.parametrize("kind", SORTS, ids=lambda kind: kind.table)
async def test_searches(both: Both, kind: Kind) -> None:
    for condition in (lambda wanted: None, *FILTERS[kind]):
        wanted = Filter(kind)
        condition(wanted)
        for sort in SORTS[kind]:
            for way in ("asc", "desc"):
                for part in (page(15, 0, sort, way), page(7, 60, sort, way)):
                    assert await search(both.lite, wanted, part) == await search(both.post, wanted, part)
        assert await keys_of(both.lite, wanted) == await keys_of(both.post, wanted)
        assert await count(both.lite, wanted) == await count(both.post, wanted)


async def test_walks_and_gatherings_alike(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same searches, when whatever is looked for is too much to be gathered."""
    monkeypatch.setattr("services.gateway.queries.search.FEW", -18)
    for kind in (THREADS, CRONS, ASSISTANTS):
        for condition in FILTERS[kind]:
            wanted = Filter(kind)
            condition(wanted)
            for sort in SORTS[kind]:
                part = page(15, 3, sort, "desc")
                assert await find(both.lite, wanted, part) == await find(both.post, wanted, part)


def test_what_may_be_missing_is_known_to_its_searches() -> None:
    tables: dict[str, Table] = {table.name: table for projection in ALL for table in projection.TABLES}
    for kind, sorts in SORTS.items():
        columns = tables[kind.table].columns
        assert kind.missing == {name for name in sorts if columns[name].endswith("?")}, kind.table


# --- what the functions mean --------------------------------------------------------------------------


@pytest.mark.parametrize(("has", "wanted", "contains"), CONTAINMENT, ids=str)
def test_containment(both: Both, has: Any, wanted: Any, contains: bool) -> None:
    texts = [msgspec.json.encode(value).decode() for value in (has, wanted)]
    for views in (both.lite, both.post):
        row = views.one("SELECT json_contains(?, ?) AS it", texts)
        assert row is not None
        assert bool(row["it"]) is contains


def test_what_is_no_jsonb_contains_nothing_and_fails_no_search(both: Both) -> None:
    for text in (None, "1e400000", "[" * 20_000 + "]" * 20_000, "no JSON"):
        row = both.post.one("SELECT json_contains(?, ?) AS it", (text, '{"a":1}'))
        assert row == {"it": False}
    stored = '{"a":"x\\u0000","b":1}'
    for views in (both.lite, both.post):
        row = views.one("SELECT json_contains(?, ?) AS it", (stored, '{"b":1}'))
        assert row is not None
        assert row["it"]


def test_positions(both: Both) -> None:
    for projection in ALL:
        assert both.lite.position(projection.NAME) == both.post.position(projection.NAME) > 0
    assert both.post.position("nobody") == 0


# --- plans of PostgreSQL ------------------------------------------------------------------------------

WALKED = {
    "default_assistants",
    "happened_until",
    "active_runs",
    "graphs",
    "crons",
    "lanes",
    "temporary",
    "cron_lanes",
    "deliveries",
    "audit",
}
"""Of small partial indexes, or of all there is: PostgreSQL may walk the table."""

OF_ONE = {VERSIONS, BACKFILLS}
"""Asked for of one owner, never all of them."""
SORTED = re.compile(r"(?<!Incremental )Sort  \(")
"""All of what was found; rows that are equal in the order of an index are few."""


def test_plans(both: Both) -> None:
    """What SQLite finds by an index, PostgreSQL can too: with sequential scans and sorts made dear, none is left."""
    with connect(
        both.url, "views", "enable_seqscan=off", "enable_sort=off", "enable_bitmapscan=off"
    ) as connection:

        def plan(query: str, params: Sequence[Any]) -> str:
            rows = connection.execute(b"EXPLAIN " + translated(query), params).fetchall()
            return "\n".join(line for (line,) in rows)

        for queries, params in NAMED.values():
            for name, given in params.items():
                if name not in WALKED:
                    told = plan(queries[name], given)
                    assert "Seq Scan" not in told, (name, told)
                    assert not SORTED.search(told), (name, told)
        for kind, sorts in SORTS.items():
            for sort in sorts:
                for way, nulls in (("ASC", "FIRST"), ("DESC", "LAST")):
                    order = f" NULLS {nulls}" if sort in kind.missing else ""
                    key = "" if sort == kind.key else f", {kind.key} {way}"
                    query = f"SELECT {kind.key} FROM {kind.table} ORDER BY {sort} {way}{order}{key} LIMIT 10"
                    if kind not in OF_ONE:
                        assert not SORTED.search(plan(query, ())), query


# --- connections --------------------------------------------------------------------------------------


def test_connection_that_was_cut_is_made_anew(both: Both) -> None:
    views = PostgresViews(both.url)
    assert not views.is_near
    assert views.one("SELECT 1 AS it") == {"it": 1}
    with connect(both.url, "views") as other:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert other.execute(cut.encode()).fetchall()
    assert views.one("SELECT 1 AS it") == {"it": 1}
    views.close()
    assert views.one("SELECT 1 AS it") == {"it": 1}  # the next read opens a new one
    views.close()


def test_reads_can_not_write(both: Both) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        both.post.all("DELETE FROM tracking")


def test_closing_cancels_what_is_read(both: Both) -> None:
    views, told = PostgresViews(both.url), list[BaseException]()

    def read() -> None:
        try:
            views.one("SELECT pg_sleep(8)")
        except ViewsUnavailable as exc:
            told.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    with connect(both.url, "views") as other:
        sleeping = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
        while not other.execute(sleeping.encode()).fetchall():
            pass
    began = time.monotonic()
    views.close()
    thread.join()
    assert told
    assert time.monotonic() - began < 6


async def test_swaps_under_searches(both: Both) -> None:
    """Whoever reads while copies are swapped, again and again, meets the one or the other."""
    log = SqliteLog(both.folder / "ledger.db", EventCodec())
    await log.start()
    wanted, stop = Filter(THREADS), asyncio.Event()
    wanted.metadata({"team": "team-1"})
    expected = await search(both.post, wanted, page(5, 0, "updated_at", "desc"))

    async def read() -> int:
        times = 0
        while not stop.is_set():
            assert await search(both.post, wanted, page(5, 0, "updated_at", "desc")) == expected
            times += 1
        return times

    def swap() -> None:
        store = ViewStore(both.url, ALL)
        for _ in range(3):
            for _ in build(store, log, ["threads", "assistants"]):
                pass
        while store.sweep():
            pass
        assert len(store.db.names()) == sum(len(projection.TABLES) for projection in ALL)
        store.close()

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.to_thread(swap)
    stop.set()
    assert min(await asyncio.gather(*readers)) > 0
    await log.stop()
