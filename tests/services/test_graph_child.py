"""Real graph children with real graphs: loading, running, cancelling, dying."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest

from contracts.frames import Emitted, RunEnded, StartRun
from services.kit.project import GraphSpec, Project
from services.worker.children import ChildPool
from services.worker.graph_child import ChildDied, GraphLoadFailed

GRAPHS = """
    import asyncio, contextlib, operator, os, time
    from pathlib import Path
    from typing import Annotated, Any, TypedDict
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig
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
    slow_graph = built(slow=slow).compile()
    large = built(big=big).compile()
    resuming = built(first=first, second=second).compile()

    def marked(*marks): return built(mark=lambda s: {"trail": list(marks)}).compile()
    def plain(): return marked("plain")
    def of_config(config): return marked("config", config["configurable"]["k"])
    def of_runtime(runtime: ServerRuntime): return marked("runtime", runtime.access_context)
    def of_both(config: RunnableConfig, runtime: ServerRuntime): return marked("both", config["configurable"]["k"])
    async def awaited(): return marked("awaited")

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
    "slow_graph",
    "large",
    "resuming",
    "plain",
    "of_config",
    "of_runtime",
    "of_both",
    "awaited",
    "managed",
]
Make = Callable[..., Any]


class Trail:
    """A project in a folder, and the pool that runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trail, self.go = folder / "trail", folder / "go"
        # Folders of the user's that are named like ours: one a package, one not.
        (folder / "services").mkdir()
        (folder / "services" / "__init__.py").touch()
        (folder / "services" / "llm.py").write_text("NAME = 'theirs'\n")
        (folder / "domain").mkdir()
        (folder / "domain" / "words.py").write_text("WORD = 'theirs too'\n")
        (folder / "graphs.py").write_text(dedent(GRAPHS))
        self.pools: list[ChildPool] = []
        self.events: list[Emitted] = []

    def project(self, **graphs: str) -> Project:
        chosen = graphs or {name: name for name in NAMES}
        path = self.folder / "graphs.py"
        return Project(
            file=self.folder / "langgraph.json",
            folder=self.folder,
            graphs={name: GraphSpec(variable=variable, path=path) for name, variable in chosen.items()},
            roots=(self.folder,),
            env={"TRAIL": str(self.trail), "GO": str(self.go)},
        )

    async def pool(self, children: int = 1, **graphs: str) -> ChildPool:
        checkpoints = self.folder / "checkpoints.db"
        pool = ChildPool(self.project(**graphs), checkpoints, children, 10, Path(sys.executable))
        self.pools.append(pool)
        await pool.start()
        return pool

    async def heard(self, event: Emitted) -> None:
        self.events.append(event)

    async def run(self, pool: ChildPool, graph: str, **fields: Any) -> RunEnded:
        given = {"run_id": graph, "thread_id": graph, "input": msgspec.Raw(b'{"trail": []}'), **fields}
        async with asyncio.timeout(30):
            return await pool.run(StartRun(graph_id=graph, **given), self.heard)


def values(ended: RunEnded) -> Any:
    assert ended.values is not msgspec.UNSET, ended
    return msgspec.json.decode(ended.values)


@pytest.fixture
async def trail(tmp_path: Path) -> AsyncIterator[Trail]:
    made = Trail(tmp_path)
    yield made
    for pool in made.pools:
        await pool.stop()


async def test_users_modules_win_over_ours_and_messages_are_flat(trail: Trail) -> None:
    ended = await trail.run(await trail.pool(), "hello_graph", stream_modes=["values", "updates"])
    assert ended.status == "success"
    found = values(ended)
    assert found["trail"] == ["theirs", "theirs too"]
    assert (found["value"]["type"], found["value"]["content"]) == ("ai", "hi")
    assert [e.seq for e in trail.events] == list(range(1, len(trail.events) + 1))
    assert {e.event for e in trail.events} == {"values", "updates"}


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
async def test_factories(trail: Trail, graph: str, expected: list[str]) -> None:
    pool = await trail.pool(1, **{graph: graph})
    ended = await trail.run(pool, graph, config={"configurable": {"k": "v"}})
    assert ended.failure is None
    assert values(ended)["trail"] == expected
    assert trail.trail.exists() == (graph == "managed")


async def test_failures_are_shown_with_care(trail: Trail) -> None:
    pool = await trail.pool()
    failed = await trail.run(pool, "failing")
    assert failed.failure is not None
    assert (failed.status, failed.failure.error, failed.failure.message) == ("error", "KeyError", "k")
    hidden = await trail.run(pool, "hiding")
    assert hidden.failure is not None
    assert (hidden.failure.error, hidden.failure.message) == ("OSError", "An internal error occurred")


async def test_interrupt_pauses_and_is_told(trail: Trail) -> None:
    ended = await trail.run(await trail.pool(), "asking")
    assert (ended.status, ended.next) == ("success", ["ask"])
    [[pause]] = ended.interrupts.values()
    assert pause["value"] == {"question": 1}
    assert ended.checkpoint is not None


async def test_large_values_and_many_at_once(trail: Trail) -> None:
    pool = await trail.pool()
    assert len(values(await trail.run(pool, "large"))["value"]) == 5_000_000
    runs = [trail.run(pool, "hello_graph", run_id=f"r{n}", thread_id=f"t{n}") for n in range(20)]
    assert {ended.status for ended in await asyncio.gather(*runs)} == {"success"}


async def test_waiting_node_is_cancelled(trail: Trail) -> None:
    pool = await trail.pool()
    running = asyncio.create_task(trail.run(pool, "slow_graph"))
    await asyncio.sleep(0.5)
    pool.cancel("slow_graph")
    assert (await running).status == "cancelled"


@pytest.mark.parametrize("graph", ["blocking", "hogging"])
async def test_blocking_node_is_killed_with_its_child_and_another_comes(trail: Trail, graph: str) -> None:
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


async def test_next_attempt_continues_from_the_checkpoint(trail: Trail) -> None:
    pool = await trail.pool()
    running = asyncio.create_task(trail.run(pool, "resuming"))
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


async def test_temporary_runs_and_forgotten_threads_leave_no_checkpoint(trail: Trail) -> None:
    pool = await trail.pool()
    for _ in range(2):
        ended = await trail.run(pool, "plain", temporary=True)
        assert values(ended)["trail"] == ["plain"]
    await trail.run(pool, "plain")
    await pool.forget("plain")
    assert values(await trail.run(pool, "plain"))["trail"] == ["plain"]


async def test_two_children_share_the_checkpoints(trail: Trail) -> None:
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
async def test_what_can_not_be_loaded_is_told(trail: Trail, source: str, word: str) -> None:
    (trail.folder / "graphs.py").write_text(source + "\n")
    with pytest.raises(GraphLoadFailed, match=word):
        await trail.pool(graph="graph")
