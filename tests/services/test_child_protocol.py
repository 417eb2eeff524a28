"""What a graph streams by the event streaming protocol."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from contracts.frames import Emitted, RunEnded
from services.worker.children import ChildPool
from tests.services.graph_children import Bench, bench_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
GRAPHS = '''
    import asyncio
    import sys
    from contextlib import asynccontextmanager
    from dataclasses import dataclass, field
    from typing import Annotated, TypedDict

    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
    from langchain_core.tools import tool
    from langgraph.cache.memory import InMemoryCache
    from langgraph.config import get_stream_writer
    from langgraph.func import entrypoint, task
    from langgraph.graph import END, START, MessagesState, StateGraph, add_messages
    from langgraph.prebuilt import InjectedState, ToolNode, ToolRuntime
    from langgraph.types import CachePolicy, interrupt
    from pydantic import BaseModel, Field


    @tool
    def weather(city: str) -> str:
        """The weather."""
        if city == "Nowhere":
            raise OSError("password")
        if city == "Paris, Texas":
            raise ValueError("one city at a time")
        get_stream_writer()({"looking": city})
        return "sunny"


    def agent_of(city):
        async def model(state):
            last = state["messages"][-1]
            if last.type == "tool":
                said = AIMessage("it is sunny")
            else:
                call = {"name": "weather", "args": {"city": city}, "id": "call-1", "type": "tool_call"}
                said = AIMessage("let me look", tool_calls=[call])
            answer = await GenericFakeChatModel(messages=iter([said])).ainvoke(state["messages"])
            answer.tool_calls = said.tool_calls  # the fake streams text only
            return {"messages": [answer]}

        def route(state): return "tools" if state["messages"][-1].tool_calls else END

        builder = StateGraph(MessagesState)
        builder.add_node("model", model)
        builder.add_node("tools", ToolNode([weather], handle_tool_errors=False))
        builder.add_edge(START, "model")
        builder.add_conditional_edges("model", route, ["tools", END])
        builder.add_edge("tools", "model")
        return builder.compile()


    def one_of(state, interrupt_before=None, **nodes):
        builder = StateGraph(state)
        builder.add_sequence(list(nodes.items()))
        builder.add_edge(START, next(iter(nodes)))
        return builder.compile(interrupt_before=interrupt_before)


    class State(TypedDict, total=False):
        n: int


    @dataclass
    class Data:
        n: int = 0
        log: list = field(default_factory=list)


    def add(state): return {"n": state.get("n", 0) + 1}
    def ask(state): return {"n": interrupt({"question": 1})}
    def boom(state): raise OSError("password")
    def whole(state): return {"messages": [AIMessage("written at once", id="ai-1")]}
    async def forever(state): await asyncio.sleep(3600)
    def keep(state): return {"log": [HumanMessage("hi", id="h-1")]}

    async def wrong(state): raise ValueError("n must be positive")
    async def late(state):
        await asyncio.sleep(0.3)
        raise OSError("password of a neighbour")

    agent = agent_of("Paris")
    broken_tool = agent_of("Nowhere")
    wrong_tool = agent_of("Paris, Texas")
    asking = one_of(State, add=add, ask=ask)
    middle = one_of(State, deep=asking)
    nested = one_of(State, outer=middle)
    failing = one_of(State, inside=one_of(State, boom=boom))
    slow = one_of(State, inside=one_of(State, deep=one_of(State, forever=forever)))
    silent = one_of(MessagesState, whole=whole)
    data = one_of(Data, keep=keep)


    @entrypoint()
    async def functional(given):
        return {"n": given["n"] + 1}


    wrong_inside = one_of(State, inside=one_of(State, deep=one_of(State, wrong=wrong)))
    paused_inside = one_of(
        State, inside=one_of(State, deep=one_of(State, interrupt_before=["second"], first=add, second=add))
    )
    neighbours_builder = StateGraph(State)
    neighbours_builder.add_node("sub", one_of(State, deep=one_of(State, forever=forever)))
    neighbours_builder.add_node("late", late)
    neighbours_builder.add_edge(START, "sub")
    neighbours_builder.add_edge(START, "late")
    neighbours = neighbours_builder.compile()


    @task
    async def inside_a_task(n): return await asking.ainvoke({"n": n})


    @entrypoint()
    async def calling(given): return await inside_a_task(given["n"])


    class Model(BaseModel):
        n: int = 0
        messages: Annotated[list[AnyMessage], add_messages] = Field(default_factory=list)


    def tell(state): return {"messages": [AIMessage("told", id="ai-2", additional_kwargs={"own": 1})], "n": 1}
    model = one_of(Model, tell=tell)


    cached_builder = StateGraph(State)
    cached_builder.add_node("five", lambda state: {"n": 5}, cache_policy=CachePolicy(key_func=lambda *_: "k"))
    cached_builder.add_edge(START, "five")
    cached = cached_builder.compile(cache=InMemoryCache())


    @tool
    def spy(q: str, runtime: ToolRuntime, state: Annotated[dict, InjectedState]) -> str:
        """Look at what it is given."""
        runtime.emit_output_delta({"found": q})
        return "nothing"


    def call_spy(state):
        call = {"name": "spy", "args": {"q": "config"}, "id": "call-2", "type": "tool_call"}
        return {"messages": [AIMessage("", id="ai-3", tool_calls=[call])]}


    spying = one_of(MessagesState, call_spy=call_spy, tools=ToolNode([spy]))


    @asynccontextmanager
    async def older(config):
        """A graph in whose time LangGraph has no event streaming."""
        there = sys.modules["langgraph.stream"]
        sys.modules["langgraph.stream"] = None
        try:
            yield asking
        finally:
            sys.modules["langgraph.stream"] = there
'''
NAMES = [
    "agent",
    "broken_tool",
    "wrong_tool",
    "asking",
    "nested",
    "failing",
    "wrong_inside",
    "paused_inside",
    "neighbours",
    "calling",
    "slow",
    "silent",
    "data",
    "model",
    "functional",
    "cached",
    "spying",
    "older",
]
HIDDEN = "An internal error occurred"
INTERRUPT = "__interrupt__"
HELLO = {"messages": [{"role": "user", "content": "weather?", "id": "human-1"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Bench, ChildPool]]:
    async with bench_of(tmp_path_factory.mktemp("project"), GRAPHS, NAMES) as bench:
        yield bench, await bench.pool()


class Streams:
    """Runs of graphs that stream by the protocol."""

    def __init__(self, bench: Bench, pool: ChildPool) -> None:
        self.bench, self.pool = bench, pool

    async def run(self, graph: str, thread_id: str = "", **fields: Any) -> RunEnded:
        self.bench.events.clear()
        fields = {"input": {"n": 0}, "run_id": thread_id or graph, **fields}
        return await self.bench.run(
            self.pool, graph, thread_id=thread_id or graph, event_streaming=True, **fields
        )

    def told(self, *methods: str) -> list[tuple[str, tuple[str, ...], Any]]:
        """Method, nodes of the namespace and data of each event."""
        shown = [(e.event, nodes_of(e), msgspec.json.decode(e.data)) for e in self.bench.events]
        return [event for event in shown if not methods or event[0] in methods]

    def graphs(self) -> list[tuple[tuple[str, ...], str]]:
        """What became of the graphs inside."""
        return [(nodes, data["event"]) for _, nodes, data in self.told("lifecycle")]

    def text(self) -> bytes:
        return b"".join(bytes(event.data) for event in self.bench.events)

    def keys(self, method: str) -> list[str]:
        return [e.origin.key for e in self.bench.events if e.event == method and e.origin is not None]


@pytest.fixture
def streams(shared: tuple[Bench, ChildPool]) -> Streams:
    return Streams(*shared)


def nodes_of(event: Emitted) -> tuple[str, ...]:
    assert event.origin is not None
    assert event.origin.at_ms > 1_700_000_000_000
    return tuple(segment.partition(":")[0] for segment in event.origin.namespace)


async def test_messages_in_blocks_tools_and_state(streams: Streams) -> None:
    ended = await streams.run("agent", input=HELLO)
    assert ended.status == "success"
    blocks = [data for _, _, data in streams.told("messages")]
    starts = [data for data in blocks if data["event"] == "message-start"]
    assert [data["role"] for data in starts] == ["ai", "ai"]
    deltas = [data["delta"]["text"] for data in blocks if data["event"] == "content-block-delta"]
    assert deltas == ["let", " ", "me", " ", "look", "it", " ", "is", " ", "sunny"]
    assert [data["event"] for data in blocks].count("message-finish") == 2
    nodes = {e.origin.node for e in streams.bench.events if e.event == "messages" and e.origin}
    assert nodes == {"model"}
    tools = [data for _, _, data in streams.told("tools")]
    assert [data["event"] for data in tools] == ["tool-started", "tool-finished"]
    assert tools[0] == {
        "event": "tool-started",
        "tool_call_id": "call-1",
        "tool_name": "weather",
        "input": {"city": "Paris"},
    }
    assert tools[1]["output"]["content"] == "sunny"
    states = [data for _, _, data in streams.told("values")]
    assert [len(data["messages"]) for data in states] == [1, 2, 3, 4]
    human, ai, result, _ = states[-1]["messages"]
    assert human == {"type": "human", "content": "weather?", "id": "human-1"}
    assert set(result) == {"type", "content", "id", "name", "tool_call_id", "status"}
    assert ai["tool_calls"][0]["args"] == {"city": "Paris"}
    assert ai["id"] == starts[0]["id"]
    assert "additional_kwargs" not in ai
    updates = [data for _, _, data in streams.told("updates")]
    assert [data["node"] for data in updates] == ["model", "tools", "model"]
    assert streams.told("custom") == [("custom", (), {"payload": {"looking": "Paris"}})]
    points = [data for _, _, data in streams.told("checkpoints")]
    assert [data["step"] for data in points] == [-1, 0, 1, 2, 3]
    assert [data.get("parent_id") for data in points] == [None, *[data["id"] for data in points[:-1]]]
    assert streams.keys("checkpoints") == [f"checkpoint||{data['id']}" for data in points]
    tasks = [data for _, _, data in streams.told("tasks")]
    assert [data["name"] for data in tasks if "input" in data] == ["model", "tools", "model"]
    assert streams.told("lifecycle") == []


async def test_what_a_run_comes_to_is_the_same_as_by_modes(streams: Streams) -> None:
    for graph, given in (("asking", {"n": 1}), ("nested", {"n": 1}), ("data", {}), ("functional", {"n": 1})):
        by_protocol = await streams.run(graph, f"{graph}-p", input=given)
        by_modes = await streams.bench.run(
            streams.pool,
            graph,
            run_id=f"{graph}-m",
            thread_id=f"{graph}-m",
            input=given,
            stream_modes=["values"],
        )
        assert by_protocol.failure is None
        for field in ("status", "values", "next"):
            assert getattr(by_protocol, field) == getattr(by_modes, field)
        assert len(by_protocol.interrupts) == len(by_modes.interrupts)


async def test_an_interrupt_deep_inside_is_told_once_and_answered(streams: Streams) -> None:
    ended = await streams.run("nested")
    [(_, _, asked)] = streams.told("input.requested")
    assert asked["payload"] == asked["value"] == {"question": 1}
    [interrupts] = ended.interrupts.values()
    assert [one["id"] for one in interrupts] == [asked["interrupt_id"]]
    [key] = streams.keys("input.requested")
    assert key.startswith("input|")
    assert key.endswith(f"|{asked['interrupt_id']}")
    assert streams.graphs() == [
        (("outer",), "started"),
        (("outer", "deep"), "started"),
        (("outer", "deep"), "interrupted"),
        (("outer",), "interrupted"),
    ]
    assert all(INTERRUPT not in data for _, _, data in streams.told("values", "updates"))
    answered = await streams.run(
        "nested", input=None, run_id="again", command={"resume": {asked["interrupt_id"]: 41}}
    )
    assert (answered.status, answered.interrupts) == ("success", {})
    assert streams.told("values")[-1] == ("values", (), {"n": 41})
    assert [event for _, event in streams.graphs()] == ["started", "started", "completed", "completed"]


async def test_an_error_inside_is_told_and_shows_no_secret(streams: Streams) -> None:
    ended = await streams.run("failing")
    assert ended.status == "error"
    *_, (_, nodes, data) = streams.told("lifecycle")
    assert nodes == ("inside",)
    assert data == {"event": "failed", "graph_name": "inside", "error": f"OSError: {HIDDEN}"}
    assert b"password" not in streams.text()
    await streams.run("wrong_inside")
    assert [(nodes, data["error"]) for _, nodes, data in streams.told("lifecycle")[2:]] == [
        (("inside", "deep"), "ValueError: n must be positive"),
        (("inside",), "ValueError: n must be positive"),
    ]


async def test_errors_of_tools_are_shown_with_care(streams: Streams) -> None:
    for graph, shown in (("broken_tool", HIDDEN), ("wrong_tool", "one city at a time")):
        ended = await streams.run(graph, input=HELLO)
        assert ended.status == "error"
        tools = [data for _, _, data in streams.told("tools")]
        assert tools[1:] == [{"event": "tool-error", "tool_call_id": "call-1", "message": shown}]
        assert b"password" not in streams.text()


async def test_an_error_closes_its_neighbours_the_deepest_first(streams: Streams) -> None:
    ended = await streams.run("neighbours")
    assert ended.status == "error"
    assert streams.graphs() == [
        (("sub",), "started"),
        (("sub", "deep"), "started"),
        (("sub", "deep"), "failed"),
        (("sub",), "failed"),
    ]
    assert b"password" not in streams.text()


async def test_a_graph_at_a_breakpoint_is_not_told_to_be_complete(streams: Streams) -> None:
    paused = await streams.run("paused_inside")
    assert (paused.status, paused.next) == ("success", ["inside"])
    assert streams.graphs()[2:] == [(("inside", "deep"), "interrupted"), (("inside",), "interrupted")]
    await streams.run("paused_inside", input=None, run_id="on")
    assert streams.graphs()[2:] == [(("inside", "deep"), "completed"), (("inside",), "completed")]


async def test_a_graph_that_a_task_calls_is_closed(streams: Streams) -> None:
    await streams.run("calling", input={"n": 1})
    [(_, event)] = streams.graphs()[1:]
    assert event == "interrupted"
    [(_, _, asked)] = streams.told("input.requested")
    await streams.run("calling", input=None, run_id="called", command={"resume": {asked["interrupt_id"]: 41}})
    assert [event for _, event in streams.graphs()] == ["started", "completed"]


async def test_tasks_come_behind_the_begin_of_their_graph(streams: Streams) -> None:
    await streams.run("nested", "in-order")
    told = [(method, nodes) for method, nodes, _ in streams.told("tasks", "lifecycle")]
    for nodes in (("outer",), ("outer", "deep")):
        assert told.index(("lifecycle", nodes)) < told.index(("tasks", nodes))


async def test_states_of_classes_and_updates_from_a_cache(streams: Streams) -> None:
    await streams.run("data", input={"n": 1})
    assert streams.told("values")[-1][2]["log"] == [{"type": "human", "content": "hi", "id": "h-1"}]
    await streams.run("model", input={"n": 0})
    told = {"n": 1, "messages": [{"type": "ai", "content": "told", "id": "ai-2"}]}
    assert streams.told("values")[-1][2] == told
    assert streams.told("updates")[-1][2] == {"node": "tell", "values": told}
    for run_id in ("cached-1", "cached-2"):
        await streams.run("cached", run_id=run_id)
        assert [data for _, _, data in streams.told("updates")] == [{"node": "five", "values": {"n": 5}}]


async def test_what_is_the_servers_own_is_not_told(streams: Streams) -> None:
    own = {"langgraph_auth_user": {"identity": "ada", "token": "hidden-1"}, "__pregel_own": "hidden-2"}
    config = {"configurable": {**own, "tone": "low"}, "metadata": {"langgraph_auth_user_id": "hidden-3"}}
    await streams.run("spying", input=HELLO, config=config)
    tools = [data for _, _, data in streams.told("tools")]
    assert [data["event"] for data in tools] == ["tool-started", "tool-output-delta", "tool-finished"]
    assert tools[0]["input"] == {"q": "config"}
    assert tools[1]["delta"] == {"found": "config"}
    await streams.run("nested", "secret", config=config)
    assert {method for method, _, _ in streams.told()} >= {"tasks", "checkpoints", "values", "lifecycle"}
    assert b"hidden" not in streams.text()
    assert b"__pregel_own" not in streams.text()


async def test_an_older_langgraph_is_told_of(streams: Streams) -> None:
    ended = await streams.run("older")
    assert ended.status == "error"
    assert ended.failure is not None
    assert "1.2.22 or newer is needed" in ended.failure.message
    assert streams.told() == []
    again = await streams.bench.run(
        streams.pool, "older", run_id="by-modes", thread_id="by-modes", input={"n": 1}
    )
    assert again.status == "success"


async def test_a_stop_closes_what_is_open_the_deepest_first(streams: Streams) -> None:
    running = asyncio.create_task(streams.run("slow"))
    await streams.bench.until(lambda event: event.event == "lifecycle" and len(nodes_of(event)) == 2)
    streams.pool.cancel("slow")
    assert (await running).status == "cancelled"
    assert streams.graphs()[2:] == [(("inside", "deep"), "interrupted"), (("inside",), "interrupted")]


async def test_breakpoints_and_messages_that_nobody_streamed(streams: Streams) -> None:
    ended = await streams.run("asking", "paused", interrupt_before=["ask"])
    assert ended.next == ["ask"]
    assert streams.told("input.requested") == []
    await streams.run("silent", input=HELLO)
    blocks = [data for _, _, data in streams.told("messages")]
    assert blocks[0]["event"] == "message-start"
    assert "".join(d["delta"]["text"] for d in blocks if "delta" in d) == "written at once"


async def test_a_run_in_the_protocol_waits_for_whoever_takes_its_events(streams: Streams) -> None:
    streams.bench.takes = False
    try:
        state = {"n": 0, "messages": []}
        given = {"messages": [{"role": "user", "content": "x" * 3_000_000, "id": "long"}]}
        running = asyncio.create_task(streams.run("agent", "waits", input=given | {"n": state["n"]}))
        await streams.bench.until(lambda event: event.event == "values")
        await asyncio.sleep(0.3)
        assert not running.done()
        assert len(streams.told("values")) == 1
        streams.pool.taken("waits", 1 << 40)
        assert (await running).status == "success"
    finally:
        streams.bench.takes = True
