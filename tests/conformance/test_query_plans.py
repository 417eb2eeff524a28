"""Each named query, with its plan on a populated database: nothing looks at all of a table that grows."""

import argparse
import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.codec import EventCodec
from contracts.events import ThreadCreated, ThreadUpdated
from contracts.ledger import Append, Blob, Meta, Transaction
from services.commandline.audit import SQL as COMMAND_SQL
from services.commandline.audit import add, conditions
from services.gateway.queries.filters import (
    ASSISTANTS,
    AUDIT,
    CRONS,
    DELIVERIES,
    EVENTS_OF,
    RUNS,
    THREADS,
    VERSIONS,
    Filter,
    Kind,
    has_facet,
)
from services.gateway.queries.filters import SQL as GATEWAY_SQL
from services.gateway.queries.runs import NEWEST
from services.gateway.queries.search import counting, gathering, page, row_query, walking
from services.kit.eventlog.sqlite import SQL as LOG_SQL
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.queries import named
from services.kit.readers import connected
from services.kit.views.sqlite import give_functions
from services.registered import SQL as START_SQL
from services.relay.turns import SQL as RELAY_SQL
from services.scheduler.plans import SQL as SCHEDULER_SQL
from services.webhooks.sender import SQL as WEBHOOKS_SQL
from tests.populated import ASSISTANT, populate

META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")


def plan(db: sqlite3.Connection, query: str) -> list[str]:
    """The steps of the query, without their indentation. Parameters need no value for it."""
    marks = [None] * query.count("?")
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", marks)]


def steps(db: sqlite3.Connection, query: str) -> str:
    """The plan in a line, with the versions of tables left out and indexes told by their columns."""
    return "; ".join(re.sub(r"(\w+)__v\w+?\b", r"\1", _by_columns(db, step)) for step in plan(db, query))


def _by_columns(db: sqlite3.Connection, step: str) -> str:
    """`USING INDEX threads__v4_0` -> `USING INDEX updated_at,thread_id`."""
    found = re.search(r"INDEX (\w+__v\w+)", step)
    if found is None:
        return step
    columns = [str(row[2] or "rowid") for row in db.execute(f"PRAGMA index_info({found[1]})")]
    return step.replace(found[1], ",".join(columns))


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await log.start()
    long = uuid7()
    for n in range(3):
        events = (ThreadCreated(user_id="u"), *(ThreadUpdated(metadata={"n": n}) for _ in range(500)))
        blob = Blob(f"{n}", b"x")
        await log.append(
            Transaction(meta=META, appends=(Append(uuid7() if n else long, 0, events),), blobs=(blob,))
        )
        await log.renew_lease(f"worker.{n}", "me", 10)
    await log.stop()
    db = sqlite3.connect(tmp_path / "ledger.db")
    yield db
    db.close()


RANGE = "(originator_id=? AND originator_version>? AND originator_version<?)"
STREAM_KEY = "sqlite_autoindex_stored_events_1"
POSITIONS = "SEARCH stored_events USING INTEGER PRIMARY KEY"
LOG_PLANS = {
    "stream": f"SEARCH stored_events USING INDEX {STREAM_KEY} {RANGE}",
    "stream_back": f"SEARCH stored_events USING INDEX {STREAM_KEY} {RANGE}",
    "some_topics": f"{POSITIONS} (rowid>? AND rowid<?); LIST SUBQUERY 1; SCAN json_each VIRTUAL TABLE INDEX 1:",
    "range": f"{POSITIONS} (rowid>? AND rowid<?)",
    "topics": f"{POSITIONS} (rowid>? AND rowid<?)",
    "at": f"{POSITIONS} (rowid=?); LIST SUBQUERY 1; SCAN json_each VIRTUAL TABLE INDEX 1:",
    "head": "SEARCH stored_events",  # of the primary key: its last entry
    "version": f"SEARCH stored_events USING COVERING INDEX {STREAM_KEY} (originator_id=?)",
    "append": "",
    "keep_blob": "",
    "blob": "SEARCH blobs USING PRIMARY KEY (sha256=?)",
    "leases": "SEARCH leases USING PRIMARY KEY (name>? AND name<?)",
    "take_lease": "",
    "drop_lease": "SEARCH leases USING PRIMARY KEY (name=?)",
    "cursor": "SEARCH cursors USING PRIMARY KEY (name=?)",
    "move_cursor": "",
}


def test_log(ledger: sqlite3.Connection) -> None:
    assert {name: steps(ledger, query) for name, query in LOG_SQL.items()} == LOG_PLANS


def test_newest_costs_the_same_at_any_age(ledger: sqlite3.Connection) -> None:
    """Counted in steps of SQLite's machine, which do not depend on the machine that runs the test."""
    ids = [row[0] for row in ledger.execute("SELECT DISTINCT originator_id FROM stored_events")]
    looked = []
    ledger.set_progress_handler(lambda: looked.append(1), 1)
    ledger.execute(LOG_SQL["stream_back"], (ids[0], 0, 1 << 60, 1)).fetchall()
    assert len(looked) < 50


def test_names_stand_once(tmp_path: Path) -> None:
    path = tmp_path / "queries.sql"
    path.write_text("-- name: a\n-- why\nSELECT 1;\n-- name: a\nSELECT 2;\n")
    with pytest.raises(ValueError, match="a stands there twice"):
        named(path)
    path.write_text("-- name: a\n-- name: b\nSELECT 2\n")
    with pytest.raises(ValueError, match="no query under a"):
        named(path)


# --- gateway ------------------------------------------------------------------------------------------

SORTS = {
    THREADS: ("thread_id", "status", "created_at", "updated_at", "state_updated_at"),
    CRONS: ("cron_id", "assistant_id", "thread_id", "next_at", "end_at", "created_at", "updated_at"),
    ASSISTANTS: ("assistant_id", "created_at", "updated_at", "name", "graph_id"),
    DELIVERIES: ("requested_at",),
    VERSIONS: ("version",),
    AUDIT: ("position",),
}
"""What each read model may be sorted by: `contracts.api`, in its columns."""
Condition = Callable[[Filter], None]


def both(*conditions: Condition) -> Condition:
    def add(wanted: Filter) -> None:
        for condition in conditions:
            condition(wanted)

    return add


def same(column: str, value: object) -> Condition:
    return lambda wanted: wanted.equal(column, value)


def meta(value: dict[str, object]) -> Condition:
    return lambda wanted: wanted.metadata(value)


FILTERS: dict[Kind, dict[str, Condition]] = {
    THREADS: {
        "status": same("status", "error"),
        "metadata": meta({"team": "team-1", "all": True}),
        "status and metadata": both(same("status", "idle"), meta({"all": True})),
        "values": lambda wanted: wanted.holds("values", {"inline": {"answer": 1}}),
        "ids": lambda wanted: wanted.one_of([b"1", b"2"]),
    },
    CRONS: {
        "assistant": same("assistant_id", b"1"),
        "thread": same("thread_id", b"1"),
        "enabled": same("enabled", 1),
        "metadata": meta({"team": "team-1"}),
        "assistant and enabled": both(same("assistant_id", b"1"), same("enabled", 1)),
    },
    ASSISTANTS: {
        "graph": same("graph_id", "counter"),
        "name": lambda wanted: wanted.named("team"),
        "metadata": meta({"team": "team-1"}),
    },
    DELIVERIES: {
        "cron": same("cron_id", b"1"),
        "state": same("state", "abandoned"),
        "cron and state": both(same("cron_id", b"1"), same("state", "abandoned")),
    },
    VERSIONS: {"assistant": same("assistant_id", b"1")},
    AUDIT: {
        **{name: same(name, b"1") for name in EVENTS_OF},
        "topics": lambda wanted: wanted.between("topic", "run.", "run.z"),
        "since": lambda wanted: wanted.between("at", 1, 2),
    },
}


def wanted_of(kind: Kind, condition: Condition) -> Filter:
    wanted = Filter(kind)
    condition(wanted)
    return wanted


OF_ONE = {VERSIONS}  # of an assistant: never all of them
SEARCHES = [(kind, sort, way) for kind, sorts in SORTS.items() for sort in sorts for way in ("asc", "desc")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("populated")
    asyncio.run(populate(folder, threads=1500, some_crons=600, active=5))
    return folder


@pytest.fixture
def views(folder: Path) -> Iterator[sqlite3.Connection]:
    db = connected(folder / "views.db")
    give_functions(db)
    yield db
    db.close()


@pytest.mark.parametrize(("kind", "sort", "way"), SEARCHES)
def test_page_is_a_walk_in_its_order(views: sqlite3.Connection, kind: Kind, sort: str, way: str) -> None:
    """Whatever is filtered: the index has the order, nothing is sorted, the walk ends with the page."""
    all_of_it: dict[str, Condition] = {"": both()}
    for name, condition in (FILTERS[kind] if kind in OF_ONE else all_of_it | FILTERS[kind]).items():
        wanted = wanted_of(kind, condition)
        query, _ = walking(wanted, page(10, 0, sort, way))
        told = steps(views, query)
        assert "TEMP B-TREE" not in told, (name, told)
        assert re.match(rf"(SCAN|SEARCH) {kind.table} USING ", told) or told == "SCAN audit", (name, told)


@pytest.mark.parametrize(("kind", "sort", "way"), SEARCHES)
def test_few_are_found_by_their_index(views: sqlite3.Connection, kind: Kind, sort: str, way: str) -> None:
    """Each condition that an index serves is served by it, whichever order is asked for."""
    for name, condition in FILTERS[kind].items():
        wanted = wanted_of(kind, condition)
        assert wanted.drivers or name in ("values", "name")
        for driver in wanted.drivers:
            query, _ = gathering(wanted, page(10, 0, sort, way), driver)
            told = steps(views, query)
            assert "SCAN" not in told, (name, told)
            assert told.startswith(f"SEARCH {kind.table} USING"), (name, told)
            if driver.source:
                counted = steps(views, GATEWAY_SQL["few"].format(source=driver.source))
                assert re.match(r"CO-ROUTINE \S+; SEARCH \w+ USING (COVERING INDEX|PRIMARY KEY)", counted)


def test_conditions_that_stand_in_the_order_need_no_other_row(views: sqlite3.Connection) -> None:
    """A status that only old threads have is not looked for among the new ones."""
    for sort in SORTS[THREADS]:
        wanted = Filter(THREADS)
        wanted.equal("status", "error")
        query, _ = walking(wanted, page(10, 0, sort, "desc"))
        assert steps(views, query).startswith("SEARCH threads USING COVERING INDEX status")


RUNS_KEY = "SEARCH runs USING INDEX run_id (run_id=?)"
GATEWAY_PLANS = {
    "thread_without_values": "SEARCH threads USING INDEX thread_id (thread_id=?)",
    "cron_without_payload": "SEARCH crons USING INDEX cron_id (cron_id=?)",
    "run_without_values": RUNS_KEY,
    "runs_of_thread": "SEARCH runs USING COVERING INDEX thread_id,hidden,created_at,run_id (thread_id=? AND hidden=?)",
    "runs_of_thread_by_status": "SEARCH runs USING COVERING INDEX thread_id,hidden,status,created_at,run_id"
    " (thread_id=? AND hidden=? AND status=?)",
    "runs_of_all": "SEARCH runs USING COVERING INDEX hidden,created_at,run_id (hidden=? AND (created_at,run_id)<(?,?))",
    "runs_by_status": "SEARCH runs USING COVERING INDEX hidden,status,created_at,run_id"
    " (hidden=? AND status=? AND (created_at,run_id)<(?,?))",
    "runs_of_cron": "SEARCH runs USING COVERING INDEX cron_id,hidden,created_at,run_id"
    " (cron_id=? AND hidden=? AND (created_at,run_id)<(?,?))",
    "runs_of_cron_by_status": "SEARCH runs USING COVERING INDEX cron_id,hidden,status,created_at,run_id"
    " (cron_id=? AND hidden=? AND status=? AND (created_at,run_id)<(?,?))",
    "active_runs": "SCAN runs USING INDEX assistant_id",  # which holds only these
    "active_runs_of_assistant": "SEARCH runs USING INDEX assistant_id (assistant_id=?)",
    "not_ended": RUNS_KEY,
    "happened": "SEARCH audit USING INTEGER PRIMARY KEY (rowid>?)",
    "happened_before": "SEARCH audit USING COVERING INDEX at (at<?)",
    "happened_on_thread": "SEARCH audit USING INDEX thread_id,position (thread_id=? AND position>?)",
    "happened_to_run": "SEARCH audit USING INDEX run_id,position (run_id=?)",
    "at_work_on_thread": "SEARCH runs USING INDEX temporary,thread_id (temporary=? AND thread_id=?)",
    "happened_until": "SEARCH audit",  # the last entry of its key
    "recorded": "SEARCH occurrences USING INDEX scheduled_for (scheduled_for>? AND scheduled_for<?)",
    "recorded_of_cron": "SEARCH occurrences USING INDEX cron_id,scheduled_for"
    " (cron_id=? AND scheduled_for>? AND scheduled_for<?)",
    "occurrences_of_cron": "SEARCH occurrences USING INDEX cron_id,scheduled_for"
    " (cron_id=? AND scheduled_for>? AND scheduled_for<?)",
    "occurrences_by_status": "SEARCH occurrences USING INDEX cron_id,status,scheduled_for"
    " (cron_id=? AND status=? AND scheduled_for>? AND scheduled_for<?)",
    "due_until": "SEARCH crons USING INDEX next_at,cron_id (next_at<?)",
    "due_of_cron": "SEARCH crons USING INDEX cron_id (cron_id=?)",
    "crons_of_thread": "SEARCH crons USING COVERING INDEX thread_id,cron_id (thread_id=?)",
    "crons_of_assistant": "SEARCH crons USING COVERING INDEX assistant_id,cron_id (assistant_id=?)",
    "assistants_behind": "SEARCH assistants USING INDEX created_at,assistant_id ((created_at,assistant_id)>(?,?))",
    "crons_of_user": "CO-ROUTINE few; SEARCH crons USING COVERING INDEX user_id (user_id=?); SCAN few",
}
PUT_TOGETHER = {
    "few", "gather", "walk", "count", "count_all", "up_to", "of_facet", "has_facet", "count_facets", "row",
}  # fmt: skip
"""Made for each search: the tests above and below have their plans."""


def test_gateway(views: sqlite3.Connection) -> None:
    plans = {name: steps(views, query) for name, query in GATEWAY_SQL.items() if name not in PUT_TOGETHER}
    assert plans == GATEWAY_PLANS


def test_rows_by_their_key(views: sqlite3.Connection) -> None:
    for kind in (*SORTS, RUNS):
        told = steps(views, row_query(kind))
        assert re.fullmatch(rf"SEARCH {kind.table} USING (INDEX \S+|INTEGER PRIMARY KEY) \(\S+=\?\)", told)


def test_totals_and_counts(views: sqlite3.Connection) -> None:
    total = GATEWAY_SQL["up_to"].format(table="threads", tests="true")
    assert "SCAN threads USING COVERING INDEX" in steps(views, total)
    for kind in (THREADS, CRONS, ASSISTANTS):
        for name, condition in FILTERS[kind].items():
            wanted = wanted_of(kind, condition)
            for driver in wanted.drivers:
                assert "SCAN" not in steps(views, counting(wanted, driver)[0]), name
    of_facet = GATEWAY_SQL["count_facets"].format(
        facets="thread_facets", tests=has_facet(THREADS, "substr(thread_facets.facet, 17)")
    )
    told = steps(views, of_facet)
    assert told.startswith("SEARCH thread_facets USING PRIMARY KEY (facet>? AND facet<?)")
    assert told.endswith("SEARCH thread_facets USING PRIMARY KEY (facet=?)")


# --- scheduler and relay ------------------------------------------------------------------------------


def test_scheduler(views: sqlite3.Connection) -> None:
    plans = {name: steps(views, query.format(marks="?,?")) for name, query in SCHEDULER_SQL.items()}
    by_key = "SEARCH crons USING INDEX cron_id"
    assert plans == {
        "backfills": "SEARCH backfills USING COVERING INDEX state,backfill_id (state=? AND backfill_id>?)",
        "crons": f"{by_key} (cron_id>?)",
        "active_cursors": f"{by_key} (cron_id>?)",
        "crons_of": f"{by_key} (cron_id=?)",
        "cursors": f"{by_key} (cron_id=?)",
        "failing": f"{by_key} (cron_id=?)",
        "plans": f"{by_key} (cron_id=?)",
        "thread_metadata": "SEARCH threads USING INDEX thread_id (thread_id=?)",
    }


def test_start(views: sqlite3.Connection) -> None:
    """Each cron once, at the start of the server only; their assistants by the few that there are."""
    told = {name: steps(views, query) for name, query in START_SQL.items()}
    assert told.keys() == {"graphs", "default_assistants"}
    assert told["default_assistants"] == "SCAN assistants"
    assert "SEARCH crons USING INDEX assistant_id" in told["graphs"], told


def test_relay(views: sqlite3.Connection) -> None:
    """Only the index that holds the runs which are not over."""
    plans = {name: steps(views, query) for name, query in RELAY_SQL.items()}
    assert plans == {
        "lanes": "SEARCH runs USING INDEX temporary,thread_id (temporary=?)",
        "temporary": "SEARCH runs USING INDEX temporary,thread_id (temporary=?)",
        "cron_lanes": "SCAN runs USING INDEX cron_id",
    }


# --- commands -----------------------------------------------------------------------------------------


def test_commands(views: sqlite3.Connection) -> None:
    plans = {name: steps(views, query.format(tests="true")) for name, query in COMMAND_SQL.items()}
    assert plans == {
        "crons": "SCAN crons USING INDEX created_at,cron_id",  # all of them are shown
        "cron": "SEARCH crons USING INDEX cron_id (cron_id=?)",
        "audit": "SEARCH audit USING INTEGER PRIMARY KEY (rowid>?)",
        "deliveries": "SCAN deliveries USING INDEX requested_at,delivery_id",  # until its limit
        "deliveries_in_state": "SEARCH deliveries USING INDEX state,requested_at,delivery_id (state=?)",
    }


def test_webhooks(views: sqlite3.Connection) -> None:
    assert steps(views, WEBHOOKS_SQL["pending"]) == (
        "SEARCH deliveries USING INDEX state,requested_at,delivery_id (state=? AND (requested_at,delivery_id)>(?,?))"
    )


@pytest.mark.parametrize(
    "given", [("--thread", str(ASSISTANT)), ("--actor", "me"), ("--type", "cron.created.v1")]
)
def test_audit_of_something(views: sqlite3.Connection, given: tuple[str, str]) -> None:
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    tests, _ = conditions(parser.parse_args(["audit", *given]))
    told = steps(views, COMMAND_SQL["audit"].format(tests=tests))
    assert re.fullmatch(r"SEARCH audit USING COVERING INDEX \w+,position \(\w+=\? AND position>\?\)", told)


# --- what it costs, counted in steps of SQLite's machine ----------------------------------------------


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    asyncio.run(populate(folder, threads=3000, some_crons=1200, active=5))
    return folder


def machine_steps(path: Path, query: str, params: Sequence[object]) -> int:
    db, steps = connected(path), list[None]()
    give_functions(db)
    db.set_progress_handler(lambda: steps.append(None), 1)
    db.execute(query, params).fetchall()
    db.close()
    return len(steps)


RARE = wanted_of(THREADS, meta({"n": 7}))
COSTS = {
    "newest threads": walking(Filter(THREADS), page(10, 0, "created_at", "desc")),
    "threads with metadata of their own": gathering(RARE, page(10, 0, "updated_at", "desc"), RARE.drivers[0]),
    "threads with everybody's metadata": walking(
        wanted_of(THREADS, meta({"all": True})), page(10, 0, "updated_at", "desc")
    ),
    "crons by end": walking(Filter(CRONS), page(10, 0, "end_at", "desc")),
    "newest runs": (GATEWAY_SQL["runs_of_all"], [*NEWEST, 11]),
    "runs behind others": (GATEWAY_SQL["runs_of_all"], [1_767_226_200_000_000, b"\0", 11]),
    "runs of a status that few have": (GATEWAY_SQL["runs_by_status"], ["pending", *NEWEST, 11]),
    "runs of a cron that has none": (GATEWAY_SQL["runs_of_cron"], [ASSISTANT.bytes, *NEWEST, 11]),
    "runs that are not over": (GATEWAY_SQL["active_runs"], []),
    "runs in lanes": (RELAY_SQL["lanes"], []),
    "runs that take turns": (RELAY_SQL["cron_lanes"], []),
    "runs of an assistant that are not over": (GATEWAY_SQL["active_runs_of_assistant"], [ASSISTANT.bytes]),
}


@pytest.mark.parametrize("what", COSTS)
def test_cost_does_not_grow_with_age(folder: Path, older: Path, what: str) -> None:
    query, params = COSTS[what]
    young, old = (machine_steps(path / "views.db", query, params) for path in (folder, older))
    assert 0 < old <= young * 1.2 + 20
