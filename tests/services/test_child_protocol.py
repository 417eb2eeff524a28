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
    from dataclasses import dataclass, field
    from typing import TypedDict

    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_core.tools import tool
    from langgraph.config import get_stream_writer
    from langgraph.func import entrypoint
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode
    from langgraph.types import interrupt


    @tool
    def weather(city: str) -> str:
        """The weather."""
        if city == "Nowhere":
            raise OSError("password")
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


    def one_of(state, **nodes):
        builder = StateGraph(state)
        builder.add_sequence(list(nodes.items()))
        builder.add_edge(START, next(iter(nodes)))
        return builder.compile()


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

    agent = agent_of("Paris")
    broken_tool = agent_of("Nowhere")
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
'''
NAMES = ["agent", "broken_tool", "asking", "nested", "failing", "slow", "silent", "data", "functional"]
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
    graphs = [(nodes, data["event"]) for _, nodes, data in streams.told("lifecycle")]
    assert graphs == [
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
    assert [data["event"] for _, _, data in streams.told("lifecycle")] == [
        "started",
        "started",
        "completed",
        "completed",
    ]


INTERRUPT = "__interrupt__"


async def test_an_error_inside_shows_no_secret(streams: Streams) -> None:
    ended = await streams.run("failing")
    assert ended.status == "error"
    *_, (_, nodes, data) = streams.told("lifecycle")
    assert (nodes, data["event"], data["graph_name"]) == (("inside",), "failed", "inside")
    broken = await streams.run("broken_tool", input=HELLO)
    assert broken.status == "error"
    assert [data["event"] for _, _, data in streams.told("tools")] == ["tool-started", "tool-error"]
    assert b"password" not in b"".join(bytes(event.data) for event in streams.bench.events)


async def test_a_stop_closes_what_is_open_the_deepest_first(streams: Streams) -> None:
    running = asyncio.create_task(streams.run("slow"))
    await streams.bench.until(lambda event: event.event == "lifecycle" and len(nodes_of(event)) == 2)
    streams.pool.cancel("slow")
    assert (await running).status == "cancelled"
    closed = [(nodes, data["event"]) for _, nodes, data in streams.told("lifecycle")][2:]
    assert closed == [(("inside", "deep"), "interrupted"), (("inside",), "interrupted")]


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
