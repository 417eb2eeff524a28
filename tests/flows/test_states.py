"""Threads' states through the stock SDK: read, written, forked, paged, copied, made by supersteps."""

import asyncio
import json
from collections.abc import Callable
from textwrap import dedent
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    UnprocessableEntityError,
)

NESTED = """


    inner = StateGraph(State)
    inner.add_node("prepare", add)
    inner.add_node("ask", ask)
    inner.add_edge(START, "prepare")
    inner.add_edge("prepare", "ask")
    outer = StateGraph(State)
    outer.add_node("inside", inner.compile())
    outer.add_edge(START, "inside")
    nested = outer.compile()
"""


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    """A server with a graph within a graph as well."""
    made = make_shared_server()
    made.stop()
    graphs(made, nested="./graphs.py:nested")
    code = made.folder / "project" / "graphs.py"
    code.write_text(code.read_text() + dedent(NESTED))
    return made.start()


def graphs(server: Any, *without: str, **more: str) -> None:
    """Change the graphs of the server's project; it must not be running."""
    config = server.folder / "project" / "langgraph.json"
    project = json.loads(config.read_text())
    named = {**project["graphs"], **more}
    project["graphs"] = {name: place for name, place in named.items() if name not in without}
    config.write_text(json.dumps(project))


async def ran(client: Any, graph: str, times: int = 1, thread_id: str | None = None, **more: Any) -> str:
    """A thread on which the graph ran that often."""
    thread_id = thread_id or str((await client.threads.create())["thread_id"])
    for _ in range(times):
        run = await client.runs.create(thread_id, graph, input={"wait_s": 0}, **more)
        await client.runs.join(thread_id, run["run_id"])
    return thread_id


async def test_state_of_a_thread(client: Any) -> None:
    thread_id = await ran(client, "two_steps")
    state = await client.threads.get_state(thread_id)
    assert (state["values"]["count"], state["next"], state["tasks"]) == (2, [], [])
    assert state["checkpoint"]["thread_id"] == thread_id
    assert state["checkpoint_id"] == state["checkpoint"]["checkpoint_id"]
    assert state["parent_checkpoint_id"] == state["parent_checkpoint"]["checkpoint_id"]
    assert state["metadata"]["step"] == 2
    before = await client.threads.get_state(thread_id, checkpoint=state["parent_checkpoint"])
    assert (before["values"]["count"], before["next"]) == (1, ["second"])
    same = await client.threads.get_state(thread_id, checkpoint_id=state["parent_checkpoint_id"])
    assert same == before
    unknown = await client.threads.get_state(thread_id, checkpoint_id=str(uuid4()))
    assert (unknown["values"], unknown["next"]) == ({}, [])


async def test_state_of_a_thread_that_never_ran(client: Any) -> None:
    plain = await client.threads.create()
    named = await client.threads.create(graph_id="counter")
    for thread in (plain, named):
        state = await client.threads.get_state(thread["thread_id"])
        shown = {name: state[name] for name in ("values", "next", "tasks", "metadata", "checkpoint")}
        assert shown == {"values": {}, "next": [], "tasks": [], "metadata": None, "checkpoint": None}
        assert await client.threads.get_history(thread["thread_id"]) == []
    with pytest.raises(BadRequestError, match="no graph"):
        await client.threads.update_state(plain["thread_id"], {"count": 1})


async def test_written_state_is_the_threads(client: Any) -> None:
    thread_id = await ran(client, "two_steps")
    written = await client.threads.update_state(thread_id, {"count": 40}, as_node="first")
    place = written["checkpoint"]
    assert place.keys() == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    assert written["configurable"] == place
    assert written["checkpoint_id"] == place["checkpoint_id"]
    state = await client.threads.get_state(thread_id)
    assert state["checkpoint_id"] == written["checkpoint_id"]
    assert (state["values"]["count"], state["next"]) == (42, ["second"])
    thread = await client.threads.get(thread_id)
    assert (thread["status"], thread["values"]["count"]) == ("interrupted", 42)
    assert len(await client.runs.list(thread_id)) == 1
    run = await client.runs.create(thread_id, "two_steps", input=None)
    assert (await client.runs.join(thread_id, run["run_id"]))["count"] == 43
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_first_write_into_a_thread_that_names_its_graph(client: Any) -> None:
    thread = await client.threads.create(graph_id="counter")
    await client.threads.update_state(thread["thread_id"], {"count": 5}, as_node="node")
    found = await client.threads.get(thread["thread_id"])
    assert (found["values"], found["metadata"]) == ({"count": 5}, {"graph_id": "counter"})


async def test_write_that_the_graph_refuses_changes_nothing(client: Any) -> None:
    thread_id = await ran(client, "counter")
    before = await client.threads.get_state(thread_id)
    with pytest.raises(UnprocessableEntityError, match="nobody"):
        await client.threads.update_state(thread_id, {"count": 1}, as_node="nobody")
    assert await client.threads.get_state(thread_id) == before
    thread = await client.threads.get(thread_id)
    assert (thread["status"], thread["error"]) == ("idle", None)


async def test_fork_from_an_earlier_checkpoint(client: Any) -> None:
    thread_id = await ran(client, "counter", times=2)
    first = next(s for s in await client.threads.get_history(thread_id) if s["values"].get("count") == 1)
    fork = await client.threads.update_state(
        thread_id, {"count": 10}, as_node="node", checkpoint=first["checkpoint"]
    )
    state = await client.threads.get_state(thread_id)
    assert (state["values"]["count"], state["checkpoint_id"]) == (11, fork["checkpoint_id"])
    assert state["parent_checkpoint_id"] == first["checkpoint_id"]
    copied = await client.threads.update_state(
        thread_id, None, as_node="__copy__", checkpoint_id=first["checkpoint_id"]
    )
    state = await client.threads.get_state(thread_id)
    assert (state["values"]["count"], state["checkpoint_id"]) == (1, copied["checkpoint_id"])
    assert copied["checkpoint_id"] != first["checkpoint_id"]
    await ran(client, "counter", thread_id=thread_id)
    assert (await client.threads.get(thread_id))["values"]["count"] == 2


async def test_history_is_paged_by_any_form_of_before(client: Any, server: Any) -> None:
    thread_id = await ran(client, "counter", times=3, metadata={"round": "x"})
    states = await client.threads.get_history(thread_id, limit=100)
    assert len(states) == 9
    created = [state["created_at"] for state in states]
    assert created == sorted(created, reverse=True)
    assert await client.threads.get_history(thread_id, limit=2) == states[:2]
    checkpoint = states[2]["checkpoint"]
    forms: list[Any] = [
        checkpoint["checkpoint_id"],
        checkpoint,
        {"configurable": {"checkpoint_id": checkpoint["checkpoint_id"]}},
    ]
    for before in forms:
        assert await client.threads.get_history(thread_id, limit=3, before=before) == states[3:6], before
    inputs = await client.threads.get_history(thread_id, limit=100, metadata={"source": "input"})
    assert inputs == [state for state in states if state["metadata"]["source"] == "input"]
    assert len(inputs) == 3
    async with httpx.AsyncClient(base_url=server.url) as http:
        path = f"/threads/{thread_id}/history"
        assert (await http.get(path)).json() == states
        query = {"limit": 2, "before": checkpoint["checkpoint_id"]}
        assert (await http.get(path, params=query)).json() == states[3:5]
        assert (await http.post(path, json={})).json() == states[:1]


async def test_states_of_subgraphs(client: Any) -> None:
    thread_id = await ran(client, "nested")
    state = await client.threads.get_state(thread_id)
    [task] = state["tasks"]
    assert (state["next"], task["name"], task["state"]) == (["inside"], "inside", None)
    namespace = task["checkpoint"]["checkpoint_ns"]
    assert namespace.startswith("inside:")
    whole = await client.threads.get_state(thread_id, subgraphs=True)
    inner = whole["tasks"][0]["state"]
    assert (inner["values"]["count"], inner["next"]) == (1, ["ask"])
    assert inner["checkpoint"]["checkpoint_ns"] == namespace
    alone = await client.threads.get_state(thread_id, checkpoint=inner["checkpoint"])
    assert alone["values"] == inner["values"]
    newest = await client.threads.get_state(thread_id, checkpoint=task["checkpoint"])
    assert newest["values"] == inner["values"]
    inside = await client.threads.get_history(thread_id, checkpoint=task["checkpoint"], limit=10)
    assert inside[0]["values"] == inner["values"]
    assert len(inside) > 1


async def test_copy_goes_its_own_way(client: Any, server: Any) -> None:
    thread_id = await ran(client, "counter", times=2)
    await client.threads.update(thread_id, metadata={"topic": "t"})
    copied: Any = await client.threads.copy(thread_id)
    copy_id = copied["thread_id"]
    assert copy_id != thread_id
    assert (copied["status"], copied["values"]["count"]) == ("idle", 2)
    assert (copied["metadata"]["topic"], copied["metadata"]["graph_id"]) == ("t", "counter")
    source, target = [await client.threads.get_history(each, limit=100) for each in (thread_id, copy_id)]
    assert [state["values"] for state in target] == [state["values"] for state in source]
    assert {state["checkpoint"]["thread_id"] for state in target} == {copy_id}
    assert await client.runs.list(copy_id) == []
    await ran(client, "counter", times=2, thread_id=copy_id)
    await ran(client, "counter", thread_id=thread_id)
    assert (await client.threads.get_state(copy_id))["values"]["count"] == 4
    assert (await client.threads.get_state(thread_id))["values"]["count"] == 3
    await client.threads.delete(copy_id)
    assert (await client.threads.get_state(thread_id))["values"]["count"] == 3
    async with httpx.AsyncClient(base_url=server.url) as http:
        never = (await client.threads.create(metadata={"a": 1}))["thread_id"]
        answer = await http.post(f"/threads/{never}/copy", headers={"content-type": "text/plain"})
        assert answer.status_code == 200
        assert (answer.json()["values"], answer.json()["metadata"]) == (None, {"a": 1})
        assert (await http.post(f"/threads/{uuid4()}/copy")).status_code == 404


async def test_copy_of_a_paused_thread_can_be_answered(client: Any) -> None:
    thread_id = await ran(client, "asking")
    copied: Any = await client.threads.copy(thread_id)
    assert copied["status"] == "interrupted"
    assert copied["interrupts"] == (await client.threads.get(thread_id))["interrupts"]
    copy_id = copied["thread_id"]
    run = await client.runs.create(copy_id, "asking", command={"resume": "yes"})
    assert (await client.runs.join(copy_id, run["run_id"]))["asked"] == {"answer": "yes"}
    assert (await client.threads.get(thread_id))["status"] == "interrupted"


async def test_thread_made_of_supersteps(client: Any) -> None:
    thread_id = str(uuid4())
    thread = await client.threads.create(
        thread_id=thread_id,
        graph_id="two_steps",
        supersteps=[
            {"updates": [{"values": {"count": 5}, "as_node": "__input__"}]},
            {"updates": [{"values": {"count": 5}, "as_node": "__start__"}]},
            {"updates": [{"values": None, "command": {"update": {"count": 2}}, "as_node": "first"}]},
        ],
    )
    assert (thread["status"], thread["values"]["count"]) == ("interrupted", 7)
    state = await client.threads.get_state(thread_id)
    assert (state["values"]["count"], state["next"]) == (7, ["second"])
    assert await client.runs.list(thread_id) == []
    kept = await client.threads.create(
        thread_id=thread_id,
        graph_id="two_steps",
        if_exists="do_nothing",
        supersteps=[{"updates": [{"values": {"count": 9}, "as_node": "first"}]}],
    )
    assert kept["values"]["count"] == 7
    run = await client.runs.create(thread_id, "two_steps", input=None)
    assert (await client.runs.join(thread_id, run["run_id"]))["count"] == 8


async def test_supersteps_that_fail_leave_nothing(client: Any) -> None:
    thread_id, before = str(uuid4()), await client.threads.count()
    with pytest.raises(UnprocessableEntityError, match=r"supersteps: .*nobody"):
        await client.threads.create(
            thread_id=thread_id,
            graph_id="counter",
            supersteps=[
                {"updates": [{"values": {"count": 5}, "as_node": "__input__"}]},
                {"updates": [{"values": {"count": 5}, "as_node": "nobody"}]},
            ],
        )
    with pytest.raises(NotFoundError):
        await client.threads.get(thread_id)
    assert await client.threads.count() == before


async def test_state_is_not_written_while_a_run_is_in_flight(client: Any) -> None:
    thread_id = await ran(client, "counter")
    run = await client.runs.create(thread_id, "counter", input={"wait_s": 30})
    with pytest.raises(ConflictError, match="busy with a running task"):
        await client.threads.update_state(thread_id, {"count": 1}, as_node="node")
    await client.runs.delete(thread_id, run["run_id"])
    await client.threads.update_state(thread_id, {"count": 1}, as_node="node")
    assert (await client.threads.get(thread_id))["values"]["count"] == 2


async def test_writes_at_the_same_time_come_one_after_the_other(client: Any) -> None:
    thread_id = await ran(client, "counter")
    writes = (client.threads.update_state(thread_id, {"count": 1}, as_node="node") for _ in range(6))
    written = await asyncio.gather(*writes)
    assert len({answer["checkpoint_id"] for answer in written}) == 6
    assert (await client.threads.get_state(thread_id))["values"]["count"] == 7


async def test_thread_of_a_graph_that_is_gone(make_server: Callable[..., Any]) -> None:
    server = make_server()
    async with get_client(url=server.url) as client:
        thread_id = await ran(client, "counter")
        state = await client.threads.get_state(thread_id)
    server.stop()
    graphs(server, "counter")
    server.start()
    async with get_client(url=server.url) as client:
        left = await client.threads.get_state(thread_id)
        for name in ("values", "next", "tasks", "checkpoint", "parent_checkpoint", "created_at"):
            assert left[name] == state[name], name
        with pytest.raises(NotFoundError, match="counter"):
            await client.threads.get_state(thread_id, subgraphs=True)
        with pytest.raises(NotFoundError, match="counter"):
            await client.threads.get_history(thread_id)
        with pytest.raises(NotFoundError, match="counter"):
            await client.threads.update_state(thread_id, {"count": 1})


async def test_deleted_while_it_is_written_or_runs(client: Any) -> None:
    thread_id = await ran(client, "counter")
    run = await client.runs.create(thread_id, "counter", input={"wait_s": 30})
    waiting = await client.runs.create(thread_id, "counter", input={})
    await client.runs.cancel(thread_id, run["run_id"])
    await client.threads.delete(thread_id)
    for asked in (client.threads.get_state(thread_id), client.runs.get(thread_id, waiting["run_id"])):
        with pytest.raises(NotFoundError):
            await asked


# (method, path behind the thread, body, status, what the detail must name)
BAD: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/state?subgraphs=maybe", None, 422, "subgraphs"),
    ("GET", "/state/" + "x" * 1025, None, 422, "checkpoint_id"),
    ("GET", "/state/a%00b", None, 422, "checkpoint_id"),
    ("POST", "/state/checkpoint", {}, 422, "checkpoint"),
    ("POST", "/state/checkpoint", {"checkpoint": {"checkpoint_id": "a\nb"}}, 422, "checkpoint_id"),
    ("POST", "/state/checkpoint", {"checkpoint": {"checkpoint_map": {"": 1}}}, 422, "checkpoint_id"),
    ("GET", "/history?limit=0", None, 422, "limit"),
    ("GET", "/history?limit=1001", None, 422, "limit"),
    ("GET", "/history?limit=ten", None, 422, "limit"),
    ("GET", "/history?before=%01", None, 422, "before"),
    ("POST", "/history", {"limit": 0}, 422, "limit"),
    ("POST", "/history", {"limit": 1001}, 422, "limit"),
    ("POST", "/history", {"before": ""}, 422, "before"),
    ("POST", "/history", {"before": 5}, 422, "before"),
    ("POST", "/history", {"before": {"configurable": None}}, 422, "before"),
    ("POST", "/history", {"before": {"configurable": {}}}, 422, "before"),
    ("POST", "/history", {"metadata": []}, 422, "metadata"),
    ("POST", "/state", {"values": "text"}, 422, "values"),
    ("POST", "/state", {"values": {}, "as_node": 1}, 422, "as_node"),
    ("POST", "/state", {"values": {}, "checkpoint": "c"}, 422, "checkpoint"),
    ("POST", "/state", {"values": {}, "checkpoint_id": ""}, 422, "checkpoint_id"),
    ("POST", "/state", {"values": {"unknown": 1}, "checkpoint_id": "\u0007"}, 422, "checkpoint_id"),
]


async def test_bad_questions_are_refused(client: Any, server: Any) -> None:
    thread_id = await ran(client, "counter")
    wrong = []
    async with httpx.AsyncClient(base_url=server.url) as http:
        for method, path, body, status, named in BAD:
            content = {} if body is None else {"json": body}
            answer = await http.request(method, f"/threads/{thread_id}{path}", **content)
            if answer.status_code != status or named not in answer.json()["detail"]:
                wrong.append(f"{method} {path[:40]} {body} -> {answer.status_code} {answer.text[:200]}")
        for method, path in {(method, path.split("?")[0]) for method, path, *_ in BAD}:
            body = {"json": {"checkpoint": {"checkpoint_id": "c"}}} if method == "POST" else {}
            answer = await http.request(method, f"/threads/{uuid4()}{path[:20]}", **body)
            if answer.status_code not in (404, 422):
                wrong.append(f"{method} {path[:40]} unknown thread -> {answer.status_code}")
    assert not wrong, "\n".join(wrong)
