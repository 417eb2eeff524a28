"""Real graph children with real graphs: loading, running, cancelling, dying."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from contracts.queries import Forget, Schemas, State
from services.worker.children import ChildPool
from services.worker.graph_child import ChildDied, GraphLoadFailed, NoAnswer
from tests.services.graph_children import Bench, ask, bench_of, values

pytestmark = pytest.mark.asyncio(loop_scope="module")
GRAPHS = """
    import asyncio, contextlib, operator, os, sys, time
    from pathlib import Path
    from typing import Annotated, Any, TypedDict
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig
    from langgraph.config import get_stream_writer
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import interrupt
    from langgraph_sdk.runtime import ServerRuntime
    import services.llm
    from domain import words

    class State(TypedDict, total=False):
        trail: Annotated[list, operator.add]
        value: Any

    def built(**nodes):
        builder = StateGraph(State)
        previous = START
        for name, node in nodes.items():
            builder.add_node(name, node)
            builder.add_edge(previous, name)
            previous = name
        builder.add_edge(previous, END)
        return builder

    def hello(state):
        print("noise on standard output")
        return {"trail": [services.llm.NAME, words.WORD], "value": AIMessage("hi")}

    def boom(state): raise KeyError("k")
    def secret(state): raise OSError("password")
    def ask(state): return {"value": interrupt({"question": 1})}
    def block(state): time.sleep(60)
    async def hog(state): time.sleep(60)
    async def slow(state): await asyncio.sleep(60)
    def big(state): return {"value": "x" * 5_000_000}

    def first(state):
        with open(os.environ["TRAIL"], "a") as file: file.write("first ")
        return {"trail": ["first"]}

    def second(state):
        with open(os.environ["TRAIL"], "a") as file: file.write("second ")
        if not os.path.exists(os.environ["GO"]):
            time.sleep(60)
        return {"trail": ["second"]}

    hello_graph = built(hello=hello)
    failing = built(boom=boom).compile()
    hiding = built(secret=secret).compile()
    asking = built(ask=ask, done=lambda s: {"trail": ["done"]}).compile()
    blocking = built(block=block).compile()
    hogging = built(hog=hog).compile()
    async def heard(state):
        get_stream_writer()("begun")
        await asyncio.sleep(60)
    async def gives_up(state): raise asyncio.CancelledError("by itself")
    def leave(how):
        if how == "exit": sys.exit(3)
        if how == "ctrl-c": raise KeyboardInterrupt
        if how == "generator": raise GeneratorExit
        if how == "stop": raise StopIteration
    async def leave_async(state): leave(state["value"])
    leaving = built(leave=lambda state: leave(state["value"])).compile()
    leaving_async = built(leave=leave_async).compile()
    def leaving_factory(config):
        if "how" in config.get("configurable", {}): leave(config["configurable"]["how"])
        return marked("stayed")
    async def dally(state):
        if not os.path.exists(os.environ["GO"]):
            get_stream_writer()("begun")
            while not os.path.exists(os.environ["TRAIL"]): await asyncio.sleep(0.01)
        return {"trail": ["dallied"]}
    dallying = built(dally=dally).compile()
    slow_graph = built(slow=slow).compile()
    waiting = built(heard=heard).compile()
    resigning = built(gives_up=gives_up).compile()
    large = built(big=big).compile()
    resuming = built(first=first, second=second).compile()

    def marked(*marks): return built(mark=lambda s: {"trail": list(marks)}).compile()
    def plain(): return marked("plain")
    def of_config(config): return marked("config", config["configurable"]["k"])
    def of_runtime(runtime: ServerRuntime):
        assert runtime.store is not None and runtime.user is None
        with open(os.environ["TRAIL"], "a") as file: file.write(runtime.access_context + "\\n")
        return marked("runtime", runtime.access_context)
    def of_both(config: RunnableConfig, runtime: ServerRuntime): return marked("both", config["configurable"]["k"])
    async def awaited(): return marked("awaited")
    async def dawdling():
        Path(os.environ["TRAIL"]).touch()
        while not os.path.exists(os.environ["GO"]): await asyncio.sleep(0.01)
        return marked("dawdling")

    @contextlib.asynccontextmanager
    async def managed(config):
        yield marked("managed")
        Path(os.environ["TRAIL"]).write_text("left")
"""
NAMES = [
    "hello_graph",
    "failing",
    "hiding",
    "asking",
    "blocking",
    "hogging",
    "leaving",
    "leaving_async",
    "leaving_factory",
    "dallying",
    "slow_graph",
    "waiting",
    "resigning",
    "large",
    "resuming",
    "plain",
    "of_config",
    "of_runtime",
    "of_both",
    "awaited",
    "managed",
    "dawdling",
]


def put_modules(folder: Path) -> None:
    """Folders of the user's that are named like ours: one a package, one not."""
    (folder / "services").mkdir()
    (folder / "services" / "__init__.py").touch()
    (folder / "services" / "llm.py").write_text("NAME = 'theirs'\n")
    (folder / "domain").mkdir()
    (folder / "domain" / "words.py").write_text("WORD = 'theirs too'\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Bench, ChildPool]]:
    folder = tmp_path_factory.mktemp("project")
    put_modules(folder)
    async with bench_of(folder, GRAPHS, NAMES) as bench:
        yield bench, await bench.pool()


@pytest_asyncio.fixture(loop_scope="module")
async def bench(shared: tuple[Bench, ChildPool]) -> AsyncIterator[Bench]:
    """The bench of all tests that kill no child, each of which begins without events, threads and files."""
    bench, pool = shared
    [pid] = pool.pids
    yield bench
    assert pool.pids == [pid]
    for thread_id in {*NAMES, *(f"t{n}" for n in range(20))}:
        await ask(pool, Forget(thread_id=thread_id, token=1 << 40))
    bench.events.clear()
    bench.trail.unlink(missing_ok=True)
    bench.go.unlink(missing_ok=True)


@pytest.fixture
def pool(shared: tuple[Bench, ChildPool], bench: Bench) -> ChildPool:
    return shared[1]


@pytest_asyncio.fixture(loop_scope="module")
async def trail(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench of one test, whose children may die."""
    put_modules(tmp_path)
    async with bench_of(tmp_path, GRAPHS, NAMES) as bench:
        yield bench


async def test_users_modules_win_over_ours_and_messages_are_flat(bench: Bench, pool: ChildPool) -> None:
    ended = await bench.run(pool, "hello_graph", stream_modes=["values", "updates"])
    assert ended.status == "success"
    found = values(ended)
    assert found["trail"] == ["theirs", "theirs too"]
    assert (found["value"]["type"], found["value"]["content"]) == ("ai", "hi")
    assert [e.seq for e in bench.events] == list(range(1, len(bench.events) + 1))
    assert {e.event for e in bench.events} == {"values", "updates"}


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ("plain", ["plain"]),
        ("of_config", ["config", "v"]),
        ("of_runtime", ["runtime", "threads.create_run"]),
        ("of_both", ["both", "v"]),
        ("awaited", ["awaited"]),
        ("managed", ["managed"]),
    ],
)
async def test_factories(bench: Bench, pool: ChildPool, graph: str, expected: list[str]) -> None:
    ended = await bench.run(pool, graph, config={"configurable": {"k": "v"}})
    assert ended.failure is None
    assert values(ended)["trail"] == expected
    assert bench.trail.exists() == (graph in ("managed", "of_runtime"))


async def test_failures_are_shown_with_care(bench: Bench, pool: ChildPool) -> None:
    failed = await bench.run(pool, "failing")
    assert failed.failure is not None
    assert (failed.status, failed.failure.error, failed.failure.message) == ("error", "KeyError", "k")
    hidden = await bench.run(pool, "hiding")
    assert hidden.failure is not None
    assert (hidden.failure.error, hidden.failure.message) == ("OSError", "An internal error occurred")


async def test_interrupt_pauses_and_is_told(bench: Bench, pool: ChildPool) -> None:
    ended = await bench.run(pool, "asking")
    assert (ended.status, ended.next) == ("success", ["ask"])
    [[pause]] = ended.interrupts.values()
    assert pause["value"] == {"question": 1}
    assert ended.checkpoint is not None


async def test_large_values_and_many_at_once(bench: Bench, pool: ChildPool) -> None:
    assert len(values(await bench.run(pool, "large"))["value"]) == 5_000_000
    runs = [bench.run(pool, "hello_graph", run_id=f"r{n}", thread_id=f"t{n}") for n in range(20)]
    assert {ended.status for ended in await asyncio.gather(*runs)} == {"success"}


async def test_waiting_node_is_cancelled(bench: Bench, pool: ChildPool) -> None:
    running = asyncio.create_task(bench.run(pool, "waiting", stream_modes=["custom"]))
    await bench.until(lambda event: event.event == "custom")
    pool.cancel("waiting")
    assert (await running).status == "cancelled"


async def test_a_cancellation_that_nobody_asked_for_is_an_error(bench: Bench, pool: ChildPool) -> None:
    ended = await bench.run(pool, "resigning")
    assert ended.failure is not None
    assert (ended.status, ended.failure.error) == ("error", "NodeCancelledError")


async def test_other_runs_of_a_killed_child_are_excused(trail: Bench) -> None:
    pool = await trail.pool()
    guilty = asyncio.create_task(trail.run(pool, "waiting", run_id="a", stream_modes=["custom"]))
    other = asyncio.create_task(
        trail.run(pool, "waiting", run_id="b", thread_id="b", stream_modes=["custom"])
    )
    for run_id in ("a", "b"):
        await trail.until(lambda event, run_id=run_id: event.run_id == run_id)  # type: ignore[misc]
    pool.kill_run("a")
    for run in (guilty, other):
        with pytest.raises(ChildDied, match="run a did not stop") as died:
            await run
        assert not died.value.loss.counts


async def test_a_later_attempt_fences_an_earlier_one(trail: Bench) -> None:
    """As after a lease that ended: another worker has the run, and this one does not know it yet."""
    late, pool = await trail.pool(), await trail.pool()
    first = {"token": 5, "stream_modes": ["custom"], "durability": "sync"}
    running = asyncio.create_task(trail.run(late, "dallying", **first))
    await trail.until(lambda event: event.event == "custom")
    trail.go.touch()
    ended = await trail.run(pool, "dallying", attempt=2, token=9, stream_modes=["values"])
    assert values(ended)["trail"] == ["dallied"]
    trail.trail.touch()
    with pytest.raises(ChildDied, match="later attempt") as died:
        await running
    assert not died.value.loss.counts
    with pytest.raises(ChildDied, match="later attempt"):
        await trail.run(late, "dallying", attempt=2, token=8)
    state = await ask(pool, State(graph_id="dallying", thread_id="dallying"))
    assert state["checkpoint"] == ended.checkpoint


@pytest.mark.parametrize(
    ("how", "errors"),
    [
        ("exit", {"SystemExit"}),
        ("ctrl-c", {"KeyboardInterrupt"}),
        ("generator", {"GeneratorExit", "RuntimeError"}),  # Python has its own word for it on the way
        ("stop", {"RuntimeError"}),
    ],
)
@pytest.mark.parametrize("graph", ["leaving", "leaving_async", "leaving_factory"])
async def test_who_leaves_leaves_alone(
    bench: Bench, pool: ChildPool, graph: str, how: str, errors: set[str]
) -> None:
    [pid] = pool.pids
    neighbour = asyncio.create_task(bench.run(pool, "waiting", stream_modes=["custom"]))
    await bench.until(lambda event: event.event == "custom")
    ended = await bench.run(pool, graph, input={"value": how}, config={"configurable": {"how": how}})
    assert ended.failure is not None
    assert ended.status == "error"
    assert ended.failure.error in errors
    if how == "exit":
        assert ended.failure.message == "3"
    assert (await bench.run(pool, "hello_graph")).status == "success"
    assert (pool.pids, neighbour.done()) == ([pid], False)
    pool.cancel("waiting")
    assert (await neighbour).status == "cancelled"


@pytest.mark.parametrize("graph", ["of_runtime"])
async def test_factories_are_told_what_for(bench: Bench, pool: ChildPool, graph: str) -> None:
    await bench.run(pool, graph)
    await ask(pool, State(graph_id=graph, thread_id=graph))
    await ask(pool, Schemas(graph_id=graph))
    updates = [[{"values": {"trail": ["by hand"]}, "as_node": "mark"}]]
    await bench.run(pool, graph, run_id="u", updates=updates)
    assert bench.trail.read_text().split() == [
        "threads.create_run",
        "threads.read",
        "assistants.read",
        "threads.update",
    ]


async def test_an_unknown_graph_is_not_found(bench: Bench, pool: ChildPool) -> None:
    with pytest.raises(NoAnswer) as refused:
        await ask(pool, Schemas(graph_id="nothing"))
    assert refused.value.failed.code == "not_found"


async def test_questions_wait_for_no_other(bench: Bench, pool: ChildPool) -> None:
    slow = asyncio.create_task(ask(pool, Schemas(graph_id="dawdling")))
    while not bench.trail.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert (await ask(pool, Schemas(graph_id="hello_graph")))["graph_id"] == "hello_graph"
    assert not slow.done()
    bench.go.touch()
    assert (await slow)["graph_id"] == "dawdling"


@pytest.mark.parametrize("graph", ["blocking", "hogging"])
async def test_blocking_node_is_killed_with_its_child_and_another_comes(trail: Bench, graph: str) -> None:
    pool = await trail.pool()
    running = asyncio.create_task(trail.run(pool, graph))
    await asyncio.sleep(0.7)
    pool.cancel(graph)
    await asyncio.sleep(0.3)
    assert not running.done()  # a cancel is not told while the node goes on
    pool.kill_run(graph)
    with pytest.raises(ChildDied):
        await running
    assert (await trail.run(pool, "hello_graph")).status == "success"


async def test_next_attempt_continues_from_the_checkpoint(trail: Bench) -> None:
    pool = await trail.pool()
    # Else what is told apart here would depend on how far the writing of checkpoints lags behind.
    running = asyncio.create_task(trail.run(pool, "resuming", durability="sync"))
    while not trail.trail.exists() or "second" not in trail.trail.read_text():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    pool.kill_run("resuming")
    with pytest.raises(ChildDied):
        await running
    trail.go.touch()
    ended = await trail.run(pool, "resuming", attempt=2)
    assert values(ended)["trail"] == ["first", "second"]
    assert trail.trail.read_text() == "first second second "
    again = await trail.run(pool, "resuming", attempt=3)  # it had finished, only nobody was told
    assert values(again)["trail"] == ["first", "second"]
    assert trail.trail.read_text() == "first second second "


async def test_temporary_runs_and_forgotten_threads_leave_no_checkpoint(
    bench: Bench, pool: ChildPool
) -> None:
    for _ in range(2):
        ended = await bench.run(pool, "plain", temporary=True)
        assert values(ended)["trail"] == ["plain"]
    await bench.run(pool, "plain")
    await ask(pool, Forget(thread_id="plain", token=1 << 40))
    assert values(await bench.run(pool, "plain"))["trail"] == ["plain"]


async def test_two_children_share_the_checkpoints(trail: Bench) -> None:
    one, other = await trail.pool(), await trail.pool()
    await trail.run(one, "plain")
    assert values(await trail.run(other, "plain", run_id="b"))["trail"] == ["plain", "plain"]


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("graph = 5", "neither a graph"),
        ("other = 5", "has no 'graph'"),
        ("def graph(a, b, c): pass", "more than two"),
        ("def graph(a, b): pass", "ServerRuntime"),
    ],
)
async def test_what_can_not_be_loaded_is_told(trail: Bench, source: str, word: str) -> None:
    (trail.folder / "graphs.py").write_text(source + "\n")
    with pytest.raises(GraphLoadFailed, match=word):
        await trail.pool(graph="graph")
