"""The long-term memory that nodes and `/store` share."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from langgraph.store.base import GetOp, PutOp

from contracts.queries import StoreDelete, StoreGet, StoreNamespaces, StorePut, StoreSearch
from services.worker.child.store.sqlite import SqliteStore as Store
from services.worker.children import ChildPool
from services.worker.graph_child import GraphLoadFailed, NoAnswer
from tests.services.graph_children import Bench, ask, bench_of, values
from tests.services.graphs_places import DATABASES, Place, place_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
GRAPHS = """
    from typing import Any, TypedDict

    from langchain_core.embeddings import Embeddings
    from langgraph.config import get_store
    from langgraph.graph import START, StateGraph
    from langgraph.runtime import Runtime


    class State(TypedDict, total=False):
        seen: Any


    async def notes(state, runtime: Runtime):
        item = await runtime.store.aget(("notes",), "a")
        await runtime.store.aput(("notes",), "b", {"by": "node"})
        return {"seen": item and item.value}


    def in_a_thread(state):
        get_store().put(("notes",), "sync", {"by": "thread"})
        return {"seen": get_store().get(("notes",), "sync").value}


    def of(node):
        builder = StateGraph(State)
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        return builder.compile()


    noting, threaded = of(notes), of(in_a_thread)


    def vector(text): return [float(text.count("a")), float(text.count("b"))]
    def embed(texts): return [vector(text) for text in texts]
    async def aembed(texts): return embed(texts)


    class Ours(Embeddings):
        def embed_documents(self, texts): return embed(texts)
        def embed_query(self, text): return vector(text)


    ours = Ours()
"""
INDEX = {"dims": 2, "fields": ["text"]}


NAMES = ["noting", "threaded"]


@pytest.fixture(scope="module", params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place_of(request.param, tmp_path_factory.mktemp("project"), request.getfixturevalue)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(place: Place) -> AsyncIterator[tuple[Bench, ChildPool]]:
    async with bench_of(place.folder, GRAPHS, NAMES, place.settings) as bench:
        yield bench, await bench.pool()


@pytest.fixture
def pool(shared: tuple[Bench, ChildPool], place: Place) -> Iterator[ChildPool]:
    """A store of the default settings, empty when a test begins."""
    yield shared[1]
    place.do("DELETE FROM store", "store.db")


@pytest_asyncio.fixture(loop_scope="module")
async def bench(place: Place, tmp_path: Path) -> AsyncIterator[Bench]:
    """For stores of other settings; in a database it is the same one, empty."""
    async with bench_of(tmp_path, GRAPHS, NAMES, place.settings) as bench:
        yield bench
    if place.url:
        place.do("DELETE FROM store")


@pytest_asyncio.fixture(loop_scope="module")
async def on_file(tmp_path: Path) -> AsyncIterator[Bench]:
    """For what no database has to do with."""
    async with bench_of(tmp_path, GRAPHS, NAMES) as bench:
        yield bench


async def put(pool: ChildPool, key: str, value: dict[str, Any], *namespace: str, **fields: Any) -> None:
    query = StorePut(namespace=list(namespace or ("notes",)), key=key, value=value, **fields)
    assert await ask(pool, query) is None


async def get(pool: ChildPool, key: str) -> Any:
    return await ask(pool, StoreGet(namespace=["notes"], key=key))


async def test_items_come_and_go(pool: ChildPool) -> None:
    assert await get(pool, "a") is None
    await put(pool, "a", {"n": 1})
    item = await get(pool, "a")
    assert set(item) == {"namespace", "key", "value", "created_at", "updated_at"}
    assert (item["namespace"], item["key"], item["value"]) == (["notes"], "a", {"n": 1})
    assert item["created_at"].endswith("+00:00")
    for _ in range(2):
        assert await ask(pool, StoreDelete(namespace=["notes"], key="a")) is None
    assert await get(pool, "a") is None


async def test_nodes_have_the_same_store(shared: tuple[Bench, ChildPool], pool: ChildPool) -> None:
    await put(pool, "a", {"n": 1})
    assert values(await shared[0].run(pool, "noting", input={}))["seen"] == {"n": 1}
    assert (await get(pool, "b"))["value"] == {"by": "node"}
    assert values(await shared[0].run(pool, "threaded", input={}))["seen"] == {"by": "thread"}


async def test_search_and_namespaces(pool: ChildPool) -> None:
    for n in range(3):
        await put(pool, f"k{n}", {"n": n, "kind": "odd" if n % 2 else "even"}, "a", f"b{n}", "c")
    found = await ask(pool, StoreSearch(namespace_prefix=["a"], filter={"kind": "even"}))
    assert sorted(item["key"] for item in found) == ["k0", "k2"]
    assert found[0]["score"] is None
    found = await ask(pool, StoreSearch(namespace_prefix=["a"], filter={"n": {"$gte": 1}}, limit=1, offset=1))
    assert len(found) == 1
    assert await ask(pool, StoreSearch(namespace_prefix=["x"])) == []
    assert await ask(pool, StoreNamespaces(prefix=["a"])) == [["a", f"b{n}", "c"] for n in range(3)]
    assert await ask(pool, StoreNamespaces(max_depth=1)) == [["a"]]
    assert await ask(pool, StoreNamespaces(suffix=["b1", "*"])) == [["a", "b1", "c"]]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (StoreSearch(namespace_prefix=["a"], query="near"), "unsupported"),
        (StoreSearch(namespace_prefix=["a"], filter={"n": {"$near": 1}}), "invalid"),
        (StorePut(namespace=[], key="k", value={}), "invalid"),
        (StorePut(namespace=["a.b"], key="k", value={}), "invalid"),
    ],
)
async def test_questions_that_get_no_answer(pool: ChildPool, query: Any, code: str) -> None:
    with pytest.raises(NoAnswer) as refused:
        await ask(pool, query)
    assert refused.value.failed.code == code


async def test_search_by_nearness(bench: Bench) -> None:
    await nearest(bench, "./graphs.py:embed")


@pytest.mark.parametrize("name", ["graphs:aembed", "graphs.py:ours"])
async def test_embeddings_of_other_kinds(on_file: Bench, name: str) -> None:
    await nearest(on_file, name)


async def nearest(bench: Bench, name: str) -> None:
    pool = await bench.pool(1, {"index": {**INDEX, "embed": name}})
    await put(pool, "a", {"text": "aaaa", "other": "bbbb"})
    await put(pool, "b", {"text": "bbbb"})
    await put(pool, "c", {"text": "aaaa"}, index=False)
    found = await ask(pool, StoreSearch(namespace_prefix=["notes"], query="aaa"))
    assert [item["key"] for item in found][:2] == ["a", "b"]
    assert found[0]["score"] > found[1]["score"]


@pytest.mark.parametrize(
    ("store", "word"),
    [
        ({"index": {"dims": 2, "embed": "graphs.py:nothing"}}, "nothing"),
        ({"index": {"dims": 2, "embed": "nowhere.py:embed"}}, "is not there"),
        ({"index": {"dims": 2, "embed": "openai:text-embedding-3-small"}}, "langchain"),
        ({"index": {"dims": 0, "embed": "graphs.py:embed"}}, "dims"),
        ({"index": {"dims": 2, "embed": "embed"}}, "embed"),
        ({"ttl": {"minutes": 3}}, "minutes"),
    ],
)
async def test_settings_that_can_not_be_used_are_told(
    on_file: Bench, store: dict[str, Any], word: str
) -> None:
    with pytest.raises(GraphLoadFailed, match=word):
        await on_file.pool(1, store)


def on_files(bench: Bench) -> list[Any]:
    with contextlib.closing(sqlite3.connect(bench.folder / "store.db")) as database:
        return database.execute("SELECT key, ttl_minutes FROM store").fetchall()


async def test_items_expire(bench: Bench, place: Place) -> None:
    pool = await bench.pool(1, {"ttl": {"default_ttl": 60, "sweep_interval_minutes": 0.002}})
    await put(pool, "kept", {})
    await put(pool, "gone", {}, ttl=0.001)
    async with asyncio.timeout(10):
        gone = StoreGet(namespace=["notes"], key="gone", refresh_ttl=False)
        while await ask(pool, gone):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    rows = place.rows("SELECT key, ttl_minutes FROM store") if place.url else on_files(bench)
    assert rows == [("kept", 60)]


async def test_children_share_the_file(bench: Bench) -> None:
    one, other = await asyncio.gather(bench.pool(), bench.pool())
    writes = [
        put(pool, f"{name}{n}", {"n": n}) for n in range(40) for name, pool in (("x", one), ("y", other))
    ]
    reads = [ask(pool, StoreSearch(namespace_prefix=["notes"])) for _ in range(20) for pool in (one, other)]
    await asyncio.gather(*writes, *reads)
    for pool in (one, other):
        assert len(await ask(pool, StoreSearch(namespace_prefix=["notes"], limit=100))) == 80


async def test_whoever_blocks_the_loop_holds_no_lock(tmp_path: Path) -> None:
    """Wherever in a write a node takes the loop for itself, other processes go on."""
    path = tmp_path / "alone.db"
    store = await Store.opened({"path": str(path)})
    try:
        for steps in range(16):
            writing = asyncio.create_task(store.abatch([PutOp(("a",), "k", {"n": steps})]))
            for _ in range(steps):
                await asyncio.sleep(0)
            time.sleep(0.02)  # noqa: ASYNC251 - the node: what the connection's thread has begun goes on meanwhile
            with contextlib.closing(sqlite3.connect(path, timeout=1)) as other:
                other.execute("BEGIN IMMEDIATE")
                other.rollback()
            await writing
        [item] = await store.abatch([GetOp(("a",), "k")])
        assert item.value == {"n": 15}  # type: ignore[union-attr]
    finally:
        await store.conn.close()
