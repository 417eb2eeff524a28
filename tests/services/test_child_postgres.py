"""What only PostgreSQL can do to checkpoints and store: hang, break off, be away, refuse a value or a role."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict

import psycopg
import pytest
import pytest_asyncio
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres.base import MIGRATIONS as SAVER
from langgraph.graph import START, StateGraph
from langgraph.store.postgres.base import MIGRATIONS as STORE
from langgraph.store.postgres.base import VECTOR_MIGRATIONS as VECTORS

from services.kit.eventlog.postgres import LEDGER
from services.kit.postgres import DatabaseProblem, migrate
from services.worker.child.checkpoints import RUN, Fenced, Unreachable
from services.worker.child.checkpoints.postgres import PostgresSaver
from services.worker.child.graphs import CannotLoad, Entry
from services.worker.child.runs import CountingExecutor, Outlet, Run
from services.worker.child.store.postgres import PostgresStore
from services.worker.graphs_schema import GraphsDatabase
from tests.postgres import Postgres
from tests.services.graph_children import bench_of, values
from tests.services.graphs_places import Place, place_of

PLACE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place_of("postgres", tmp_path_factory.mktemp("place"), request.getfixturevalue)


@pytest_asyncio.fixture
async def saver(place: Place) -> AsyncIterator[PostgresSaver]:
    opened = await PostgresSaver.opened(place.address)
    yield opened
    await opened.close()


def holding(place: Place, token: int) -> "psycopg.Connection[Any]":
    """A connection in the middle of a write of the attempt with that token."""
    connection = psycopg.connect(place.address)
    connection.execute("SELECT cronledger_fence('t', %s)", (token,))
    connection.execute(
        "INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, blob)"
        " VALUES ('t', 'c', 'task', 0, 'channel', '')"
    )
    return connection


async def test_a_takeover_waits_for_a_write_under_way(place: Place, saver: PostgresSaver) -> None:
    await saver.claim("t", 5)
    with holding(place, 5) as writing:
        claiming = asyncio.create_task(saver.claim("t", 9))
        done, _ = await asyncio.wait({claiming}, timeout=0.2)
        assert not done
        writing.commit()
        await claiming
    assert await place.count("writes") == 1


async def test_whoever_hangs_in_a_write_loses_it(place: Place, saver: PostgresSaver) -> None:
    """As a process does that was stopped in the middle of it: its connection stays open."""
    await saver.claim("t", 5)
    with holding(place, 5) as writing:
        query = "SELECT cronledger_claim(%s, %s, %s)"
        async with saver.conn.connection() as connection:
            await connection.execute(query, ("t", 9, 100))
        with pytest.raises(psycopg.OperationalError):
            writing.commit()
    assert await place.count("writes") == 0


async def test_goes_on_when_connections_are_ended(place: Place, saver: PostgresSaver) -> None:
    store = await PostgresStore.opened(place.address, {})
    try:
        await saver.claim("t", 5)
        for n in range(3):
            place.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '%\\_graphs'")
            await saver.aput(PLACE, empty_checkpoint(), {}, {})
            await store.aput(("a",), "k", {"n": n})
            assert (await store.aget(("a",), "k")).value == {"n": n}  # type: ignore[union-attr]
    finally:
        await store.close()
    assert await place.count() == 3


@pytest.fixture
def server() -> Iterator[Postgres]:
    """One that may be killed, and then still has what it said was stored."""
    made = Postgres(durable=True).start()
    yield made
    made.close()


async def test_a_database_that_is_away(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = Place(tmp_path_factory.mktemp("place"), server)
    saver = await PostgresSaver.opened(place.address)
    await saver.claim("t", 5)
    server.kill()
    with pytest.raises(CannotLoad, match=r"the database of the graphs: .*connection .*failed"):
        await PostgresSaver.opened(place.address)
    saver.patience_s = 0.3
    with pytest.raises(Unreachable, match=r"the database of the graphs does not answer: .*connection"):
        await saver.aput(PLACE, empty_checkpoint(), {}, {})
    saver.patience_s = 30
    late = asyncio.create_task(saver.aput(PLACE, empty_checkpoint(), {}, {}))
    await asyncio.sleep(0.5)
    server.start()
    async with asyncio.timeout(20):
        await late
    assert await place.count() == 1
    await saver.close()


class Heard(Outlet):
    """Takes the frames that would go to the worker."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []

    def send(self, frame: dict[str, Any], **raw: bytes) -> None:
        self.frames.append(frame)

    async def drain(self) -> None:
        return


class Counted(TypedDict, total=False):
    n: int


def count(state: Counted) -> Counted:
    return {"n": 1}


async def test_a_run_is_lost_with_its_database_and_not_failed(server: Postgres, tmp_path: Path) -> None:
    place = Place(tmp_path, server)
    saver, store = await PostgresSaver.opened(place.address), await PostgresStore.opened(place.address, {})
    saver.patience_s = 0.3
    entry, heard = (
        Entry("counting", StateGraph(Counted).add_node("count", count).add_edge(START, "count")),
        Heard(),
    )
    start = {"run_id": "r", "thread_id": "t", "graph_id": "counting", "token": 5, "input": {}}
    executor = CountingExecutor(1)
    server.kill()
    await asyncio.create_task(Run(start, entry, saver, store, executor, heard).execute())
    server.start()
    await asyncio.create_task(Run({**start, "attempt": 2}, entry, saver, store, executor, heard).execute())
    lost, ended = heard.frames[0], heard.frames[-1]
    assert (lost["status"], lost["failure"]["error"]) == ("lost", "Unreachable")
    assert "does not answer" in lost["failure"]["message"]
    assert (ended["status"], ended["failure"]) == ("success", None)
    await saver.close()
    await store.close()
    executor.shutdown()


async def test_what_a_pipeline_was_aborted_for_is_told(place: Place, saver: PostgresSaver) -> None:
    """Not as if the database were away, and not as if somebody else had the thread."""
    await saver.claim("t", 5)
    place.do("ALTER TABLE checkpoints ADD CONSTRAINT full_up CHECK (thread_id <> 't')")
    with pytest.raises(psycopg.errors.CheckViolation, match="full_up"):
        await saver.aput(PLACE, empty_checkpoint(), {}, {})
    assert await place.count("checkpoint_blobs") == 0
    place.do("ALTER TABLE checkpoints DROP CONSTRAINT full_up")
    await saver.aput(PLACE, empty_checkpoint(), {}, {})


def test_the_tables_are_those_of_this_library() -> None:
    """A newer one may have more migrations: then GRAPHS needs one more step `_library`, for databases that have done it.

    Or others: then the tables of a new database are not those of an old one.
    """
    migrations = {
        "saver": SAVER,
        "store": STORE,
        "vectors": [migration.sql for migration in VECTORS],
    }
    known = {
        name: (len(all_), sha256("".join(all_).encode()).hexdigest()[:12])
        for name, all_ in migrations.items()
    }
    assert known == {
        "saver": (10, "bddc691c5b76"),
        "store": (4, "5237603c9bc2"),
        "vectors": (3, "283813a8a42f"),
    }


def test_several_processes_make_the_schema_at_once(postgres_url: str) -> None:
    problems: list[BaseException] = []

    def migrate() -> None:
        try:
            GraphsDatabase(postgres_url).migrate(lambda _: None)
            GraphsDatabase(postgres_url).prepare({"dims": 2})
        except BaseException as exc:
            problems.append(exc)

    threads = [threading.Thread(target=migrate) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM ledger.events",
        "SELECT * FROM graphs.cronledger_login",
        "UPDATE graphs.schema_version SET version = 1",
        "CREATE TABLE graphs.mine (n integer)",
        "DROP TABLE graphs.checkpoints",
        "CREATE ROLE another",
    ],
)
def test_children_see_their_part_alone(shared_place: Place, query: str) -> None:
    with psycopg.connect(shared_place.address, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(query.encode())
        assert connection.execute("SELECT * FROM checkpoints").fetchall() == []


@pytest.fixture(scope="module")
def shared_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = place_of("postgres", tmp_path_factory.mktemp("place"), request.getfixturevalue)
    with psycopg.connect(made.url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA ledger")
        connection.execute("CREATE TABLE ledger.events (n integer)")
    return made


def test_an_owner_that_may_not_make_roles_is_told(place: Place) -> None:
    with psycopg.connect(place.url, autocommit=True) as connection:
        name = connection.info.dbname
        for role in ("owner", "children"):
            connection.execute(f"CREATE ROLE {role}_{name} LOGIN".encode())
        connection.execute("DROP SCHEMA graphs CASCADE")
        connection.execute(f"GRANT CREATE ON DATABASE {name} TO owner_{name}".encode())
    mine, theirs = (place.url.replace("postgres@", f"{role}_{name}@") for role in ("owner", "children"))
    with pytest.raises(DatabaseProblem, match="CRONLEDGER_GRAPHS_URL"):
        GraphsDatabase(mine).migrate(lambda _: None)
    database = GraphsDatabase(mine, theirs)
    database.migrate(lambda _: None)
    with psycopg.connect(database.prepare(None), autocommit=True) as connection:
        assert connection.info.user == f"children_{name}"
        assert connection.execute("SELECT * FROM checkpoints").fetchall() == []
    with psycopg.connect(place.url, autocommit=True) as connection:
        connection.execute(f"REVOKE CREATE ON DATABASE {name} FROM owner_{name}".encode())
    with pytest.raises(DatabaseProblem, match="CREATE EXTENSION vector"):
        database.prepare({"dims": 2})


def test_vectors_of_another_size_are_refused(place: Place) -> None:
    place.database.prepare({"dims": 2, "ann_index_config": {"kind": "flat"}})
    with pytest.raises(DatabaseProblem, match=r"store\.index\.dims is 3"):
        place.database.prepare({"dims": 3})


async def test_a_store_without_its_schema_is_told(postgres_url: str) -> None:
    with pytest.raises(CannotLoad, match="cronledger migrate"):
        await PostgresStore.opened(postgres_url, {})
    with pytest.raises(CannotLoad, match="cronledger migrate"):
        await PostgresSaver.opened(postgres_url)
    with pytest.raises(DatabaseProblem, match="cronledger migrate"):
        GraphsDatabase(postgres_url).prepare(None)


async def test_plain_values_that_jsonb_refuses_are_kept_all_the_same(saver: PostgresSaver) -> None:
    values = {"nul": "a\0b", "infinite": float("-inf"), "plain": "a", "list": ["\0"]}
    checkpoint = {
        **empty_checkpoint(),
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, "1"),
    }
    await saver.aput(PLACE, checkpoint, {}, dict.fromkeys(values, "1"))
    found = await saver.aget_tuple(PLACE)
    assert found.checkpoint["channel_values"] == values


async def test_one_bad_value_spoils_nobody_elses(place: Place) -> None:
    store = await PostgresStore.opened(place.address, {})
    try:
        puts = [
            store.aput(("a",), str(n), {"n": [value]}) for n, value in enumerate(["x", "\0", float("nan"), 1])
        ]
        ended = await asyncio.gather(*puts, return_exceptions=True)
        assert [str(one) for one in ended if one is not None] == [
            "value: has the character NUL (\\u0000), which PostgreSQL can't hold",
            "value: nan is no JSON",
        ]
        assert [item.key for item in await store.asearch(("a",))] in (["0", "3"], ["3", "0"])
    finally:
        await store.close()


def ledger_up_to(place: Place, head: int) -> None:
    """A ledger beside the graphs with so many events, whatever it had before."""
    migrate(place.url, [LEDGER], lambda _: None)
    place.do("TRUNCATE ledger.stored_events")
    events = f"SELECT n, gen_random_uuid(), 1, 'x', '' FROM generate_series(1, {head}) AS n"
    place.do(f"INSERT INTO ledger.stored_events {events}")


async def test_a_claim_that_an_older_ledger_has_lost_is_nobodys(place: Place, saver: PostgresSaver) -> None:
    ledger_up_to(place, 51)
    for thread_id, token in (("t", 50), ("gone", 50), ("u", 10)):
        await saver.claim(thread_id, token)
    ledger_up_to(place, 12)
    with pytest.raises(Fenced):
        await saver.claim("u", 9)  # what the ledger has still is somebody's
    await saver.claim("t", 11)
    for thread_id in ("t", "new"):
        with pytest.raises(Fenced):
            await saver.claim(thread_id, 50)  # a worker of the time that is lost
    await saver.forget("gone", 12, fence=False)
    await saver.forget("t", 50, fence=False)
    assert place.rows("SELECT thread_id, token FROM cronledger_claims ORDER BY 1") == [("t", 11), ("u", 10)]


async def test_the_newest_claims_of_a_ledger_are_somebodys(place: Place, saver: PostgresSaver) -> None:
    """Those at its head, and of what is undone there: with one more than its run."""
    ledger_up_to(place, 12)
    await saver.claim("t", 12)
    with pytest.raises(Fenced):
        await saver.claim("t", 11)
    await saver.rollback("t", "run", 13)
    with pytest.raises(Fenced):
        await saver.claim("t", 12)
    await saver.forget("t", 12, fence=False)
    assert await place.count("cronledger_claims") == 1


async def test_attempts_race_for_a_claim_that_is_lost(place: Place, saver: PostgresSaver) -> None:
    """In whatever order they come, the latest of them that the ledger knows has the thread in the end."""
    ledger_up_to(place, 100)
    await saver.claim("t", 90)
    ledger_up_to(place, 39)
    known, lost = range(20, 40), range(80, 90)
    claims = (saver.claim("t", token) for token in (*known, *lost))
    ended = await asyncio.gather(*claims, return_exceptions=True)
    assert {type(one) for one in ended if one is not None} <= {Fenced}
    assert all(isinstance(one, Fenced) for one in ended[len(known) :])
    assert place.rows("SELECT token FROM cronledger_claims") == [(39,)]


async def test_blobs_come_along_and_go(place: Place, saver: PostgresSaver) -> None:
    async def put(run_id: str, version: str, thread_id: str = "t") -> None:
        RUN.set(run_id)
        where = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        made = {**empty_checkpoint(), "channel_values": {"c": [version]}, "channel_versions": {"c": version}}
        await saver.aput(where, made, {"thread_id": thread_id}, {"c": version})

    for run_id, version in (("first", "1"), ("second", "1"), ("second", "2")):
        await asyncio.create_task(put(run_id, version))
    await saver.copy("t", "copied")
    await saver.rollback("t", "second", 9)
    versions = "SELECT thread_id, version FROM checkpoint_blobs ORDER BY 1, 2"
    assert place.rows(versions) == [("copied", "1"), ("copied", "2"), ("t", "1")]
    copied = await saver.aget_tuple({"configurable": {"thread_id": "copied", "checkpoint_ns": ""}})
    assert (copied.checkpoint["channel_values"], copied.metadata["thread_id"]) == ({"c": ["2"]}, "copied")
    await saver.forget("copied", 9, fence=False)
    await saver.forget("t", 9, fence=False)
    assert place.rows(versions) == []


SPYING = """
    import os
    from typing import TypedDict

    from langgraph.graph import START, StateGraph


    class State(TypedDict, total=False):
        seen: list


    def look(state): return {"seen": sorted(name for name in os.environ if name.startswith(("CRON", "PG")))}


    builder = StateGraph(State)
    builder.add_node("look", look)
    builder.add_edge(START, "look")
    spying = builder.compile()
"""


async def test_graphs_are_not_given_what_opens_the_ledger(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CRONLEDGER_DATABASE_URL", "CRONLEDGER_GRAPHS_URL", "CRONLEDGER_NATS_URL", "PGPASSWORD"):
        monkeypatch.setenv(name, place.url)
    monkeypatch.setenv("CRONLEDGER_LOG_LEVEL", "info")
    async with bench_of(tmp_path, SPYING, ["spying"], place.settings) as bench:
        ended = await bench.run(await bench.pool(), "spying", input={})
    assert values(ended)["seen"] == ["CRONLEDGER_LOG_LEVEL"]
