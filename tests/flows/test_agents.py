"""Agents as people build them, driven by the stock SDK: tokens, tools, pauses, graphs that do not behave."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_sync_client

HELLO = {"messages": [{"role": "user", "content": "how is the weather?"}]}
ALL_MODES: Any = [
    "values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server("agents", CRONLEDGER_CANCEL_GRACE_S="0.5")


@pytest.fixture
def sync_client(server: Any) -> Iterator[Any]:
    with get_sync_client(url=server.url) as connected:
        yield connected


async def new_thread(client: Any) -> str:
    return str((await client.threads.create())["thread_id"])


async def collected(stream: Any) -> list[Any]:
    return [part async for part in stream]


def names(parts: list[Any]) -> list[str]:
    return [part.event for part in parts]


# --- tokens and tools ---------------------------------------------------------------------------------


async def test_agent_streams_its_tokens(client: Any) -> None:
    thread_id = await new_thread(client)
    parts = await collected(client.runs.stream(thread_id, "chat", input=HELLO, stream_mode="messages-tuple"))
    assert names(parts)[0] == "metadata"
    assert names(parts)[-1] == "end"
    chunks = [part.data for part in parts if part.event == "messages"]
    spoken = [chunk for chunk, _ in chunks if chunk["type"] == "AIMessageChunk" and chunk["content"]]
    assert (
        "".join(chunk["content"] for chunk in spoken) == "The tool said: It is sunny in Oslo. Anything else?"
    )
    assert len(spoken) > 5
    assert len({chunk["id"] for chunk in spoken}) == 1
    assert {metadata["langgraph_node"] for _, metadata in chunks} == {"model", "tools"}
    assert not any(key.startswith("langgraph_auth") for _, metadata in chunks for key in metadata)


async def test_messages_grow_as_a_whole(client: Any) -> None:
    thread_id = await new_thread(client)
    parts = await collected(client.runs.stream(thread_id, "chat", input=HELLO, stream_mode="messages"))
    partial = [part.data[0] for part in parts if part.event == "messages/partial"]
    assert [message["type"] for message in partial] == ["ai"] * len(partial)
    spoken = [message["content"] for message in partial if message["content"]]
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(spoken))
    assert spoken[-1].endswith("Anything else?")
    [tool] = [p.data[0] for p in parts if p.event == "messages/complete" and p.data[0]["type"] == "tool"]
    assert tool["content"] == "It is sunny in Oslo."
    about = [part for part in parts if part.event == "messages/metadata"]
    assert {message_id for part in about for message_id in part.data} >= {partial[-1]["id"], tool["id"]}


async def test_every_mode_at_once(client: Any) -> None:
    thread_id = await new_thread(client)
    parts = await collected(client.runs.stream(thread_id, "chat", input=HELLO, stream_mode=ALL_MODES))
    seen = set(names(parts))
    expected = {"values", "updates", "messages", "tasks", "checkpoints", "debug", "events", "metadata", "end"}
    assert expected <= seen
    assert seen <= expected | {"custom"}
    values = [part.data for part in parts if part.event == "values"]
    assert [len(value["messages"]) for value in values] == [1, 2, 3, 4]
    updates = [next(iter(part.data)) for part in parts if part.event == "updates"]
    assert updates == ["model", "tools", "model"]
    state: Any = await client.threads.get_state(thread_id)
    assert state["values"] == values[-1]


async def test_wait_gives_the_final_values(client: Any) -> None:
    thread_id = await new_thread(client)
    values: Any = await client.runs.wait(thread_id, "chat", input=HELLO)
    assert [message["type"] for message in values["messages"]] == ["human", "ai", "tool", "ai"]
    again: Any = await client.runs.wait(thread_id, "chat", input=HELLO)
    assert len(again["messages"]) == 8


def test_the_sync_client_sees_the_same(sync_client: Any) -> None:
    thread = sync_client.threads.create()
    parts = list(
        sync_client.runs.stream(
            thread["thread_id"], "chat", input=HELLO, stream_mode=["values", "messages-tuple"]
        )
    )
    assert {"metadata", "values", "messages", "end"} == set(names(parts))
    values = sync_client.runs.wait(None, "chat", input=HELLO)
    assert values["messages"][-1]["content"].startswith("The tool said")
    run = sync_client.runs.create(thread["thread_id"], "approval", input={"amount": 1})
    assert sync_client.runs.join(thread["thread_id"], run["run_id"])["__interrupt__"]
    assert sync_client.threads.get_state(thread["thread_id"])["next"] == ["decide"]


# --- the context of a run -----------------------------------------------------------------------------

CONTEXTS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("dataclass_context", {}, "OfDataclass", {"model": "small", "depth": 2}),
    (
        "dataclass_context",
        {"context": {"depth": 3, "other": 1}},
        "OfDataclass",
        {"model": "small", "depth": 3},
    ),
    (
        "dataclass_context",
        {"config": {"configurable": {"model": "big"}}},
        "OfDataclass",
        {"model": "big", "depth": 2},
    ),
    ("pydantic_context", {}, "OfPydantic", {"model": "small", "depth": 2}),
    (
        "pydantic_context",
        {"context": {"how_deep": 5, "other": 1}},
        "OfPydantic",
        {"model": "small", "depth": 5},
    ),
    ("typed_dict_context", {}, "dict", {}),
    ("typed_dict_context", {"context": {"model": "big", "other": 1}}, "dict", {"model": "big"}),
    ("free_context", {}, "dict", {}),
    ("free_context", {"context": {"other": 1}}, "dict", {"other": 1}),
]


@pytest.mark.parametrize(("graph", "given", "kind", "seen"), CONTEXTS)
async def test_context_is_an_instance_of_its_schema(
    client: Any, graph: str, given: dict[str, Any], kind: str, seen: dict[str, Any]
) -> None:
    values = await client.runs.wait(None, graph, input={"kind": ""}, **given)
    assert (values["kind"], values["seen"]) == (kind, seen)


async def test_context_and_configurable_mirror_each_other(client: Any) -> None:
    values = await client.runs.wait(None, "dataclass_context", input={"kind": ""}, context={"model": "big"})
    assert values["mirrored"] == {"model": "big"}


async def test_a_context_that_its_schema_refuses_is_the_runs_error(client: Any) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(
        thread_id, "pydantic_context", input={"kind": ""}, context={"how_deep": 10}
    )
    await client.runs.join(thread_id, run["run_id"])
    ended = await client.runs.get(thread_id, run["run_id"])
    assert ended["status"] == "error"
    assert "how_deep" in ended["error_message"]


# --- people in the loop -------------------------------------------------------------------------------


async def test_pause_and_resume(client: Any) -> None:
    thread_id = await new_thread(client)
    parts = await collected(
        client.runs.stream(thread_id, "approval", input={"amount": 5}, stream_mode="values")
    )
    shown = [p.data["__interrupt__"] for p in parts if p.event == "values" and "__interrupt__" in p.data]
    [[pause]] = shown
    assert pause["value"] == {"question": "buy?", "amount": 5}
    values: Any = await client.runs.wait(thread_id, "approval", command={"resume": "yes"})
    assert values["notes"] == ["checked", "decision was yes"]
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_resume_the_instant_that_the_pause_is_seen(client: Any) -> None:
    thread_id = await new_thread(client)
    async for part in client.runs.stream(thread_id, "approval", input={"amount": 5}, stream_mode="updates"):
        if part.event == "updates" and "__interrupt__" in part.data:
            break
    values: Any = await client.runs.wait(thread_id, "approval", command={"resume": "at once"})
    assert values["decision"] == "at once"


async def test_interrupts_reach_whoever_asked_for_neither_values_nor_updates(client: Any) -> None:
    thread_id = await new_thread(client)
    parts = await collected(
        client.runs.stream(thread_id, "approval", input={"amount": 1}, stream_mode="custom")
    )
    [shown] = [part.data for part in parts if part.event == "values"]
    assert shown["__interrupt__"][0]["value"]["question"] == "buy?"


async def test_several_questions_are_answered_by_their_ids(client: Any) -> None:
    thread_id = await new_thread(client)
    values: Any = await client.runs.wait(thread_id, "two_questions", input={})
    by_value = {pause["value"]: pause["id"] for pause in values["__interrupt__"]}
    assert set(by_value) == {"first?", "second?"}
    answered: Any = await client.runs.wait(
        thread_id, "two_questions", command={"resume": {by_value["second?"]: "b", by_value["first?"]: "a"}}
    )
    assert sorted(answered["notes"]) == ["first: a", "second: b"]


async def test_command_writes_and_goes(client: Any) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "approval", input={"amount": 5})
    await client.runs.wait(thread_id, "approval", command={"resume": "yes"})
    values: Any = await client.runs.wait(
        thread_id, "approval", command={"update": {"decision": "set"}, "goto": "act"}
    )
    assert "decision was set" in values["notes"]
    sent: Any = await client.runs.wait(
        thread_id, "approval", command={"goto": {"node": "act", "input": {"decision": "sent"}}}
    )
    assert "decision was sent" in sent["notes"]


async def test_new_input_discards_the_pause(client: Any) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "approval", input={"amount": 1})
    again: Any = await client.runs.wait(thread_id, "approval", input={"amount": 2})
    assert again["__interrupt__"][0]["value"]["amount"] == 2


# --- graphs in graphs ---------------------------------------------------------------------------------


async def test_subgraphs_stream_with_their_names(client: Any) -> None:
    thread_id = await new_thread(client)
    parts = await collected(
        client.runs.stream(thread_id, "nested", input={}, stream_mode="updates", stream_subgraphs=True)
    )
    inside = [name for name in names(parts) if name.startswith("updates|child:")]
    assert inside
    assert len(set(inside)) == 1
    without = await collected(client.runs.stream(thread_id, "nested", input={}, stream_mode="updates"))
    assert not any("|" in name for name in names(without))


async def test_pause_inside_a_subgraph(client: Any) -> None:
    thread_id = await new_thread(client)
    values: Any = await client.runs.wait(thread_id, "nested", input={"topic": "ask"})
    assert values["__interrupt__"][0]["value"] == "inside?"
    state: Any = await client.threads.get_state(thread_id, subgraphs=True)
    [task] = state["tasks"]
    assert task["state"]["next"] == ["inner_ask"]
    done: Any = await client.runs.wait(thread_id, "nested", command={"resume": "yes"})
    assert done["path"] == ["before", "inner", "asked yes", "after"] or "asked yes" in done["path"]


# --- graphs that do not behave ------------------------------------------------------------------------


async def test_blocking_nodes_do_not_block_each_other(client: Any) -> None:
    threads = [await new_thread(client) for _ in range(4)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    waits = (client.runs.wait(thread, "blocking", input={"wait_s": 1.0}) for thread in threads)
    values: Any = await asyncio.gather(*waits)
    assert [value["count"] for value in values] == [1] * 4
    assert loop.time() - began < 3.5  # one after the other it would take four seconds


async def test_raising_graph(client: Any) -> None:
    thread_id = await new_thread(client)
    parts = await collected(client.runs.stream(thread_id, "raising", input={}))
    assert parts[-1].event == "error"
    assert parts[-1].data == {"error": "ValueError", "message": "it is broken"}
    with pytest.raises(Exception, match="ValueError: it is broken"):
        await client.runs.wait(thread_id, "raising", input={})
    answer: Any = await client.runs.wait(thread_id, "secretive", input={}, raise_error=False)
    assert answer == {"__error__": {"error": "Leak", "message": "An internal error occurred"}}
    thread: Any = await client.threads.get(thread_id)
    assert (thread["status"], thread["error"]["error"]) == ("error", "Leak")


async def test_endless_graph_is_cancelled(client: Any) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "endless", input={})
    await running(client, thread_id, run)
    await client.runs.cancel(thread_id, run["run_id"], wait=True)
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "interrupted"
    values: Any = await client.runs.wait(thread_id, "narrow", input={})
    assert values == {"answer": "42"}


async def test_stuck_graph_is_killed_and_its_neighbours_go_on(client: Any, tmp_path: Path) -> None:
    stuck, neighbour = await new_thread(client), await new_thread(client)
    mark = tmp_path / "begun"
    run = await client.runs.create(stuck, "stuck", input={"mark": str(mark)})
    async with asyncio.timeout(30):
        while not mark.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    other = await client.runs.create(neighbour, "blocking", input={"wait_s": 2.0})
    await running(client, neighbour, other)
    await client.runs.cancel(stuck, run["run_id"], wait=True)
    assert (await client.runs.get(stuck, run["run_id"]))["status"] == "interrupted"
    values: Any = await client.runs.join(neighbour, other["run_id"])
    assert values["count"] == 1
    told: Any = await client.http.get(f"/threads/{neighbour}/runs/{other['run_id']}/ledger")
    starts = [entry["data"] for entry in told if entry["type"] == "run.started.v1"]
    assert [start["attempt"] for start in starts] == [1, 2]
    assert starts[1]["excused"] is True


async def running(client: Any, thread_id: str, run: Any) -> None:
    async with asyncio.timeout(30):
        while (await client.runs.get(thread_id, run["run_id"]))["status"] != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.02)


# --- what graphs are made of --------------------------------------------------------------------------


async def test_output_schema_is_what_a_run_gives(client: Any) -> None:
    thread_id = await new_thread(client)
    assert await client.runs.wait(thread_id, "narrow", input={}) == {"answer": "42"}
    [run] = await client.runs.list(thread_id)
    assert run["output"] == {"answer": "42"}
    state: Any = await client.threads.get_state(thread_id)
    assert state["values"]["secret"] == "in the state"


@pytest.mark.parametrize(
    ("graph", "answer"),
    [
        ("plain_factory", "plain"),
        ("config_factory", "config kind"),
        ("runtime_factory", "runtime threads.create_run"),
        ("both_factory", "both threads.create_run kind"),
        ("async_factory", "async"),
        ("async_context_factory", "async context"),
    ],
)
async def test_factories_of_each_signature(client: Any, graph: str, answer: str) -> None:
    thread_id = await new_thread(client)
    values: Any = await client.runs.wait(
        thread_id, graph, input={}, config={"configurable": {"tone": "kind"}}
    )
    assert values["answer"] == answer


async def test_context_of_a_factory_is_left_after_each_run(client: Any) -> None:
    thread_id = await new_thread(client)
    answers = [(await client.runs.wait(thread_id, "context_factory", input={}))["answer"] for _ in range(2)]
    assert answers == ["context, left 0 times", "context, left 1 times"]


async def test_nodes_and_clients_share_the_store(client: Any) -> None:
    thread_id = await new_thread(client)
    for times in (1, 2):
        values: Any = await client.runs.wait(thread_id, "remembering", input={})
        assert values["answer"] == f"seen {times} times"
    item = await client.store.get_item(("tests", "memory"), "seen")
    assert item["value"] == {"times": 2}
    await client.store.put_item(("tests", "memory"), "seen", {"times": 10})
    values = await client.runs.wait(None, "remembering", input={})
    assert values["answer"] == "seen 11 times"
    found = await client.store.search_items(("tests",), filter={"times": {"$gt": 5}})
    assert [entry["key"] for entry in found["items"]] == ["seen"]
    assert (await client.store.list_namespaces())["namespaces"] == [["tests", "memory"]]
    await client.store.delete_item(("tests", "memory"), key="seen")
    assert await client.store.get_item(("tests", "memory"), "seen") is None


async def test_graphs_tell_of_themselves(client: Any) -> None:
    drawn: Any = await client.assistants.get_graph("nested")
    assert {node["id"] for node in drawn["nodes"]} >= {"before", "child", "after"}
    inside: Any = await client.assistants.get_graph("nested", xray=True)
    assert len(inside["nodes"]) > len(drawn["nodes"])
    schemas: Any = await client.assistants.get_schemas("narrow")
    assert set(schemas["output_schema"]["properties"]) == {"answer"}
    subgraphs: Any = await client.assistants.get_subgraphs("nested")
    assert set(subgraphs) == {"child"}
