"""States, history, commands, updates and forks of threads; drawings and schemas of graphs."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from contracts.frames import RunEnded
from contracts.queries import Copy, Drawing, Forget, History, Schemas, State, Subgraphs
from services.worker.children import ChildPool
from services.worker.graph_child import NoAnswer
from tests.services.graph_children import Bench, ask, bench_of, values
from tests.services.graphs_places import DATABASES, Place, place_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
THREADS = ("t", "b", "s", "f", "copy")
GRAPHS = """
    import operator, os, socket
    from dataclasses import dataclass
    from typing import Annotated, Any, TypedDict

    from pydantic_core import core_schema
    from langgraph.func import entrypoint
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Send, interrupt


    class State(TypedDict, total=False):
        trail: Annotated[list[str], operator.add]


    class Answer(TypedDict, total=False):
        answer: str


    class Whole(State, Answer): pass


    @dataclass
    class Context:
        depth: int = 1


    class Odd(TypedDict, total=False):
        thing: socket.socket


    def add(name): return lambda state: {"trail": [name]}
    def two(state): return {"trail": [interrupt("two")]}
    def sent(state): return {"trail": ["sent " + str(state)]}
    def fails(state): raise OSError("password")


    def of(*nodes, **kwargs):
        builder = StateGraph(kwargs.pop("state", State), **kwargs)
        builder.add_sequence(nodes)
        builder.add_edge(START, nodes[0][0])
        return builder


    steps = of(("one", add("one")), ("two", add("two"))).compile()
    asking = of(("one", add("one")), ("two", two), ("three", add("three"))).compile()
    outer = of(("first", add("first")), ("inside", asking)).compile()
    both_builder = StateGraph(State)
    both_builder.add_node("l", lambda state: {"trail": ["l:" + interrupt("l")]})
    both_builder.add_node("r", lambda state: {"trail": ["r:" + interrupt("r")]})
    both_builder.add_edge(START, "l")
    both_builder.add_edge(START, "r")
    both = both_builder.compile()
    narrow = of(
        ("one", lambda state: {"answer": "yes", "trail": ["one"]}),
        state=Whole, input_schema=State, output_schema=Answer, context_schema=Context,
    ).compile()
    choosing_builder = StateGraph(State)
    choosing_builder.add_node("one", add("one"))
    choosing_builder.add_node("sent", sent)
    choosing_builder.add_edge(START, "one")
    choosing_builder.add_conditional_edges("one", lambda state: END, ["sent", END])
    choosing = choosing_builder.compile()
    odd = StateGraph(Odd)
    odd.add_node("one", lambda state: {})
    odd.add_edge(START, "one")
    failing = of(("one", add("one")), ("fails", fails)).compile()
    def broken(config): raise OSError("password")

    class Told:
        @classmethod
        def __get_pydantic_core_schema__(cls, source, handler):
            return core_schema.any_schema()

        @classmethod
        def __get_pydantic_json_schema__(cls, schema, handler):
            with open(os.environ["TRAIL"], "a") as trail:
                trail.write("asked\\n")
            return {"type": "string"}

    class Telling(TypedDict, total=False):
        told: Told

    telling = of(("one", lambda state: {}), state=Telling).compile()
    def telling_anew(config): return telling

    @entrypoint()
    def function(given): return {"got": given}
"""
NAMES = [
    "steps", "asking", "outer", "both", "narrow", "choosing", "odd", "failing", "broken", "function",
    "telling", "telling_anew",
]  # fmt: skip


@pytest.fixture(scope="module", params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place_of(request.param, tmp_path_factory.mktemp("project"), request.getfixturevalue)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(place: Place) -> AsyncIterator[tuple[Bench, ChildPool]]:
    async with bench_of(place.folder, GRAPHS, NAMES, place.settings) as bench:
        yield bench, await bench.pool()


@pytest_asyncio.fixture(loop_scope="module")
async def bench(shared: tuple[Bench, ChildPool]) -> AsyncIterator[Bench]:
    """The bench of all tests here, each of which begins without events and threads."""
    bench, pool = shared
    bench.events.clear()
    yield bench
    for thread_id in THREADS:
        await ask(pool, Forget(thread_id=thread_id, token=1 << 40))


@pytest.fixture
def pool(shared: tuple[Bench, ChildPool], bench: Bench) -> ChildPool:
    return shared[1]


async def state(pool: ChildPool, graph: str, thread: str = "t", **fields: Any) -> Any:
    return await ask(pool, State(graph_id=graph, thread_id=thread, **fields))


async def history(pool: ChildPool, graph: str, thread: str = "t", **fields: Any) -> Any:
    return await ask(pool, History(graph_id=graph, thread_id=thread, **fields))


async def run(bench: Bench, pool: ChildPool, graph: str, run_id: str = "r", **fields: Any) -> RunEnded:
    return await bench.run(pool, graph, run_id=run_id, thread_id="t", **fields)


async def resume(bench: Bench, pool: ChildPool, graph: str, **command: Any) -> Any:
    ended = await run(bench, pool, graph, "c", command=command)
    assert ended.failure is None, ended.failure
    return values(ended)


# --- states ------------------------------------------------------------------------------------------


async def test_a_thread_that_never_ran(pool: ChildPool) -> None:
    assert await state(pool, "steps") == {
        "values": {},
        "next": [],
        "tasks": [],
        "metadata": None,
        "created_at": None,
        "checkpoint": None,
        "parent_checkpoint": None,
        "interrupts": [],
        "checkpoint_id": None,
        "parent_checkpoint_id": None,
    }
    assert await history(pool, "steps") == []


async def test_a_paused_thread_and_its_past(bench: Bench, pool: ChildPool) -> None:
    ended = await run(
        bench, pool, "asking", config={"configurable": {"langgraph_auth_user_id": "me", "k": 1}}
    )
    now = await state(pool, "asking")
    assert (now["values"], now["next"]) == ({"trail": ["one"]}, ["two"])
    [task] = now["tasks"]
    assert (task["name"], task["error"], task["state"], task["checkpoint"]) == ("two", None, None, None)
    assert task["interrupts"] == now["interrupts"] == [{"value": "two", "id": task["interrupts"][0]["id"]}]
    assert now["checkpoint"] == ended.checkpoint
    assert now["checkpoint_id"] == now["checkpoint"]["checkpoint_id"]
    assert now["parent_checkpoint_id"] == now["parent_checkpoint"]["checkpoint_id"]
    assert (now["metadata"]["run_id"], now["metadata"]["k"]) == ("r", 1)
    assert "langgraph_auth_user_id" not in now["metadata"]
    past = await history(pool, "asking")
    assert [each["next"] for each in past] == [["two"], ["one"], ["__start__"]]
    assert past[0]["parent_checkpoint"] == past[1]["checkpoint"]
    assert await history(pool, "asking", limit=1) == past[:1]
    assert await history(pool, "asking", before=past[0]["checkpoint_id"]) == past[1:]
    assert await history(pool, "asking", metadata={"source": "input"}) == past[2:]
    assert await history(pool, "asking", metadata={"run_id": "other"}) == []
    older = await state(pool, "asking", checkpoint_id=past[1]["checkpoint_id"])
    assert (older["values"], older["next"]) == ({"trail": []}, ["one"])
    unknown = await state(pool, "asking", checkpoint_id="1f1e8708-0000-6812-bfff-123593030e3d")
    assert unknown["values"] == {}


async def test_bad_metadata_filters_are_invalid(pool: ChildPool) -> None:
    with pytest.raises(NoAnswer, match="metadata") as refused:
        await history(pool, "steps", metadata={"a') OR 1=1 --": 1})
    assert refused.value.failed.code == "invalid"


async def test_states_of_graphs_inside(bench: Bench, pool: ChildPool) -> None:
    await run(bench, pool, "outer")
    [task] = (await state(pool, "outer"))["tasks"]
    assert task["state"] is None
    assert task["checkpoint"]["checkpoint_ns"] == f"inside:{task['id']}"
    [task] = (await state(pool, "outer", subgraphs=True))["tasks"]
    assert task["checkpoint"] is None
    inner = task["state"]
    assert (inner["values"], inner["next"]) == ({"trail": ["first", "one"]}, ["two"])
    namespace = inner["checkpoint"]["checkpoint_ns"]
    assert inner["checkpoint"]["checkpoint_map"][namespace] == inner["checkpoint_id"]
    alone = await state(pool, "outer", checkpoint_ns=namespace)
    assert alone["values"] == inner["values"]
    past = await history(pool, "outer", checkpoint_ns=namespace)
    assert [each["next"] for each in past] == [["two"], ["one"], ["__start__"]]


async def test_a_failed_task_shows_its_error_with_care(bench: Bench, pool: ChildPool) -> None:
    await run(bench, pool, "failing")
    [task] = (await state(pool, "failing"))["tasks"]
    assert task["error"] == "OSError('An internal error occurred')"


async def test_copies_go_their_own_way(bench: Bench, pool: ChildPool) -> None:
    await run(bench, pool, "outer")
    for _ in range(2):
        assert await ask(pool, Copy(thread_id="t", to_thread_id="copy")) is None
    copied = await state(pool, "outer", "copy", subgraphs=True)
    assert copied["tasks"][0]["state"]["checkpoint"]["thread_id"] == "copy"
    assert len(await history(pool, "outer", "copy")) == len(await history(pool, "outer"))
    ended = await bench.run(pool, "outer", run_id="c", thread_id="copy", command={"resume": "!"})
    assert values(ended)["trail"][-2:] == ["!", "three"]
    assert (await state(pool, "outer"))["next"] == ["inside"]
    await ask(pool, Forget(thread_id="t", token=1 << 40))
    assert (await state(pool, "outer"))["checkpoint"] is None
    assert (await state(pool, "outer", "copy"))["checkpoint"] is not None


# --- commands ----------------------------------------------------------------------------------------


async def test_resume_with_a_value_or_by_id(bench: Bench, pool: ChildPool) -> None:
    await run(bench, pool, "asking")
    assert (await resume(bench, pool, "asking", resume="yes"))["trail"] == ["one", "yes", "three"]
    assert (await resume(bench, pool, "asking", resume="again"))["trail"] == ["one", "yes", "three"]
    await bench.run(pool, "both", thread_id="b", run_id="b")
    pauses = (await state(pool, "both", "b"))["interrupts"]
    answers = {pause["id"]: f"{pause['value']}!" for pause in pauses}
    ended = await bench.run(pool, "both", thread_id="b", run_id="b2", command={"resume": answers})
    assert values(ended)["trail"] == ["l:l!", "r:r!"]


async def test_update_and_goto(bench: Bench, pool: ChildPool) -> None:
    await run(bench, pool, "choosing")
    command: dict[str, Any] = {"update": {"trail": ["u"]}, "goto": "one"}
    assert (await resume(bench, pool, "choosing", **command))["trail"] == ["one", "u", "one"]
    pairs = {"update": [["trail", ["p"]], ["trail", ["q"]]], "goto": {"node": "sent", "input": 1}}
    assert (await resume(bench, pool, "choosing", **pairs))["trail"][3:] == ["p", "q", "sent 1"]
    several = {"goto": [{"node": "sent", "input": 2}, {"node": "sent", "input": 3}]}
    assert (await resume(bench, pool, "choosing", **several))["trail"][6:] == ["sent 2", "sent 3"]


async def test_a_fork_starts_from_its_checkpoint(bench: Bench, pool: ChildPool) -> None:
    await run(bench, pool, "steps")
    past = await history(pool, "steps")
    before_two = next(each for each in past if each["next"] == ["two"])
    config = {"configurable": {"checkpoint_id": before_two["checkpoint_id"], "run_id": "x", "thread_id": "x"}}
    ended = await run(bench, pool, "steps", "fork", input=None, config=config)
    assert values(ended)["trail"] == ["one", "two"]
    assert ended.metadata["run_id"] == "fork"
    newest = await history(pool, "steps")
    assert newest[1]["metadata"]["source"] == "fork"
    assert newest[1]["parent_checkpoint_id"] == before_two["checkpoint_id"]


# --- updates -----------------------------------------------------------------------------------------


async def test_updates_run_no_node(bench: Bench, pool: ChildPool) -> None:
    updates = [
        [{"values": {"trail": ["in"]}, "as_node": "__input__"}],
        [{"values": {"trail": ["in"]}, "as_node": "__start__"}],
        [{"values": {"trail": ["by hand"]}, "as_node": "one"}],
    ]
    ended = await run(bench, pool, "steps", updates=updates)
    assert (ended.status, ended.next) == ("success", ["two"])
    assert values(ended)["trail"] == ["in", "by hand"]
    past = await history(pool, "steps")
    assert [each["metadata"]["run_id"] for each in past] == ["r"] * 3
    again = await run(bench, pool, "steps", updates=updates, attempt=2)
    assert values(again)["trail"] == ["in", "by hand"]
    assert values(await run(bench, pool, "steps", "on", input=None))["trail"] == ["in", "by hand", "two"]


async def test_updates_of_an_older_checkpoint_fork(bench: Bench, pool: ChildPool) -> None:
    await run(bench, pool, "steps")
    past = await history(pool, "steps")
    config = {"configurable": {"checkpoint_id": past[1]["checkpoint_id"]}}
    updates = [[{"values": {"trail": ["other"]}, "as_node": "one"}]]
    ended = await run(bench, pool, "steps", "u", updates=updates, config=config)
    assert ended.parent_checkpoint is not None
    assert ended.parent_checkpoint["checkpoint_id"] == past[1]["checkpoint_id"]
    assert values(ended)["trail"] == ["one", "other"]
    command = [[{"command": {"update": {"trail": ["c"]}}, "as_node": "one"}]]
    assert values(await run(bench, pool, "steps", "v", updates=command))["trail"] == ["one", "other", "c"]
    copy = [[{"values": None, "as_node": "__copy__"}]]
    copied = await run(bench, pool, "steps", "w", updates=copy)
    assert (copied.metadata["source"], copied.metadata["run_id"]) == ("fork", "w")


async def test_updates_of_an_unknown_node_fail(bench: Bench, pool: ChildPool) -> None:
    ended = await run(bench, pool, "steps", updates=[[{"values": {}, "as_node": "nowhere"}]])
    assert ended.failure is not None
    assert (ended.failure.error, ended.failure.message) == (
        "InvalidUpdateError",
        "Node nowhere does not exist",
    )
    assert (await state(pool, "steps"))["checkpoint"] is None


# --- output ------------------------------------------------------------------------------------------


async def test_output_is_told_where_it_is_not_the_state(bench: Bench, pool: ChildPool) -> None:
    narrow = await run(bench, pool, "narrow")
    assert narrow.output is not msgspec.UNSET
    assert msgspec.json.decode(narrow.output) == {"answer": "yes"}
    assert values(narrow) == {"trail": ["one"], "answer": "yes"}
    steps = await bench.run(pool, "steps", thread_id="s")
    assert steps.output is msgspec.UNSET
    function = await bench.run(pool, "function", thread_id="f", input=3)
    assert values(function) == {"got": 3}


# --- graphs ------------------------------------------------------------------------------------------


async def test_drawings(pool: ChildPool) -> None:
    drawn = await ask(pool, Drawing(graph_id="choosing"))
    assert [(node["id"], node["data"]["name"]) for node in drawn["nodes"]] == [
        (name, name) for name in ("__start__", "one", "sent", "__end__")
    ]
    assert all(node["type"] for node in drawn["nodes"])
    edges = {(edge["source"], edge["target"]): edge.get("conditional", False) for edge in drawn["edges"]}
    assert edges[("__start__", "one")] is False
    assert edges[("one", "sent")] is True
    flat = await ask(pool, Drawing(graph_id="outer"))
    deep = await ask(pool, Drawing(graph_id="outer", xray=True))
    assert {node["id"] for node in flat["nodes"]} == {"__start__", "first", "inside", "__end__"}
    assert "inside:two" in {node["id"] for node in deep["nodes"]}


async def test_schemas(pool: ChildPool) -> None:
    known = await ask(pool, Schemas(graph_id="narrow"))
    assert known["graph_id"] == "narrow"
    assert set(known["input_schema"]["properties"]) == {"trail"}
    assert set(known["output_schema"]["properties"]) == {"answer"}
    assert set(known["state_schema"]["properties"]) == {"trail", "answer"}
    assert set(known["context_schema"]["properties"]) == {"depth"}
    assert (await ask(pool, Schemas(graph_id="steps")))["context_schema"] is None
    odd = await ask(pool, Schemas(graph_id="odd"))
    assert set(odd["input_schema"]["properties"]) == set(odd["state_schema"]["properties"]) == {"thing"}
    assert odd["config_schema"] is None
    function = await ask(pool, Schemas(graph_id="function"))
    assert function["input_schema"]


async def test_schemas_of_a_graph_that_stays_the_same_are_made_once(bench: Bench, pool: ChildPool) -> None:
    async def told(graph_id: str) -> int:
        """How often it was asked what it looks like, to answer us."""
        before = len(bench.trail.read_text()) if bench.trail.exists() else 0
        schemas = await ask(pool, Schemas(graph_id=graph_id))
        assert schemas["graph_id"] == graph_id
        assert str(schemas["input_schema"]["properties"]["told"]).count("string") == 1
        return (len(bench.trail.read_text()) - before) // len("asked\n")

    assert await told("telling") > 0
    assert await told("telling") == 0
    assert await told("telling_anew") > 0
    assert await told("telling_anew") > 0


async def test_graphs_inside(pool: ChildPool) -> None:
    inside = await ask(pool, Subgraphs(graph_id="outer"))
    assert set(inside) == {"inside"}
    assert set(inside["inside"]["state_schema"]["properties"]) == {"trail"}
    assert await ask(pool, Subgraphs(graph_id="outer", namespace="inside", recurse=True)) == inside
    with pytest.raises(NoAnswer) as refused:
        await ask(pool, Subgraphs(graph_id="outer", namespace="nowhere"))
    assert refused.value.failed.code == "not_found"


async def test_a_factory_that_raises_fails_with_care(pool: ChildPool) -> None:
    with pytest.raises(NoAnswer) as refused:
        await ask(pool, Schemas(graph_id="broken"))
    assert (refused.value.failed.code, refused.value.failed.message) == (
        "failed",
        "OSError: An internal error occurred",
    )
