"""The event streaming protocol against a real server: its rules over HTTP, and the Python client through them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from tests.flows.event_streams import EVERYTHING, HELLO, Event


@pytest.fixture(scope="module")
def url(make_shared_server: Callable[..., Any]) -> str:
    return str(make_shared_server("streaming", CRONLEDGER_CANCEL_GRACE_S="0.5").url)


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
async def client(url: str) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=url, api_key=None) as opened:
        yield opened


async def command(http: httpx.AsyncClient, thread: str, method: str, **params: Any) -> Any:
    body = {"id": 1, "method": method, "params": params}
    answer = await http.post(f"/threads/{thread}/commands", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["id"] == 1
    return told


async def started(http: httpx.AsyncClient, thread: str, graph: str, **params: Any) -> str:
    told = await command(http, thread, "run.start", assistant_id=graph, **{"input": HELLO, **params})
    assert told["type"] == "success", told
    assert told["meta"] == {"applied_through_seq": 0}
    return str(told["result"]["run_id"])


def texts_of(state: dict[str, Any]) -> list[str]:
    """What the messages say: what was streamed by the protocol has blocks."""
    contents = [message["content"] for message in state["messages"]]
    return [one if isinstance(one, str) else "".join(block["text"] for block in one) for one in contents]


def is_end(event: Event) -> bool:
    """Whether it ends a run."""
    params = event["params"]
    return (
        event["method"] == "lifecycle"
        and not params["namespace"]
        and params["data"]["event"] in ("completed", "failed", "interrupted")
    )


async def events(
    http: httpx.AsyncClient, thread: str, ends: int = 1, channels: list[str] = EVERYTHING, **filters: Any
) -> list[Event]:
    """The events of a thread up to so many ends of runs."""
    found: list[Event] = []
    body = {"channels": channels, **filters}
    async with asyncio.timeout(30):
        async with http.stream("POST", f"/threads/{thread}/stream/events", json=body) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            frame: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    frame[name] = value
                elif not line and frame:
                    event = json.loads(frame["data"])
                    assert (frame["event"], frame["id"]) == (event["method"], str(event["seq"]))
                    found.append(event)
                    frame = {}
                    if sum(map(is_end, found)) == ends:
                        return found
    raise AssertionError("the stream has ended")


def lifecycles(told: list[Event]) -> list[tuple[tuple[str, ...], str]]:
    """Nodes of the namespace and what became of it."""
    return [
        (tuple(s.partition(":")[0] for s in e["params"]["namespace"]), e["params"]["data"]["event"])
        for e in told
        if e["method"] == "lifecycle"
    ]


# --- commands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "id"),
        (b"{", "JSON"),
        (b"[]", "body"),
        (b'{"method": "run.start"}', "id"),
        (b'{"id": true, "method": "x"}', "id"),
        (b'{"id": 1.5, "method": "x"}', "id"),
        (b'{"id": "1", "method": "x"}', "id"),
        (b'{"id": 1}', "method"),
        (b'{"id": 1, "method": 2}', "method"),
        (b'{"id": 1, "method": "x", "params": []}', "params"),
    ],
)
async def test_what_is_no_command(http: httpx.AsyncClient, body: bytes, field: str) -> None:
    answer = await http.post(f"/threads/{uuid4()}/commands", content=body)
    told = answer.json()
    assert (answer.status_code, told["type"], told["id"], told["error"]) == (
        400,
        "error",
        None,
        "invalid_argument",
    )
    assert field in told["message"]
    assert told["detail"] == told["message"]


@pytest.mark.parametrize(
    ("thread", "method", "params", "code", "text"),
    [
        ("nosuch", "run.start", {"assistant_id": "agent"}, "invalid_argument", "thread_id"),
        ("", "run.start", {}, "invalid_argument", "assistant_id"),
        ("", "run.start", {"assistant_id": "nosuch"}, "invalid_argument", "assistant_id"),
        ("", "run.start", {"assistant_id": str(uuid4())}, "invalid_argument", "ssistant"),
        ("", "run.start", {"assistant_id": "agent", "config": 1}, "invalid_argument", "config"),
        (
            "",
            "run.start",
            {"assistant_id": "agent", "multitaskStrategy": "later"},
            "invalid_argument",
            "multitaskStrategy",
        ),
        (
            "",
            "run.start",
            {"assistant_id": "agent", "multitask_strategy": "later"},
            "invalid_argument",
            "multitaskStrategy",
        ),
        (
            "",
            "run.start",
            {"assistant_id": "agent", "config": {"configurable": {"checkpoint_id": "x"}}},
            "invalid_argument",
            "checkpoint_id",
        ),
        (
            "",
            "run.start",
            {"assistant_id": "agent", "config": {"configurable": {"checkpoint_id": str(uuid4())}}},
            "no_such_checkpoint",
            "checkpoint",
        ),
        ("", "input.respond", {}, "invalid_argument", "interrupt_id"),
        ("", "input.respond", {"responses": []}, "invalid_argument", "interrupt_id"),
        ("", "input.respond", {"interrupt_id": "x"}, "no_such_run", "run"),
        ("", "agent.getTree", {}, "no_such_run", "tree"),
        ("", "subscription.subscribe", {"channels": ["values"]}, "not_supported", "WebSocket"),
        ("", "state.fork", {}, "unknown_command", "state.fork"),
    ],
)
async def test_commands_that_are_refused(
    http: httpx.AsyncClient, thread: str, method: str, params: dict[str, Any], code: str, text: str
) -> None:
    told = await command(http, thread or str(uuid4()), method, **params)
    assert (told["type"], told["error"]) == ("error", code), told
    assert text in told["message"]


async def test_answers_to_interrupts(http: httpx.AsyncClient) -> None:
    thread = str(uuid4())
    await started(http, thread, "two")
    told = await events(http, thread)
    asked = {
        e["params"]["data"]["interrupt_id"]: e["params"] for e in told if e["method"] == "input.requested"
    }
    assert len(asked) == 2
    assert all(params["data"]["payload"] == params["data"]["value"] for params in asked.values())
    first, second = asked
    wrong = await command(http, thread, "input.respond", interrupt_id="0" * 32, response=1)
    assert wrong["error"] == "no_such_interrupt"
    responses = [{"interrupt_id": first, "response": "a"}, {"interrupt_id": second, "response": "b"}]
    assert (await command(http, thread, "input.respond", responses=responses))["type"] == "success"
    again = await command(http, thread, "input.respond", interrupt_id=first, response="c")
    assert again["error"] == "no_such_interrupt"
    told = await events(http, thread, 2)
    assert lifecycles(told)[-1] == ((), "completed")
    [answered] = [e["params"]["data"] for e in told if e["method"] == "input.answered"]
    assert set(answered["interrupt_ids"]) == {first, second}
    state = (await http.get(f"/threads/{thread}/state")).json()["values"]
    assert {message["content"] for message in state["messages"][1:]} in (
        {"you said a", "and b"},
        {"you said b", "and a"},
    )


async def test_an_input_answers_what_the_thread_asks(http: httpx.AsyncClient) -> None:
    """At once when the question has come, though the run that asks it may not be over."""
    thread = str(uuid4())
    await started(http, thread, "asking")
    body = {"channels": ["input"]}
    async with http.stream("POST", f"/threads/{thread}/stream/events", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("event: input.requested"):
                break
    await started(http, thread, "asking", input="yes")
    assert lifecycles(await events(http, thread, 2))[-1] == ((), "completed")
    state = (await http.get(f"/threads/{thread}/state")).json()["values"]
    assert texts_of(state) == ["hello", "you said yes", "thank you"]


async def test_a_run_forks_from_a_checkpoint(http: httpx.AsyncClient) -> None:
    thread = str(uuid4())
    await started(http, thread, "agent")
    told = await events(http, thread)
    point = next(e["params"]["data"]["id"] for e in told if e["method"] == "checkpoints")
    config = {"configurable": {"checkpoint_id": point}}
    other = {"messages": [{"role": "user", "content": "other", "id": "h-2"}]}
    await started(http, thread, "agent", input=other, config=config)
    await events(http, thread, 2)
    state = (await http.get(f"/threads/{thread}/state")).json()["values"]
    assert state["messages"][0]["content"] == "other"


# --- streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"channels": []},
        {"channels": "values"},
        {"channels": ["nosuch"]},
        {"channels": ["custom:"]},
        {"channels": [1]},
    ],
)
async def test_streams_of_no_channel(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await http.post(f"/threads/{uuid4()}/stream/events", json=body)
    assert answer.status_code == 400
    assert "channels" in answer.json()["detail"]
    assert answer.json()["message"] == answer.json()["detail"]


async def test_all_channels_in_order_and_again(http: httpx.AsyncClient) -> None:
    thread = str(uuid4())
    waiting = asyncio.create_task(events(http, thread))  # there is no such thread yet
    await asyncio.sleep(0.1)
    run_id = await started(http, thread, "agent")
    told = await waiting
    assert {e["method"] for e in told} == {*EVERYTHING} - {"input"}
    assert lifecycles(told) == [((), "running"), ((), "completed")]
    assert told[0]["event_id"] == f"synth:{run_id}:lc||running"
    assert told[-1]["event_id"] == f"synth:{run_id}:lc||completed"
    seqs = [e["seq"] for e in told]
    assert seqs == sorted(set(seqs))
    assert seqs[-1] < 1 << 53
    assert len({e["event_id"] for e in told}) == len(told)
    assert await events(http, thread) == told
    middle = told[len(told) // 2]["seq"]
    assert await events(http, thread, since=middle) == [e for e in told if e["seq"] > middle]
    assert await events(http, thread, since="x", depth=True, namespaces={"a": 1}) == told


async def test_namespaces_and_depth(http: httpx.AsyncClient) -> None:
    thread = str(uuid4())
    await started(http, thread, "nested")
    told = await events(http, thread)
    assert lifecycles(told) == [
        ((), "running"),
        (("outer",), "started"),
        (("outer", "inner"), "started"),
        (("outer", "inner"), "interrupted"),
        (("outer",), "interrupted"),
        ((), "interrupted"),
    ]
    root = await events(http, thread, namespaces=[[]], depth=0)
    assert root == [e for e in told if not e["params"]["namespace"]]
    near = await events(http, thread, namespaces=[[]], depth=1)
    assert near == [e for e in told if len(e["params"]["namespace"]) <= 1]
    deep = {len(e["params"]["namespace"]) for e in told if e["method"] == "values"}
    assert deep == {0, 1, 2}
    custom = await events(http, thread, channels=["lifecycle", "custom:nosuch"])
    assert [e for e in told if e["method"] == "lifecycle"] == custom
    full = next(e["params"]["namespace"] for e in told if len(e["params"]["namespace"]) == 2)
    for prefix in (["outer", "inner"], full):
        body: dict[str, Any] = {"channels": ["values", "lifecycle"], "namespaces": [prefix, []], "depth": 0}
        inside = await events(http, thread, **body)
        assert inside == [
            e
            for e in told
            if e["method"] in ("values", "lifecycle") and len(e["params"]["namespace"]) in (0, 2)
        ]


async def test_an_error_a_stop_and_a_stop_while_waiting(http: httpx.AsyncClient) -> None:
    thread = str(uuid4())
    await started(http, thread, "failing")
    *_, failed = await events(http, thread)
    assert failed["params"]["data"] == {
        "event": "failed",
        "graph_name": "failing",
        "error": "ValueError: it is broken",
    }
    working = await started(http, thread, "endless")
    waiting = await started(http, thread, "endless")
    for run_id in (waiting, working):
        answer = await http.post(f"/threads/{thread}/runs/{run_id}/cancel")
        assert answer.status_code == 200
    told = await events(http, thread, 3)
    ends = {e["event_id"].split(":")[1]: e["params"]["data"]["event"] for e in told if is_end(e)}
    assert {ends[working], ends[waiting]} == {"interrupted"}
    starts = [e["event_id"].split(":")[1] for e in told if e["params"]["data"].get("event") == "running"]
    assert starts[1:] == [working, waiting]
    seqs = [e["seq"] for e in told]
    assert seqs == sorted(set(seqs))


async def test_runs_of_crons_and_others_are_there_too(http: httpx.AsyncClient) -> None:
    """A cron of a thread begins with a run at once, and its schedule makes the other."""
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": "agent", "schedule": "* * * * * *", "input": HELLO, "max_runs": 1}
    cron = await http.post(f"/threads/{thread}/runs/crons", json=body | {"event_streaming": True})
    assert cron.status_code == 200, cron.text
    assert cron.json()["kwargs"]["event_streaming"] is True
    by_protocol = await events(http, thread, 2)
    assert {"messages", "tools", "checkpoints"} <= {e["method"] for e in by_protocol}
    modes = {"stream_mode": ["values", "updates", "custom"]}
    await http.post(f"/threads/{thread}/runs/crons", json=body | modes)
    told = await events(http, thread, 4)
    by_modes = told[len(by_protocol) :]
    assert told[: len(by_protocol)] == by_protocol
    assert {e["method"] for e in by_modes} == {"lifecycle", "values", "updates", "custom"}
    states = [e["params"]["data"]["messages"] for e in by_modes if e["method"] == "values"]
    assert "additional_kwargs" not in states[-1][-1]
    assert states[-1][-1]["content"] == "it is sunny"
    assert await events(http, thread, 4) == told


# --- clients ------------------------------------------------------------------------------------------


async def test_python_client(client: LangGraphClient) -> None:
    async with client.threads.stream(assistant_id="nested") as thread:
        await thread.run.start(input=HELLO)
        seen = []
        async with asyncio.timeout(20):
            async for told in thread.events:
                event: Event = dict(told)
                seen.append(event)
                if event["method"] == "input.requested":
                    while not thread.interrupts:  # noqa: ASYNC110 - it comes to it by another stream
                        await asyncio.sleep(0.01)
                    await thread.run.respond("yes")
                if is_end(event) and event["params"]["data"]["event"] == "completed":
                    break
            output = await thread.output
    assert texts_of(output)[:2] == ["hello", "you said yes"]
    assert len({event["event_id"] for event in seen}) == len(seen)


async def test_python_client_joins_a_thread(client: LangGraphClient) -> None:
    thread = (await client.threads.create())["thread_id"]
    told: list[Any] = []

    async def joined(last_event_id: str | None, ends: int) -> list[Any]:
        found: list[Any] = []
        async for part in await client.threads.join_stream(thread, last_event_id=last_event_id):
            found.append(part)
            if sum(p.data.get("status") == "run_done" for p in found if p.event == "metadata") == ends:
                break
        return found

    listening = asyncio.create_task(joined(None, 2))
    await asyncio.sleep(0.5)
    for graph in ("agent", "failing"):
        await client.runs.wait(thread, graph, input=HELLO, raise_error=False)
    async with asyncio.timeout(20):
        told = await listening
    names = [part.event for part in told]
    assert names[0] == "metadata"
    assert names.count("error") == 1
    assert names.count("values") == 6
    whole = await joined("-", 2)
    assert whole == told
    behind = next(part.id for part in told if part.event == "values")
    assert await joined(behind, 2) == told[2:]


@pytest.mark.parametrize(
    ("query", "header", "field"),
    [("stream_modes=values", "", "stream_modes"), ("", "x", "last-event-id"), ("", "1-", "last-event-id")],
)
async def test_joins_that_are_refused(http: httpx.AsyncClient, query: str, header: str, field: str) -> None:
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    headers = {"Last-Event-ID": header} if header else {}
    answer = await http.get(f"/threads/{thread}/stream?{query}", headers=headers)
    assert (answer.status_code, field in answer.json()["detail"]) == (422, True)
    assert (await http.get(f"/threads/{uuid4()}/stream")).status_code == 404


async def test_a_join_tells_of_written_states_and_of_ends_alone(http: httpx.AsyncClient) -> None:
    thread = (await http.post("/threads", json={"metadata": {"graph_id": "agent"}})).json()["thread_id"]

    async def frames(modes: str, many: int) -> list[str]:
        found: list[str] = []
        url = f"/threads/{thread}/stream?stream_modes={modes}"
        async with http.stream("GET", url, headers={"Last-Event-ID": "-"}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    found.append(line.removeprefix("event: "))
                    if len(found) == many:
                        break
        return found

    written = await http.post(f"/threads/{thread}/state", json={"values": HELLO})
    assert written.status_code == 200, written.text
    await http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "agent", "input": HELLO})
    async with asyncio.timeout(20):
        assert await frames("state_update", 1) == ["state_update"]
        assert await frames("lifecycle", 2) == ["metadata", "metadata"]
        assert (await frames("lifecycle,state_update", 3))[0] == "state_update"
