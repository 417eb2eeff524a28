"""The event streaming protocol over a WebSocket, message by message; the test is the worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from services.gateway.streams import socket as sockets
from services.kit.bus.nats import NatsBus
from tests.services.live_bench import LiveBench, emitted, live_bench


@pytest.fixture
async def bench(tmp_path: Path, bus: NatsBus) -> AsyncIterator[LiveBench]:
    async with live_bench(tmp_path, bus, cors_origins="https://a.example") as made:
        yield made


class Talk:
    """A conversation: commands with their answers, and events as they come."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.events = socket, list[dict[str, Any]]()

    async def ask(self, method: str, **params: Any) -> Any:
        return await self.send(json.dumps({"id": 7, "method": method, "params": params}))

    async def send(self, text: str) -> Any:
        await self.socket.send(text)
        while (told := await self._next())["type"] == "event":
            self.events.append(told)
        return told

    async def until(self, count: int) -> list[tuple[str, Any]]:
        """The first events: method, and what became of the run or its number."""
        while len(self.events) < count:
            self.events.append(await self._next())
        data = [(e["method"], e["params"]["data"]) for e in self.events]
        return [(method, one.get("event") or one.get("n")) for method, one in data]

    async def quiet(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                self.events.append(await self._next())

    async def _next(self) -> Any:
        async with asyncio.timeout(10):
            return json.loads(await self.socket.recv())


@asynccontextmanager
async def talk(bench: LiveBench, thread: str, origin: str | None = None) -> AsyncIterator[Talk]:
    url = f"{bench.url.replace('http', 'ws')}/threads/{thread}/stream/events"
    async with connect(url, origin=None if origin is None else Origin(origin)) as socket:
        yield Talk(socket)


async def closed(bench: LiveBench, thread: str, origin: str | None = None) -> int:
    async with talk(bench, thread, origin) as conversation:
        with pytest.raises(ConnectionClosed) as told:
            await conversation.socket.recv()
    assert told.value.rcvd is not None
    return told.value.rcvd.code


async def test_who_may_connect(bench: LiveBench) -> None:
    assert await closed(bench, "nosuch") == 4422
    assert await closed(bench, str(uuid4()), "https://b.example") == 4403
    async with talk(bench, str(uuid4()), "https://a.example") as conversation:
        assert (await conversation.ask("nosuch"))["error"] == "unknown_command"


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("", "invalid_argument", "JSON"),
        ("[]", "invalid_argument", "body"),
        ('{"id": true, "method": "x"}', "invalid_argument", "id"),
        ('{"id": 7, "method": "subscription.subscribe"}', "invalid_argument", "channels"),
        (
            '{"id": 7, "method": "subscription.subscribe", "params": {"channels": []}}',
            "invalid_argument",
            "channels",
        ),
        (
            '{"id": 7, "method": "subscription.subscribe", "params": {"channels": [1]}}',
            "invalid_argument",
            "channels",
        ),
        ('{"id": 7, "method": "subscription.unsubscribe"}', "no_such_subscription", "subscription_id"),
        (
            '{"id": 7, "method": "subscription.reconnect", "params": {"since": -1}}',
            "invalid_argument",
            "since",
        ),
        ('{"id": 7, "method": "run.start", "params": {}}', "invalid_argument", "assistant_id"),
    ],
)
async def test_what_is_refused(bench: LiveBench, text: str, error: str, named: str) -> None:
    async with talk(bench, str(uuid4())) as conversation:
        told = await conversation.send(text)
        assert (told["type"], told["error"]) == ("error", error)
        assert named in told["message"]
        assert (await conversation.ask("agent.getTree"))["error"] == "no_such_run"


async def test_each_event_is_sent_once_whoever_wants_it(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    thread = path.split("/")[2]
    feed = await bench.claim(run_id)
    feed.emit(emitted(run_id, 1))
    await feed.flushed()
    async with talk(bench, thread) as conversation:
        first = (await conversation.ask("subscription.subscribe", channels=["lifecycle"]))["result"]
        assert first["replayed_events"] == 1
        assert await conversation.until(1) == [("lifecycle", "running")]
        second = (await conversation.ask("subscription.subscribe", channels=["values", "lifecycle"]))[
            "result"
        ]
        assert second["replayed_events"] == 1
        assert await conversation.until(2) == [("lifecycle", "running"), ("values", 1)]
        feed.emit(emitted(run_id, 2))
        assert (await conversation.until(3))[2:] == [("values", 2)]
        told = await conversation.ask("subscription.unsubscribe", subscription_id=second["subscription_id"])
        assert told["result"] == {}
        feed.emit(emitted(run_id, 3))
        await conversation.quiet()
        await bench.settle(run_id, feed, {"n": 3})
        assert (await conversation.until(4))[3:] == [("lifecycle", "completed")]
        # What one of its own had already is not sent again; what came meanwhile is.
        await conversation.ask("subscription.subscribe", channels=["values"])
        assert (await conversation.until(5))[4:] == [("values", 3)]
        await conversation.quiet()
    seqs = [event["seq"] for event in conversation.events]
    await bench.watched(0)
    async with talk(bench, thread) as again:
        assert (await again.ask("subscription.reconnect", since=seqs[1]))["result"]["replayed_events"] == 3
        await again.ask("subscription.subscribe", channels=["values", "lifecycle"])
        assert (await again.until(3)) == [("values", 2), ("values", 3), ("lifecycle", "completed")]
        gap = await again.ask("subscription.reconnect", since=1)
        assert (gap["error"], gap["min_available_seq"]) == ("resume_gap", seqs[0])


async def test_a_run_that_streams_on_delays_no_answer(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    feed = await bench.claim(run_id)
    streaming = True

    async def stream() -> None:
        n = 0
        while streaming:
            n += 1
            feed.emit(emitted(run_id, n))
            await feed.flushed()
            await asyncio.sleep(0.005)

    task = asyncio.create_task(stream())
    async with talk(bench, path.split("/")[2]) as conversation:
        told = await conversation.ask("subscription.subscribe", channels=["values"])
        assert told["type"] == "success"
        assert len(await conversation.until(100)) == 100
    streaming = False
    await task


async def test_a_conversation_ends_with_the_server_and_with_a_client_that_takes_nothing(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "TAPE_S", 0.1)
    path, run_id = await bench.run()
    feed = await bench.claim(run_id)
    async with talk(bench, path.split("/")[2]) as conversation:
        await conversation.ask("subscription.subscribe", channels=["lifecycle"])
        await conversation.until(1)
        await bench.parts.live.stop()
        with pytest.raises(ConnectionClosed) as told:
            await conversation.socket.recv()
    assert told.value.rcvd is not None
    assert told.value.rcvd.code == 1012
    await feed.flushed()
    await bench.watched(0)
