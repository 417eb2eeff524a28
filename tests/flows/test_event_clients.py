"""The Python client's `threads.stream` against a real server, by SSE and WebSocket, over a wire that can be cut."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, cast
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.flows.event_streams import EVERYTHING, HELLO, Event

SENTENCE = "one word after the other, so that there is time for something to happen"
Transport = Literal["sse", "websocket"]
BOTH = pytest.mark.parametrize("transport", ["sse", "websocket"])
EACH = pytest.mark.parametrize("transport", ["sse", pytest.param("websocket", marks=pytest.mark.long)])


class Wire:
    """A port that leads to the server, wherever that is by now."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.url = ""
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Listen."""
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Listen no more."""
        self._listening.close()
        self.cut()
        await self._listening.wait_closed()

    def cut(self) -> None:
        """End all connections at once."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int(self.server.url.rpartition(":")[2])
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, far_writer}
        self._writers |= mine
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, far_writer))
                group.create_task(_pass_on(far_reader, writer))
        finally:
            self._writers -= mine


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.transport.abort()


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server("streaming", CRONLEDGER_CANCEL_GRACE_S="0.5")


@pytest.fixture
async def wire(server: Any) -> AsyncIterator[Wire]:
    opened = Wire(server)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def far(wire: Wire) -> AsyncIterator[LangGraphClient]:
    """A client whose connections can be cut."""
    async with get_client(url=wire.url, api_key=None) as opened:
        yield opened


def texts_of(values: Any) -> list[str]:
    """What the messages say."""
    contents = [message["content"] for message in values["messages"]]
    return [
        one if isinstance(one, str) else "".join(block.get("text", "") for block in one) for one in contents
    ]


def is_end(event: Event) -> bool:
    """Whether it ends a run."""
    params = event["params"]
    return event["method"] == "lifecycle" and not params["namespace"] and params["data"]["event"] != "running"


async def until(ask: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(30):
        while not await ask():  # noqa: ASYNC110 - it comes to the client by another stream
            await asyncio.sleep(0.02)


async def up_to_end(events: AsyncIterator[Any], ends: int = 1) -> list[Event]:
    """The events up to so many ends of runs; what a WebSocket answers is among the client's events."""
    found: list[Event] = []
    async with asyncio.timeout(30):
        async for event in events:
            if "method" in event:
                found.append(event)
                if sum(map(is_end, found)) == ends:
                    return found
    raise AssertionError("the events have ended")


def order_of(events: list[Event]) -> list[tuple[str, int]]:
    """Their ids and numbers."""
    return [(event["event_id"], event["seq"]) for event in events]


# --- as it should be ------------------------------------------------------------------------------------


@EACH
async def test_messages_and_the_output(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="slow", transport=transport) as thread:
        run = await thread.run.start(input=HELLO)
        [message] = [one async for one in thread.messages]  # they are told by the loop over them
        words = [word async for word in message.text]
        output = await thread.output
    assert len(words) > 5
    assert "".join(words) == SENTENCE
    assert texts_of(output) == ["hello", SENTENCE]
    assert (await client.runs.get(thread.thread_id, run["run_id"]))["status"] == "success"
    assert (await client.threads.get_state(thread.thread_id))["values"] == output


@EACH
async def test_tools_that_are_called(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="calling", transport=transport) as thread:
        calls = {}
        await thread.run.start(input=HELLO)
        async for call in thread.tool_calls:
            calls[call.name] = call
        assert calls.keys() == {"weather", "divide"}
        assert (calls["weather"].input, calls["divide"].input) == ({"city": "Oslo"}, {"number": 0})
        output = await calls["weather"].output
        assert output["content"] == "sunny in Oslo"
        with pytest.raises(RuntimeError):
            await calls["divide"].output
        assert texts_of(await thread.output)[-1] == "that is all"


@EACH
async def test_an_error(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="failing_inside", transport=transport) as thread:
        await thread.run.start(input=HELLO)
        with pytest.raises(RuntimeError, match="it is broken"):
            await asyncio.wait_for(thread.output, 20)


@EACH
async def test_graphs_inside(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="deep", transport=transport) as thread:
        await thread.run.start(input=HELLO)
        async with asyncio.timeout(20):
            outside = [one async for one in thread.subgraphs]
            [outer] = outside
            inside = [one async for one in outer.subgraphs]
    found = [[segment.partition(":")[0] for segment in one.path] for one in outside + inside]
    assert found == [["outer"], ["outer", "inner"]]


@BOTH
async def test_two_questions_at_once(
    client: LangGraphClient, http: httpx.AsyncClient, transport: Transport
) -> None:
    """The client can answer one of them alone, so it is told of what somebody else answers."""
    async with client.threads.stream(assistant_id="pair", transport=transport) as thread:
        await thread.run.start(input=HELLO)

        events = thread.events
        told = await up_to_end(events)
        assert told[-1]["params"]["data"]["event"] == "interrupted"
        questions = [e["params"]["data"] for e in told if e["method"] == "input.requested"]
        assert sorted(one["value"] for one in questions) == ["and then?", "may I?"]
        assert thread.interrupted
        assert len(thread.interrupts) == 2
        responses = [
            {"interrupt_id": one["interrupt_id"], "response": one["value"].upper()} for one in questions
        ]
        command = {"id": 1, "method": "input.respond", "params": {"responses": responses}}
        answer = await http.post(f"/threads/{thread.thread_id}/commands", json=command)
        assert answer.json()["type"] == "success"
        told = await up_to_end(events)
        assert told[-1]["params"]["data"]["event"] == "completed"
        await thread.output
        assert not thread.interrupted
    state = await client.threads.get_state(thread.thread_id)
    assert sorted(texts_of(state["values"])[1:]) == ["and AND THEN?", "thank you", "you said MAY I?"]


@EACH
async def test_a_question_two_graphs_deep(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="nested", transport=transport) as thread:
        await thread.run.start(input=HELLO)
        events = thread.events
        await up_to_end(events)

        async def is_asked() -> bool:
            return bool(thread.interrupts)

        await until(is_asked)
        assert [one.partition(":")[0] for one in thread.interrupts[0]["namespace"]] == ["outer", "inner"]
        await thread.run.respond("yes")
        assert (await up_to_end(events))[-1]["params"]["data"]["event"] == "completed"
        assert texts_of(await thread.output)[1] == "you said yes"


@EACH
async def test_a_stop(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="deep", transport=transport) as thread:
        run = await thread.run.start(input=HELLO)
        told: list[Event] = []
        async with asyncio.timeout(20):
            async for event in thread.events:
                if "method" not in event:
                    continue
                told.append(dict(event))
                if event["method"] == "custom" and event["params"]["data"]["payload"] == {"part": 0}:
                    await client.runs.cancel(thread.thread_id, run["run_id"])
                if is_end(told[-1]):
                    break
    ends = [
        (len(e["params"]["namespace"]), e["params"]["data"]["event"])
        for e in told
        if e["method"] == "lifecycle"
    ]
    assert ends[-3:] == [(2, "interrupted"), (1, "interrupted"), (0, "interrupted")]
    stopped = await client.runs.get(thread.thread_id, run["run_id"])
    assert stopped["status"] == "interrupted"


# --- when connections are lost ---------------------------------------------------------------------------


@BOTH
async def test_nothing_is_lost_or_doubled_by_cuts(
    client: LangGraphClient, far: LangGraphClient, wire: Wire, transport: Transport
) -> None:
    """As for one who lost none: the client comes back with the number of the last event it has."""
    thread_id = str(uuid4())
    near = client.threads.stream(thread_id, assistant_id="slow", transport=transport)
    away = far.threads.stream(thread_id, assistant_id="slow", transport=transport)
    async with near, away:
        whole = asyncio.create_task(up_to_end(near.subscribe(EVERYTHING)))
        some = asyncio.create_task(up_to_end(away.subscribe(EVERYTHING)))
        await near.run.start(input=HELLO)
        for _ in range(4):
            await asyncio.sleep(0.4)
            wire.cut()
        assert order_of(await some) == order_of(await whole)
        assert texts_of(await away.output) == texts_of(await near.output) == ["hello", SENTENCE]
    assert len(set(order_of(whole.result()))) == len(whole.result())


@BOTH
async def test_a_question_is_asked_once_whatever_is_cut(
    far: LangGraphClient, wire: Wire, transport: Transport
) -> None:
    async with far.threads.stream(assistant_id="asking", transport=transport) as thread:
        await thread.run.start(input=HELLO)

        async def is_asked() -> bool:
            return bool(thread.interrupts)

        await until(is_asked)
        await up_to_end(thread.events)
        for _ in range(2):
            wire.cut()
            await asyncio.sleep(0.5)
        assert len(thread.interrupts) == 1
        await thread.run.respond("yes")
        assert texts_of(await asyncio.wait_for(thread.output, 20)) == ["hello", "you said yes", "thank you"]


@BOTH
async def test_since_leaves_out_what_is_there(
    client: LangGraphClient, http: httpx.AsyncClient, server: Any, transport: Transport
) -> None:
    thread_id = str(uuid4())
    async with client.threads.stream(thread_id, assistant_id="agent") as thread:
        whole = asyncio.create_task(up_to_end(thread.subscribe(EVERYTHING)))
        await thread.run.start(input=HELLO)
        told = order_of(await whole)
    body = {"channels": EVERYTHING, "since": told[9][1]}
    if transport == "sse":
        found = []
        async with http.stream("POST", f"/threads/{thread_id}/stream/events", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line.removeprefix("data: ")))
                    if is_end(found[-1]):
                        break
    else:
        async with socket(server, thread_id) as opened:
            assert (await asked(opened, "subscription.subscribe", **body))["type"] == "success"
            found = await up_to_end(messages(opened))
    assert order_of(found) == told[10:]


# --- a WebSocket ------------------------------------------------------------------------------------------


def socket(server: Any, thread_id: str) -> connect:
    return connect(f"{server.url.replace('http', 'ws', 1)}/threads/{thread_id}/stream/events")


async def messages(opened: ClientConnection) -> AsyncIterator[Event]:
    async for text in opened:
        yield json.loads(text)


async def asked(opened: ClientConnection, method: str, /, **params: Any) -> Any:
    """The answer to a command, when no events come."""
    await opened.send(json.dumps({"id": 7, "method": method, "params": params}))
    async with asyncio.timeout(20):
        answer = json.loads(await opened.recv())
    assert answer["id"] == 7
    return answer


async def test_subscriptions(client: LangGraphClient, server: Any) -> None:
    thread_id = str(uuid4())
    async with client.threads.stream(thread_id, assistant_id="agent") as thread:
        whole = asyncio.create_task(up_to_end(thread.subscribe(EVERYTHING)))
        await thread.run.start(input=HELLO)
        told = await whole
    async with socket(server, thread_id) as opened:
        one = await asked(opened, "subscription.subscribe", channels=["values", "lifecycle"])
        own = [e for e in told if e["method"] in ("values", "lifecycle")]
        assert one["result"]["replayed_events"] == len(own)
        assert order_of(await up_to_end(messages(opened))) == order_of(own)
        # Another that overlaps: of what was sent, nothing is sent again.
        two = await asked(opened, "subscription.subscribe", channels=["values", "updates"])
        updates = [e for e in told if e["method"] == "updates"]
        assert two["result"]["replayed_events"] == len(updates)
        found = [json.loads(await opened.recv()) for _ in updates]
        assert order_of(found) == order_of(updates)
        for subscription in (one, two):
            chosen = {"subscription_id": subscription["result"]["subscription_id"]}
            assert (await asked(opened, "subscription.unsubscribe", **chosen))["type"] == "success"
            again = await asked(opened, "subscription.unsubscribe", **chosen)
            assert again["error"] == "no_such_subscription"
        gap = await asked(opened, "subscription.reconnect", since=0)
        assert (gap["error"], gap["since"]) == ("resume_gap", 0)
        assert gap["min_available_seq"] == told[0]["seq"]
        assert (await asked(opened, "subscription.reconnect", since=told[-1]["seq"]))["type"] == "success"
        wrong: list[dict[str, Any]] = [{}, {"channels": []}, {"channels": ["nosuch"]}]
        for params in wrong:
            assert (await asked(opened, "subscription.subscribe", **params))["error"] == "invalid_argument"
        assert (await asked(opened, "state.fork"))["error"] == "unknown_command"


async def test_commands_over_a_websocket(server: Any) -> None:
    async with socket(server, str(uuid4())) as opened:
        for text in ("", "{", "[]", '{"method": "run.start"}', '{"id": true, "method": "x"}'):
            await opened.send(text)
            answer = json.loads(await opened.recv())
            assert (answer["type"], answer["id"], answer["error"]) == ("error", None, "invalid_argument")
        started = await asked(opened, "run.start", assistant_id="agent", input=HELLO)
        assert started["result"].keys() == {"run_id"}
        await asked(opened, "subscription.subscribe", channels=["lifecycle"])
        told = await up_to_end(messages(opened))
    assert [e["params"]["data"]["event"] for e in told] == ["running", "completed"]


async def test_a_websocket_of_no_thread(server: Any) -> None:
    with pytest.raises(ConnectionClosed) as caught:
        async with socket(server, "nosuch") as opened:
            await opened.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4422


# --- the last: the server is started anew ---------------------------------------------------------------


async def test_the_same_after_a_restart(server: Any) -> None:
    """Ids and numbers of what is still told, and the messages of runs that were at work."""
    thread_id, working = str(uuid4()), str(uuid4())
    async with get_client(url=server.url, api_key=None) as client:
        async with client.threads.stream(thread_id, assistant_id="agent") as thread:
            whole = asyncio.create_task(up_to_end(thread.subscribe(["lifecycle"])))
            await thread.run.start(input=HELLO)
            before = await whole
        async with client.threads.stream(working, assistant_id="slow") as thread:
            await thread.run.start(input=HELLO)
            async for event in thread.subscribe(["messages"]):
                told = cast("Event", event)
                if told["params"]["data"]["event"] == "content-block-delta":
                    break
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    async with get_client(url=server.url, api_key=None) as client:
        async with client.threads.stream(thread_id, assistant_id="agent") as thread:
            assert order_of(await up_to_end(thread.subscribe(["lifecycle"]))) == order_of(before)
        async with client.threads.stream(working, assistant_id="slow") as thread:
            after = await up_to_end(thread.subscribe(EVERYTHING))
            assert texts_of(await asyncio.wait_for(thread.output, 20)) == ["hello", SENTENCE]
        assert after[-1]["params"]["data"]["event"] == "completed"
        states = [
            e["params"]["data"] for e in after if e["method"] == "values" and not e["params"]["namespace"]
        ]
        assert texts_of(states[-1]) == ["hello", SENTENCE]
        assert len(set(order_of(after))) == len(after)
