"""Runs as somebody waits for them: the first event, tokens through streams, wait beside the bare graph."""

import asyncio
import importlib.util
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver

pytestmark = pytest.mark.bench
Say = Callable[[str, str, str], None]
GRAPHS = Path(__file__).parents[1] / "projects" / "agents" / "graphs.py"
ROUNDS = 100


def median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


async def threads(http: httpx.AsyncClient, many: int) -> list[str]:
    return [(await http.post("/threads", json={})).json()["thread_id"] for _ in range(many)]


async def streamed(http: httpx.AsyncClient, thread: str, body: dict[str, Any]) -> tuple[float, float, int]:
    """(seconds to the first event, seconds to the end, events) of one stream."""
    began, first, events = time.perf_counter(), 0.0, 0
    async with http.stream("POST", f"/threads/{thread}/runs/stream", json=body) as answer:
        async for piece in answer.aiter_bytes():
            found = piece.count(b"event: ")
            if found and not events:
                first = time.perf_counter() - began
            events += found
    return first, time.perf_counter() - began, events


async def test_first_event_and_end(make_server: Any, say: Say) -> None:
    server = make_server("agents")
    body = {"assistant_id": "five", "input": {"count": 0}, "stream_mode": ["updates"]}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        took = [await streamed(http, thread, body) for thread in await threads(http, ROUNDS)]
    assert {events for _, _, events in took} == {7}  # metadata, five updates, end
    first, end = (median_ms([t[n] for t in took[10:]]) for n in (0, 1))
    say("stream of 5 nodes, first event p50 / end p50", f"{first:.1f} / {end:.1f} ms", "15 / 50 ms")


async def protocol_streamed(
    http: httpx.AsyncClient, graph: str, needle: bytes, **given: Any
) -> tuple[float, float, int]:
    """The same of a run by the event streaming protocol on a new thread; events are those that have the needle."""
    thread, first, events = str(uuid4()), 0.0, 0
    body = {"channels": ["updates", "messages", "lifecycle"]}
    async with http.stream("POST", f"/threads/{thread}/stream/events", json=body) as answer:
        began = time.perf_counter()
        command = {"id": 1, "method": "run.start", "params": {"assistant_id": graph, **given}}
        told = await http.post(f"/threads/{thread}/commands", json=command)
        assert told.json()["type"] == "success", told.text
        async for piece in answer.aiter_bytes():
            if b"event: " in piece and not first:
                first = time.perf_counter() - began
            events += piece.count(needle)
            if b'"completed"' in piece:
                break
    return first, time.perf_counter() - began, events


async def test_first_event_and_end_by_the_protocol(make_server: Any, say: Say) -> None:
    server = make_server("agents")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        took = [
            await protocol_streamed(http, "five", b"event: updates", input={"count": 0})
            for _ in range(ROUNDS)
        ]
    assert {events for _, _, events in took} == {5}
    first, end = (median_ms([t[n] for t in took[10:]]) for n in (0, 1))
    say("the same by event streaming, with its run.start", f"{first:.1f} / {end:.1f} ms", "")


@pytest.mark.parametrize(("streams", "words"), [(1, 5000), (50, 400)])
async def test_tokens_by_the_protocol(make_server: Any, say: Say, streams: int, words: int) -> None:
    server = make_server("agents", CRONLEDGER_RUNS_PER_CHILD=str(max(10, streams)))
    given = {
        "input": {"messages": [{"role": "user", "content": "go on"}]},
        "config": {"configurable": {"words": words}},
    }
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
        began = time.perf_counter()
        many = (protocol_streamed(http, "talkative", b"text-delta", **given) for _ in range(streams))
        took = await asyncio.gather(*many)
        rate = sum(events for _, _, events in took) / (time.perf_counter() - began)
    assert all(events >= words for _, _, events in took), took
    say(f"tokens a second through {streams} stream(s) by event streaming", f"{rate:,.0f}/s", "")


def memory_kb(pid: int) -> int:
    """What a process has in memory."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("protocol", [False, True])
async def test_memory_of_an_open_stream(make_server: Any, say: Say, protocol: bool) -> None:
    server = make_server("agents")
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http,
        AsyncExitStack() as open_,
    ):
        places = await threads(http, 500)
        before = memory_kb(server.process.pid)
        for place in places:
            url, body = f"/threads/{place}/stream", {"channels": ["lifecycle"]}
            request = http.stream("POST", url + "/events", json=body) if protocol else http.stream("GET", url)
            await open_.enter_async_context(request)
        await asyncio.sleep(1)
        each = (memory_kb(server.process.pid) - before) / len(places)
    say(
        f"memory of an open stream of a thread, {'event streaming' if protocol else 'modes'}",
        f"{each:.0f} KB",
        "",
    )


@pytest.mark.parametrize(("streams", "words"), [(1, 5000), (50, 400)])
async def test_tokens(make_server: Any, say: Say, streams: int, words: int) -> None:
    server = make_server("agents", CRONLEDGER_RUNS_PER_CHILD=str(max(10, streams)))
    body = {
        "assistant_id": "talkative",
        "input": {"messages": [{"role": "user", "content": "go on"}]},
        "stream_mode": ["messages-tuple"],
        "config": {"configurable": {"words": words}},
    }
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        places = await threads(http, streams + 1)
        await streamed(http, places[-1], {**body, "config": {"configurable": {"words": 10}}})
        began = time.perf_counter()
        took = await asyncio.gather(*(streamed(http, place, body) for place in places[:streams]))
        rate = sum(events for _, _, events in took) / (time.perf_counter() - began)
    assert all(events >= words for _, _, events in took)
    bare = await bare_tokens(5000)
    say(
        f"tokens a second through {streams} stream(s), and of the bare graph",
        f"{rate:,.0f}/s, {bare:,.0f}/s",
        "",
    )


def graphs() -> Any:
    """The module of the graphs, for a look at them without a server."""
    spec = importlib.util.spec_from_file_location("bench_graphs", GRAPHS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def bare_tokens(words: int) -> float:
    """Tokens a second of the bare graph in this process."""
    bare = graphs().talkative.copy({"checkpointer": InMemorySaver()})
    config = {"configurable": {"thread_id": "t", "words": words}}
    given = {"messages": [{"role": "user", "content": "go on"}]}
    began, tokens = time.perf_counter(), 0
    async for _ in bare.astream(given, config, stream_mode="messages"):
        tokens += 1
    return tokens / (time.perf_counter() - began)


async def test_wait_beside_the_bare_graph(make_server: Any, say: Say) -> None:
    bare = graphs().five.copy({"checkpointer": InMemorySaver()})
    server = make_server("agents")
    waits, bares = [], []
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        for n, thread in enumerate(await threads(http, ROUNDS)):
            began = time.perf_counter()
            await bare.ainvoke({"count": 0}, {"configurable": {"thread_id": str(n)}})
            bares.append(time.perf_counter() - began)
            body = {"assistant_id": "five", "input": {"count": 0}}
            began = time.perf_counter()
            answer = await http.post(f"/threads/{thread}/runs/wait", json=body)
            waits.append(time.perf_counter() - began)
            assert answer.json()["count"] == 5
    wait, alone = median_ms(waits[10:]), median_ms(bares[10:])
    say("runs/wait of 5 nodes, one at a time, p50", f"{wait:.1f} ms", "30 ms")
    say("the same beside a bare graph.ainvoke in memory", f"{alone:.1f} ms, {wait / alone:.1f} times", "")


async def test_runs_a_second(make_server: Any, say: Say) -> None:
    server = make_server("agents", CRONLEDGER_RUNS_PER_CHILD="16")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        places = await threads(http, 16)

        async def waited(thread: str) -> None:
            for _ in range(30):
                answer = await http.post(
                    f"/threads/{thread}/runs/wait", json={"assistant_id": "narrow", "input": {}}
                )
                assert answer.json() == {"answer": "42"}

        began = time.perf_counter()
        await asyncio.gather(*(waited(place) for place in places))
        say("runs/wait of one node, 16 at once", f"{480 / (time.perf_counter() - began):.0f}/s", "70/s")
