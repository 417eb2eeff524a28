"""Event streaming of a thread's runs, whatever becomes of them; the test is the worker."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from contracts.frames import Emitted
from services.gateway.app import build_app
from services.gateway.server import GatewayServer
from services.gateway.streams import cursor, tape
from services.kit.bus.nats import NatsBus
from tests.services.live_bench import BEGAN, LiveBench, emitted, live_bench

Event = dict[str, Any]


@pytest.fixture
async def bench(tmp_path: Path, bus: NatsBus) -> AsyncIterator[LiveBench]:
    async with live_bench(tmp_path, bus) as made:
        yield made


async def events(url: str, thread: str, ends: int, *channels: str) -> list[Event]:
    """The events up to so many ends of runs."""
    found: list[Event] = []
    body = {"channels": channels or ["values", "lifecycle"]}
    async with asyncio.timeout(15), httpx.AsyncClient(base_url=url, timeout=20) as http:
        async with http.stream("POST", f"/threads/{thread}/stream/events", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line[6:]))
                    ends -= found[-1]["params"]["data"].get("event") in ("completed", "interrupted", "failed")
                    if not ends:
                        return found
    raise AssertionError("it has ended")


def told(found: list[Event]) -> list[Any]:
    """What became of runs, and numbers of values."""
    data = [event["params"]["data"] for event in found]
    return [
        one.get("event") or one.get("n") or event["method"] for one, event in zip(data, found, strict=True)
    ]


async def queued(bench: LiveBench, path: str) -> UUID:
    """One more run on that thread."""
    answer = await bench.http.post(path.rpartition("/")[0], json={"assistant_id": "agent", "input": {}})
    return UUID(answer.json()["run_id"])


async def test_numbers_and_ids_are_the_same_wherever_they_are_asked_for(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    thread = path.split("/")[2]
    live = asyncio.create_task(events(bench.url, thread, 1))
    await asyncio.sleep(0.1)
    feed = await bench.claim(run_id)
    for n in range(1, 4):
        feed.emit(emitted(run_id, n))
        await feed.flushed()
    await bench.settle(run_id, feed, {"n": 3})
    found = await live
    assert told(found) == ["running", 1, 2, 3, "completed"]
    replica = dataclasses.replace(bench.parts)
    server = GatewayServer(build_app(replica), "127.0.0.1", 0)
    await server.start()
    await replica.start()
    try:
        assert await events(server.url, thread, 1) == found
    finally:
        await replica.stop()
        await server.stop()


async def test_numbers_grow_whatever_ends_before_it_begins(bench: LiveBench) -> None:
    """Two that are stopped while they wait, for one whose worker is lost and that begins again meanwhile."""
    path, run_id = await bench.run()
    waiting = [await queued(bench, path), await queued(bench, path)]
    thread = path.split("/")[2]
    live = asyncio.create_task(events(bench.url, thread, 4))
    first = await bench.claim(run_id)
    first.emit(emitted(run_id, 1))
    await first.flushed()
    for one in waiting:
        await bench.http.post(f"/threads/{thread}/runs/{one}/cancel")
    second = await bench.claim(run_id, BEGAN + 50)
    second.emit(emitted(run_id, 2))
    await bench.settle(run_id, second, {"n": 2})
    last = await queued(bench, path)
    third = await bench.claim(last, BEGAN + 100)
    await bench.settle(last, third, {"n": 2})
    found = await live
    assert told(found) == [
        "running",
        1,
        2,
        "completed",
        *["running", "interrupted"] * 2,
        "running",
        "completed",
    ]
    runs = [event["event_id"].split(":")[1] for event in found if told([event]) == ["running"]]
    assert runs == [str(one) for one in (run_id, *waiting, last)]
    seqs = [event["seq"] for event in found]
    assert seqs == sorted(set(seqs))
    assert await events(bench.url, thread, 4) == found


async def test_what_is_gone_is_told(bench: LiveBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "GAP_S", 0.1)
    path, run_id = await bench.run()
    feed = await bench.claim(run_id)
    feed.emit(emitted(run_id, 1))
    await feed.flushed()
    await bench.forget()
    feed.emit(emitted(run_id, 2))
    await bench.settle(run_id, feed, {"n": 2})
    found = await events(bench.url, path.split("/")[2], 1)
    assert told(found) == ["running", "gap", 2, "completed"]
    assert [event["seq"] for event in found] == sorted({event["seq"] for event in found})


async def test_runs_that_ended_long_ago_are_not_told(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run_id = await bench.run()
    await bench.settle(run_id, await bench.claim(run_id), {"n": 1})
    monkeypatch.setattr(tape, "KEPT_S", -1.0)
    live = asyncio.create_task(events(bench.url, path.split("/")[2], 1))
    await asyncio.sleep(0.3)
    last = await queued(bench, path)
    await bench.settle(last, await bench.claim(last, BEGAN + 100), {"n": 2})
    found = await live
    assert told(found) == ["running", "completed"]
    assert str(last) in found[0]["event_id"]


async def test_a_run_that_works_for_long_is_told_from_its_beginning(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run_id = await bench.run()
    feed = await bench.claim(run_id)
    feed.emit(emitted(run_id, 1))
    await feed.flushed()
    monkeypatch.setattr(tape, "KEPT_S", -1.0)
    live = asyncio.create_task(events(bench.url, path.split("/")[2], 1))
    await bench.watched(1)
    await bench.settle(run_id, feed, {"n": 1})
    assert told(await live) == ["running", 1, "completed"]


async def test_interrupts_of_modes_are_asked_once(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    thread = path.split("/")[2]
    feed = await bench.claim(run_id)
    asked = {"__interrupt__": [{"id": "i-1", "value": "sure?"}]}
    for n, (name, data) in enumerate(
        (("updates", asked), ("values", {"n": 1, **asked}), ("messages", [1])), 1
    ):
        raw = msgspec.Raw(json.dumps(data).encode())
        feed.emit(Emitted(run_id=str(run_id), seq=n, event=name, data=raw))
    await bench.settle(run_id, feed, {"n": 1})
    found = await events(bench.url, thread, 1, "values", "updates", "input", "lifecycle", "messages")
    assert [event["method"] for event in found] == ["lifecycle", "input.requested", "values", "lifecycle"]
    assert found[1]["params"]["data"] == {"interrupt_id": "i-1", "payload": "sure?", "value": "sure?"}
    assert found[1]["event_id"] == f"synth:{run_id}:input||i-1"
    assert found[2]["params"]["data"] == {"n": 1}


async def test_a_tape_of_no_thread_waits_and_leaves_nothing(bench: LiveBench) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await events(bench.url, str(uuid4()), 1)
    async with asyncio.timeout(5):
        while bench.parts.ends._threads:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
