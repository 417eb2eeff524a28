"""What a graph streams while it runs, in every mode."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from services.worker.children import ChildPool
from tests.services.graph_children import Bench, bench_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
GRAPHS = '''
    from collections import deque, namedtuple
    from dataclasses import dataclass
    from datetime import timedelta
    from decimal import Decimal
    from enum import Enum
    from pathlib import Path
    from typing import Any, TypedDict

    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langgraph.config import get_stream_writer
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.types import interrupt


    async def model(state):
        """A model that streams: first a tool call, then an answer."""
        last = state["messages"][-1]
        if last.type == "tool":
            said = AIMessage("it is sunny")
        else:
            call = {"name": "weather", "args": {"city": "Paris"}, "id": "call-1", "type": "tool_call"}
            said = AIMessage("let me look", tool_calls=[call])
        fake = GenericFakeChatModel(messages=iter([said]))
        answer = await fake.ainvoke(state["messages"])
        answer.tool_calls = said.tool_calls  # the fake streams text only
        return {"messages": [answer]}


    def tools(state):
        get_stream_writer()({"looking": "up"})
        return {"messages": [ToolMessage("sunny", tool_call_id="call-1", id="tool-1")]}


    def route(state): return "tools" if state["messages"][-1].tool_calls else END


    def agent_builder():
        builder = StateGraph(MessagesState)
        builder.add_node("model", model)
        builder.add_node("tools", tools)
        builder.add_edge(START, "model")
        builder.add_conditional_edges("model", route, ["tools", END])
        builder.add_edge("tools", "model")
        return builder


    agent = agent_builder().compile()
    outer_builder = StateGraph(MessagesState)
    outer_builder.add_node("inside", agent)
    outer_builder.add_edge(START, "inside")
    outer = outer_builder.compile()


    class State(TypedDict, total=False):
        n: int
        odd: Any


    def ask(state): return {"n": interrupt({"question": 1})}
    def one(state): return {"n": 1}
    def boom(state): raise OSError("password")
    def strange(state):
        write = get_stream_writer()
        write({"nul": "a\\0b", "surrogate": "\\ud800", "nan": float("nan"), "big": 1 << 80, "set": {1}, (1, 2): b"x"})
        write({"nan": float("nan"), "path": Path("/a"), "wait": timedelta(minutes=1), "kind": Kind.ONE,
               "price": Decimal("1.5"), "many": deque([1]), "who": object(), "point": Point(1, "s"), 3: Pair(1, 2)})


    class Kind(Enum):
        ONE = "one"


    @dataclass
    class Point:
        x: int
        _y: str


    Pair = namedtuple("Pair", "a b")


    def heavy(state):
        for n in range(40):
            get_stream_writer()({"n": n, "text": "x" * 100_000})


    def of(*nodes):
        builder = StateGraph(State)
        builder.add_sequence(nodes)
        builder.add_edge(START, nodes[0].__name__)
        return builder


    asking = of(one, ask).compile()
    asking_inside = StateGraph(State)
    asking_inside.add_node("inside", asking)
    asking_inside.add_edge(START, "inside")
    asking_inside = asking_inside.compile()
    failing = of(boom).compile()
    odd = of(strange).compile()
    large = of(heavy).compile()
'''
NAMES = ["agent", "outer", "asking", "asking_inside", "failing", "odd", "large"]
HELLO = {"messages": [{"role": "user", "content": "weather?", "id": "human-1"}]}
PRIVATE = {
    "configurable": {"langgraph_auth_user": {"identity": "me"}, "langgraph_auth_user_id": "me", "open": "x"}
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Bench, ChildPool]]:
    async with bench_of(tmp_path_factory.mktemp("project"), GRAPHS, NAMES) as bench:
        yield bench, await bench.pool()


@pytest_asyncio.fixture(loop_scope="module")
async def bench(shared: tuple[Bench, ChildPool]) -> Bench:
    """The bench of all tests here, each of which begins without events."""
    bench, _ = shared
    bench.events.clear()
    return bench


@pytest.fixture
def pool(shared: tuple[Bench, ChildPool], bench: Bench) -> ChildPool:
    return shared[1]


async def streamed(bench: Bench, pool: ChildPool, graph: str, *modes: str, **fields: Any) -> list[Any]:
    bench.events.clear()
    fields = {"run_id": "-".join((graph, *modes)), "input": HELLO, **fields}
    ended = await bench.run(pool, graph, thread_id=fields["run_id"], stream_modes=list(modes), **fields)
    assert ended.failure is None, ended.failure
    assert [event.seq for event in bench.events] == list(range(1, len(bench.events) + 1))
    return bench.shown()


async def test_values_begin_with_the_input(bench: Bench, pool: ChildPool) -> None:
    events = await streamed(bench, pool, "agent", "values")
    assert [name for name, _ in events] == ["values"] * 4
    kinds = [[message["type"] for message in data["messages"]] for _, data in events]
    assert kinds == [["human", "ai", "tool", "ai"][:n] for n in (1, 2, 3, 4)]
    call = events[1][1]["messages"][1]["tool_calls"][0]
    assert (call["name"], call["args"]) == ("weather", {"city": "Paris"})


async def test_updates_and_custom(bench: Bench, pool: ChildPool) -> None:
    events = await streamed(bench, pool, "agent", "updates", "custom")
    assert [(name, next(iter(data))) for name, data in events] == [
        ("updates", "model"),
        ("custom", "looking"),
        ("updates", "tools"),
        ("updates", "model"),
    ]


async def test_messages_grow_token_by_token(bench: Bench, pool: ChildPool) -> None:
    events = await streamed(bench, pool, "agent", "messages")
    assert {name for name, _ in events} == {"messages/metadata", "messages/partial", "messages/complete"}
    texts = [data[0]["content"] for name, data in events if name == "messages/partial"]
    first = ["let", "let ", "let me", "let me ", "let me look"]
    assert texts == [*first, "it", "it ", "it is", "it is ", "it is sunny"]
    partial = next(data[0] for name, data in events if name == "messages/partial")
    assert partial["type"] == "ai"
    assert "tool_call_chunks" not in partial
    [complete] = [data for name, data in events if name == "messages/complete"]
    assert (complete[0]["type"], complete[0]["content"]) == ("tool", "sunny")
    told = [data for name, data in events if name == "messages/metadata"]
    assert [len(data) for data in told] == [1, 1, 1]
    assert told[1]["tool-1"]["metadata"]["langgraph_node"] == "tools"


async def test_messages_as_tuples_are_deltas_and_win(bench: Bench, pool: ChildPool) -> None:
    events = await streamed(bench, pool, "agent", "messages", "messages-tuple", config=PRIVATE)
    assert {name for name, _ in events} == {"messages"}
    chunks = [data[0] for _, data in events if data[0]["type"] == "AIMessageChunk"]
    assert [chunk["content"] for chunk in chunks[:5]] == ["let", " ", "me", " ", "look"]
    assert [chunk.get("chunk_position") for chunk in chunks[:5]] == [None] * 4 + ["last"]
    assert [data[0]["type"] for _, data in events if data[0]["type"] != "AIMessageChunk"] == ["tool"]
    metadata = events[0][1][1]
    assert metadata["run_id"] == metadata["thread_id"] == "agent-messages-messages-tuple"
    assert metadata["langgraph_node"] == "model"
    assert not [key for key in metadata if key.startswith(("langgraph_auth", "__"))]


async def test_tasks_checkpoints_and_debug(bench: Bench, pool: ChildPool) -> None:
    events = await streamed(bench, pool, "agent", "tasks", "checkpoints", "debug", config=PRIVATE)
    assert {name for name, _ in events} == {"tasks", "checkpoints", "debug"}
    begun = [data for name, data in events if name == "tasks" and "input" in data]
    done = [data for name, data in events if name == "tasks" and "result" in data]
    assert [task["name"] for task in begun] == [task["name"] for task in done] == ["model", "tools", "model"]
    assert {task["id"] for task in begun} == {task["id"] for task in done}
    checkpoints = [data for name, data in events if name == "checkpoints"]
    assert [point["next"] for point in checkpoints] == [["__start__"], ["model"], ["tools"], ["model"], []]
    debug = [data for name, data in events if name == "debug"]
    points = [data["payload"] for data in debug if data["type"] == "checkpoint"]
    assert {data["type"] for data in debug} == {"checkpoint", "task", "task_result"}
    assert points[0]["parent_checkpoint"] is None
    assert points[1]["parent_checkpoint"] == points[0]["checkpoint"]
    assert set(points[0]["checkpoint"]) == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    assert checkpoints[0]["config"]["configurable"]["open"] == "x"
    assert b"langgraph_auth" not in b"".join(bytes(event.data) for event in bench.events)
    assert b"__pregel" not in b"".join(bytes(event.data) for event in bench.events)


async def test_events_alone_and_beside_other_modes(bench: Bench, pool: ChildPool) -> None:
    events = await streamed(bench, pool, "agent", "events", config=PRIVATE)
    assert {name for name, _ in events} == {"events"}
    kinds = [data["event"] for _, data in events]
    assert kinds[0] == "on_chain_start"
    assert kinds[-1] == "on_chain_end"
    assert kinds.count("on_chat_model_stream") == 10
    assert b"langgraph_auth" not in b"".join(bytes(event.data) for event in bench.events)
    both = await streamed(bench, pool, "agent", "events", "values", "messages-tuple")
    assert {name for name, _ in both} == {"events", "values", "messages"}
    assert [name for name, _ in both].count("values") == 4
    assert [name for name, _ in both].count("messages") == 11


async def test_graphs_inside_name_their_path(bench: Bench, pool: ChildPool) -> None:
    plain = await streamed(bench, pool, "outer", "updates", "messages")
    assert {name for name, _ in plain} == {"updates", "messages/metadata", "messages/complete"}
    events = await streamed(bench, pool, "outer", "updates", "messages", stream_subgraphs=True, run_id="deep")
    names = {name for name, _ in events}
    [inner] = [name for name in names if name.startswith("updates|")]
    assert inner.startswith("updates|inside:")
    assert names == {"updates", inner, "messages/metadata", "messages/partial", "messages/complete"}
    tuples = await streamed(bench, pool, "outer", "messages-tuple", stream_subgraphs=True, run_id="tuples")
    assert all(name.startswith("messages|inside:") for name, _ in tuples)


@pytest.mark.parametrize("modes", [["values"], ["updates"], ["values", "updates"], ["custom"], ["events"]])
async def test_an_interrupt_is_told_once_in_every_mode(
    bench: Bench, pool: ChildPool, modes: list[str]
) -> None:
    events = await streamed(bench, pool, "asking", *modes, input={"n": 0})
    told = [(name, data["__interrupt__"]) for name, data in events if "__interrupt__" in data]
    expected = {"values": ["values"], "updates": ["updates"]}.get(modes[0], ["values"])
    assert sorted(name for name, _ in told) == sorted(modes if len(modes) == 2 else expected)
    assert all(pause["value"] == {"question": 1} and pause["id"] for _, [pause] in told)


async def test_an_interrupt_inside_reaches_who_asked_for_nothing_of_it(bench: Bench, pool: ChildPool) -> None:
    events = await streamed(bench, pool, "asking_inside", "messages", input={"n": 0})
    [(name, data)] = events
    assert (name, list(data)) == ("values", ["__interrupt__"])


async def test_breakpoints_ask_nothing(bench: Bench, pool: ChildPool) -> None:
    events = await streamed(bench, pool, "agent", "values", interrupt_before=["tools"], run_id="paused")
    assert events[-1] == ("values", {"__interrupt__": []})


async def test_no_mode_means_no_event(bench: Bench, pool: ChildPool) -> None:
    await bench.run(pool, "agent", input=HELLO)
    assert bench.events == []


async def test_errors_of_tasks_are_shown_with_care(bench: Bench, pool: ChildPool) -> None:
    modes = ["tasks", "debug", "checkpoints"]
    ended = await bench.run(pool, "failing", input={"n": 0}, stream_modes=modes)
    assert ended.status == "error"
    results = [data for _, data in bench.shown("tasks") if "result" in data]
    assert [task["error"] for task in results] == ["OSError('An internal error occurred')"]
    assert b"password" not in b"".join(bytes(event.data) for event in bench.events)
    assert ended.tasks is not msgspec.UNSET
    assert msgspec.json.decode(ended.tasks)[0]["error"] == "OSError('An internal error occurred')"


async def test_a_run_waits_for_whoever_takes_its_events(bench: Bench, pool: ChildPool) -> None:
    """As when the bus is slow: what is under way is bounded, others go on, and a stop is heard."""
    bench.takes = False
    try:
        fields: dict[str, Any] = {"input": {"n": 0}, "stream_modes": ["custom"]}
        running = asyncio.create_task(bench.run(pool, "large", run_id="large", thread_id="large", **fields))
        stopped = asyncio.create_task(
            bench.run(pool, "large", run_id="stopped", thread_id="stopped", **fields)
        )
        await bench.until(lambda event: event.run_id == "large")
        await streamed_beside(bench, pool)
        async with asyncio.timeout(10):
            while len(bench.events) < 22:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len([event for event in bench.events if event.run_id == "large"]) in range(10, 13)
        pool.cancel("stopped")
        assert (await stopped).status == "cancelled"
        assert not running.done()
        pool.taken("large", 1 << 30)
        assert (await running).status == "success"
        told = [event for event in bench.events if event.run_id == "large"]
        assert [msgspec.json.decode(event.data)["n"] for event in told] == list(range(40))
    finally:
        bench.takes = True


async def streamed_beside(bench: Bench, pool: ChildPool) -> None:
    ended = await bench.run(pool, "odd", run_id="beside", thread_id="beside", input={"n": 0})
    assert ended.status == "success"


async def test_values_that_json_has_no_form_for(bench: Bench, pool: ChildPool) -> None:
    events = await streamed(bench, pool, "odd", "custom", input={"n": 0})
    assert events[0][1] == {
        "nul": "a\ufffdb",
        "surrogate": "?",
        "nan": None,
        "big": 1 << 80,
        "set": [1],
        "(1, 2)": "eA==",
    }
    assert events[1][1] == {
        "nan": None,
        "path": "/a",
        "wait": 60.0,
        "kind": "one",
        "price": 1.5,
        "many": [1],
        "who": None,
        "point": {"x": 1, "_y": "s"},
        "3": [1, 2],
    }
