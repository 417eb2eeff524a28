"""A run rolled back leaves its thread as if it had never been; so does a second attempt that starts again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from contracts.queries import Forget, Rollback, State
from services.worker.children import ChildPool
from services.worker.graph_child import ChildDied
from tests.services.graph_children import Bench, ask, bench_of, values
from tests.services.graphs_places import DATABASES, Place, place_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
GRAPHS = """
    import asyncio, operator, os
    from typing import Annotated, TypedDict

    from langgraph.config import get_stream_writer
    from langgraph.graph import START, StateGraph
    from langgraph.types import interrupt


    class State(TypedDict, total=False):
        trail: Annotated[list, operator.add]


    def of(*nodes):
        builder = StateGraph(State)
        builder.add_sequence(nodes)
        builder.add_edge(START, nodes[0][0])
        return builder


    async def maybe_wait():
        get_stream_writer()("waiting")
        while not os.path.exists(os.environ["GO"]):
            await asyncio.sleep(0.01)


    def add(name): return lambda state: {"trail": [name]}


    async def wait(state):
        await maybe_wait()
        return {"trail": ["waited"]}


    async def ask(state):
        first = interrupt("first")
        if first != "fast":
            await maybe_wait()
        return {"trail": [first, interrupt("second")]}


    async def more(state):
        if "slow" in state["trail"]:
            await maybe_wait()
        return {"trail": ["more"]}


    waiting = of(("a", add("a")), ("wait", wait)).compile()
    asking = of(("a", add("a")), ("ask", ask), ("more", more)).compile()
    quick = of(("a", add("a")), ("b", add("b"))).compile()

    def once(state): return {"trail": [interrupt("inner")]}
    inner = of(("x", add("x")), ("once", once), ("wait", wait)).compile()
    outer = of(("o", add("o")), ("inner", inner)).compile()
    kept = of(("o", add("o")), ("inner", of(("once", once), ("wait", wait)).compile(checkpointer=True))).compile()
"""
NAMES = ["waiting", "asking", "quick", "outer", "kept"]


@pytest.fixture(scope="module", params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place_of(request.param, tmp_path_factory.mktemp("project"), request.getfixturevalue)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(place: Place) -> AsyncIterator[tuple[Bench, ChildPool]]:
    async with bench_of(place.folder, GRAPHS, NAMES, place.settings) as bench:
        yield bench, await bench.pool()


@pytest_asyncio.fixture(loop_scope="module")
async def bench(shared: tuple[Bench, ChildPool], place: Place) -> AsyncIterator[Bench]:
    """The bench of all tests here, each of which begins without checkpoints; a child that one kills is replaced."""
    bench, pool = shared
    assert (rows(place), aside(place)) == (nothing(place), set())
    yield bench
    await ask(pool, Forget(thread_id="t", token=1 << 40))
    bench.go.unlink(missing_ok=True)


@pytest.fixture
def pool(shared: tuple[Bench, ChildPool], bench: Bench) -> ChildPool:
    return shared[1]


def rows(place: Place) -> tuple[list[Any], ...]:
    """All checkpoints, all writes and what else there is of them, as they are stored."""
    others = [place.rows("SELECT * FROM checkpoint_blobs ORDER BY 1, 2, 3, 4")] if place.url else []
    checkpoints = place.rows("SELECT * FROM checkpoints ORDER BY 1, 2, 3")
    return checkpoints, place.rows("SELECT * FROM writes ORDER BY 1, 2, 3, 4, 5"), *others


def nothing(place: Place) -> tuple[list[Any], ...]:
    """Where no thread is."""
    return ([], [], []) if place.url else ([], [])


def aside(place: Place) -> set[str]:
    """The runs for which rows are kept aside."""
    tables = ("cronledger_touched", "cronledger_kept")
    return {run_id for table in tables for (run_id,) in place.rows(f"SELECT run_id FROM {table}")}


async def cancelled_midway(bench: Bench, pool: ChildPool, graph: str, **fields: Any) -> None:
    """Run until the graph waits, and cancel."""
    bench.events.clear()
    running = asyncio.create_task(
        bench.run(pool, graph, thread_id="t", stream_modes=["custom"], stream_subgraphs=True, **fields)
    )
    await bench.until(lambda event: event.event.startswith("custom"))
    pool.cancel(fields["run_id"])
    assert (await running).status == "cancelled"


async def rolled_back(pool: ChildPool, run_id: str) -> None:
    for _ in range(2):
        await ask(pool, Rollback(thread_id="t", run_id=run_id))


async def resumed(bench: Bench, pool: ChildPool, graph: str, answer: Any, **fields: Any) -> Any:
    fields = {"run_id": str(answer), **fields}
    return await bench.run(
        pool, graph, thread_id="t", command={"resume": answer}, durability="sync", **fields
    )


async def test_a_first_run_leaves_nothing(bench: Bench, pool: ChildPool, place: Place) -> None:
    await cancelled_midway(bench, pool, "waiting", run_id="r")
    assert rows(place)[0]
    await rolled_back(pool, "r")
    assert rows(place) == nothing(place)


async def test_a_later_run_leaves_what_was_before(bench: Bench, pool: ChildPool, place: Place) -> None:
    await bench.run(pool, "quick", thread_id="t", run_id="before")
    before = rows(place)
    await cancelled_midway(bench, pool, "waiting", run_id="r", config={"metadata": {"run_id": "before"}})
    await rolled_back(pool, "r")
    assert rows(place) == before
    ended = await bench.run(pool, "quick", thread_id="t", run_id="after")
    assert values(ended)["trail"] == ["a", "b", "a", "b"]


async def test_an_answered_interrupt_waits_again(bench: Bench, pool: ChildPool, place: Place) -> None:
    await bench.run(pool, "asking", thread_id="t", run_id="ask")
    before, state = rows(place), await ask(pool, State(graph_id="asking", thread_id="t"))
    await cancelled_midway(bench, pool, "asking", run_id="r", command={"resume": "lost"})
    assert rows(place) != before
    await rolled_back(pool, "r")
    assert rows(place) == before
    assert await ask(pool, State(graph_id="asking", thread_id="t")) == state
    assert aside(place) == set()
    paused = await resumed(bench, pool, "asking", "fast")
    [[pause]] = paused.interrupts.values()
    assert pause["value"] == "second"
    ended = await resumed(bench, pool, "asking", "two")
    assert values(ended)["trail"] == ["a", "fast", "two", "more"]


async def test_a_run_that_added_an_answer_to_an_answer(bench: Bench, pool: ChildPool, place: Place) -> None:
    """The second answer is added to the row that holds the first: the row must come back as it was."""
    await bench.run(pool, "asking", thread_id="t", run_id="ask")
    await resumed(bench, pool, "asking", "fast")
    before = rows(place)
    await cancelled_midway(bench, pool, "asking", run_id="r", command={"resume": "slow"})
    await rolled_back(pool, "r")
    assert rows(place) == before
    assert values(await resumed(bench, pool, "asking", "two"))["trail"] == ["a", "fast", "two", "more"]


@pytest.mark.parametrize(("graph", "trail"), [("outer", ["o", "o", "x"]), ("kept", ["o", "o"])])
async def test_an_interrupt_inside_waits_again(
    bench: Bench, pool: ChildPool, place: Place, graph: str, trail: list[str]
) -> None:
    await bench.run(pool, graph, thread_id="t", run_id="ask")
    before = rows(place)
    await cancelled_midway(bench, pool, graph, run_id="r", command={"resume": "lost"})
    await rolled_back(pool, "r")
    assert rows(place) == before
    bench.go.touch()
    ended = await resumed(bench, pool, graph, "kept")
    assert values(ended)["trail"] == [*trail[:1], *trail[1:], "kept", "waited"]


async def test_a_fork_leaves_its_origin_as_it_was(bench: Bench, pool: ChildPool, place: Place) -> None:
    first = await bench.run(pool, "asking", thread_id="t", run_id="ask")
    assert first.checkpoint is not None
    await resumed(bench, pool, "asking", "fast")
    await resumed(bench, pool, "asking", "two")
    before = rows(place)
    fork = {"configurable": {"checkpoint_id": first.checkpoint["checkpoint_id"]}}
    await resumed(bench, pool, "asking", "r", config=fork)
    assert rows(place) != before
    await rolled_back(pool, "r")
    assert rows(place) == before


async def test_what_was_kept_goes_when_the_next_run_begins(
    bench: Bench, pool: ChildPool, place: Place
) -> None:
    await bench.run(pool, "asking", thread_id="t", run_id="ask")
    await resumed(bench, pool, "asking", "fast")
    assert aside(place) == {"fast"}
    await bench.run(pool, "quick", thread_id="t", run_id="next")
    assert aside(place) == set()
    await ask(pool, Forget(thread_id="t", token=1 << 40))
    assert (rows(place), aside(place)) == (nothing(place), set())


async def killed_midway(bench: Bench, pool: ChildPool, graph: str, **fields: Any) -> None:
    bench.events.clear()
    running = asyncio.create_task(
        bench.run(pool, graph, thread_id="t", stream_modes=["custom"], durability="sync", **fields)
    )
    await bench.until(lambda event: event.event == "custom")
    pool.kill_run(fields["run_id"])
    with pytest.raises(ChildDied):
        await running


async def test_a_second_attempt_answers_each_interrupt_once(bench: Bench, pool: ChildPool) -> None:
    await bench.run(pool, "asking", thread_id="t", run_id="ask")
    await killed_midway(bench, pool, "asking", run_id="r", command={"resume": "one"})
    bench.go.touch()
    paused = await resumed(bench, pool, "asking", "one", run_id="r", attempt=2)
    [[pause]] = paused.interrupts.values()
    assert pause["value"] == "second"
    ended = await resumed(bench, pool, "asking", "two")
    assert values(ended)["trail"] == ["a", "one", "two", "more"]


async def test_rolled_back_after_a_second_attempt(bench: Bench, pool: ChildPool, place: Place) -> None:
    await bench.run(pool, "asking", thread_id="t", run_id="ask")
    before = rows(place)
    await killed_midway(bench, pool, "asking", run_id="r", command={"resume": "one"})
    await cancelled_midway(bench, pool, "asking", run_id="r", command={"resume": "one"}, attempt=2)
    await rolled_back(pool, "r")
    assert rows(place) == before


async def test_a_second_attempt_of_a_fork_goes_on_from_its_own_step(bench: Bench, pool: ChildPool) -> None:
    first = await bench.run(pool, "quick", thread_id="t", run_id="first")
    await bench.run(pool, "quick", thread_id="t", run_id="second")
    assert first.checkpoint is not None
    fork = {"configurable": {"checkpoint_id": first.checkpoint["checkpoint_id"]}}
    await killed_midway(bench, pool, "waiting", run_id="r", config=fork)
    bench.go.touch()
    ended = await bench.run(pool, "waiting", thread_id="t", run_id="r", config=fork, attempt=2)
    assert values(ended)["trail"] == ["a", "b", "a", "waited"]
