"""Agents made by the libraries that people use run unchanged, through the stock client."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

ALL_MODES: Any = [
    "values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events",
]  # fmt: skip
APPROVED = {"command": {"resume": {"decisions": [{"type": "approve"}]}}}
SAID = {"command": {"resume": "Oslo"}}
STOPPED = {"interrupt_before": ["tools"]}
# (graph, what makes its first run pause, what lets it go on, what it says in the end)
AGENTS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("reviewed", {}, APPROVED, "done: mail to ada was sent"),
    ("deep", {}, APPROVED, "done: mail to ada was sent"),
    ("supervised", {}, SAID, "done: Successfully transferred to researcher"),
    ("swarm", {}, SAID, "done: a person said Oslo"),
    ("react", STOPPED, {"input": None}, 'done: {"found": "weather", "at_most": 10}'),
]
each = pytest.mark.parametrize(("graph", "pausing", "resuming", "last"), AGENTS, ids=[a[0] for a in AGENTS])
GO = {"messages": [{"role": "user", "content": "go"}]}
HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server("frameworks")


async def new_thread(client: Any) -> str:
    return str((await client.threads.create())["thread_id"])


@each
async def test_it_pauses_and_goes_on(
    client: Any, graph: str, pausing: dict[str, Any], resuming: dict[str, Any], last: str
) -> None:
    thread_id = await new_thread(client)
    paused = await client.runs.wait(thread_id, graph, input=GO, **pausing)
    assert paused["messages"][0]["content"] == "go"
    assert (await client.threads.get(thread_id))["status"] == "interrupted"
    state = await client.threads.get_state(thread_id)
    assert state["next"]
    assert pausing or state["interrupts"]
    ended = await client.runs.wait(thread_id, graph, **resuming)
    assert ended["messages"][-1]["type"] == "ai"
    assert ended["messages"][-1]["content"].strip() == last
    assert (await client.threads.get(thread_id))["status"] == "idle"


@each
async def test_it_streams_in_every_mode(
    client: Any, graph: str, pausing: dict[str, Any], resuming: dict[str, Any], last: str
) -> None:
    thread_id, seen, spoken = await new_thread(client), set[str](), ""
    for asked in ({"input": GO, **pausing}, resuming):
        parts = client.runs.stream(
            thread_id, graph, **asked, stream_mode=ALL_MODES, stream_subgraphs=True, stream_resumable=True
        )
        async for part in parts:
            assert part.event != "error", part.data
            mode, _, _ = part.event.partition("|")
            seen.add(mode)
            if mode == "messages" and part.data[0]["type"] == "AIMessageChunk":
                spoken += part.data[0]["content"]
    modes = {"metadata", "values", "updates", "messages", "tasks", "checkpoints", "debug", "events", "end"}
    assert modes <= seen
    assert last in spoken.replace("  ", " ")
    # An agent within another one speaks in a namespace.
    alone = client.runs.stream(None, graph, input=HI, stream_mode="messages", stream_subgraphs=True)
    partial = [p.data[0]["content"] async for p in alone if p.event.startswith("messages/partial")]
    assert partial[-1].strip() == "hi to you"


@each
async def test_it_runs_on_a_cron(
    client: Any, graph: str, pausing: dict[str, Any], resuming: dict[str, Any], last: str
) -> None:
    thread_id = await new_thread(client)
    cron = await client.crons.create_for_thread(thread_id, graph, schedule="* * * * * *", input=HI)
    try:
        async with asyncio.timeout(30):
            while len(runs := await client.runs.list(thread_id, status="success")) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    finally:
        await client.crons.delete(cron["cron_id"])
    values = await client.runs.join(thread_id, runs[0]["run_id"])
    assert values["messages"][-1]["content"].strip() == "hi to you"
    assert len([message for message in values["messages"] if message["type"] == "human"]) >= 3


@each
async def test_its_drawing_and_its_schemas_can_be_asked_for(
    client: Any, graph: str, pausing: dict[str, Any], resuming: dict[str, Any], last: str
) -> None:
    [assistant] = await client.assistants.search(graph_id=graph)
    drawing = await client.assistants.get_graph(assistant["assistant_id"], xray=True)
    assert len({node["id"] for node in drawing["nodes"]} - {"__start__", "__end__"}) >= 2
    schemas = await client.assistants.get_schemas(assistant["assistant_id"])
    assert "messages" in schemas["input_schema"]["properties"]


async def test_a_context_of_ones_own_takes_the_place_of_a_default(client: Any) -> None:
    ended = await client.runs.wait(
        None, "react", input=GO, context={"most_results": 3, "unknown_to_the_schema": 1}
    )
    assert '"at_most": 3' in ended["messages"][-1]["content"]
    assistant = await client.assistants.create("react", config={"configurable": {"most_results": 4}})
    ended = await client.runs.wait(None, assistant["assistant_id"], input=GO)
    assert '"at_most": 4' in ended["messages"][-1]["content"]
