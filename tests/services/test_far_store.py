"""A whole server over a store whose every read takes 50 ms: no read holds up the event loop."""

import asyncio
import threading
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client

from contracts.codec import EventCodec
from services import up
from services.kit.eventlog.log import RecordedLog
from services.kit.eventlog.sqlite import SqliteRecorder
from services.kit.project import load_project
from services.kit.settings import Settings
from services.kit.views import Row
from services.kit.views.sqlite import SqliteViews

READ_S = 0.05
PROJECT = Path(__file__).parents[1] / "projects" / "agents" / "langgraph.json"
HELLO = {"messages": [{"role": "user", "content": "how is the weather?"}]}


class Distance:
    """What lies between: each read takes its time, and where it is made is seen."""

    def __init__(self) -> None:
        self.reads = 0
        self.on_loop: set[str] = set()

    def cover(self) -> None:
        self.reads += 1
        if threading.current_thread() is threading.main_thread():
            stack = [
                line for line in traceback.format_stack() if "/services/" in line and "/tests/" not in line
            ]
            self.on_loop.add("".join(stack[-4:]))
        time.sleep(READ_S)


@pytest.fixture
def distance(monkeypatch: pytest.MonkeyPatch) -> Distance:
    distance = Distance()

    class FarRecorder(SqliteRecorder):
        is_near = False

        def rows(self, name: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
            distance.cover()
            return super().rows(name, params)

    class FarLog(RecordedLog):
        def __init__(self, path: Path, codec: EventCodec) -> None:
            super().__init__(FarRecorder(path), codec)

    class FarViews(SqliteViews):
        is_near = False

        def all(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
            distance.cover()
            return super().all(query, params)

        def one(self, query: str, params: Sequence[Any] = ()) -> Row | None:
            distance.cover()
            return super().one(query, params)

    monkeypatch.setattr(up, "SqliteLog", FarLog)
    monkeypatch.setattr(up, "SqliteViews", FarViews)
    return distance


@pytest.fixture
async def client(distance: Distance, tmp_path: Path) -> AsyncIterator[Any]:
    settings = Settings(data=str(tmp_path / "data"), port=0, seconds="first", lease_s=3.0)
    server = up.Embedded(settings, load_project(PROJECT, tmp_path))
    await server.start()
    try:
        async with get_client(url=server.serving.url) as connected:
            yield connected
    finally:
        await server.stop()


async def used(client: Any) -> None:
    """What clients do."""
    thread = await client.threads.create(metadata={"a": 1})
    thread_id = thread["thread_id"]
    parts = client.runs.stream(thread_id, "chat", input=HELLO, stream_mode=["values"], stream_resumable=True)
    names = [part.event async for part in parts]
    assert names[-1] == "end"
    assert names.count("values") == 4
    scheduled = (await client.threads.create())["thread_id"]
    cron = await client.crons.create_for_thread(scheduled, "chat", schedule="* * * * * *", input=HELLO)
    assert (await client.runs.wait(thread_id, "approval", input={"amount": 40}))["__interrupt__"]
    await client.runs.wait(thread_id, "approval", command={"resume": "approved"})
    stuck = await client.runs.create(None, "endless", input=HELLO)
    await client.runs.cancel(stuck["thread_id"], stuck["run_id"], wait=True)
    await client.runs.create(None, "endless", input=HELLO)
    await client.http.post("/runs/cancel", json={"status": "all"})
    another = await client.runs.create(None, "chat", input=HELLO, stream_resumable=True)
    address = (another["thread_id"], another["run_id"])
    assert [part async for part in client.runs.join_stream(*address, last_event_id="-1")]
    assert await client.runs.join(*address)
    assert (await client.runs.get(*address))["status"] == "success"
    await client.runs.delete(*address)
    await client.store.put_item(["a"], "k", {"v": 1})
    await client.threads.update_state(thread_id, {"amount": 1}, as_node="decide")
    assert await client.threads.get_history(thread_id, limit=2)
    assert await client.threads.search(metadata={"a": 1}, limit=5)
    assert await client.runs.list(thread_id, limit=3)
    assert await client.http.get("/runs", params={"limit": 3})
    assert await client.crons.search(thread_id=scheduled)
    assert await client.crons.count() == 1
    assert await client.http.get(f"/runs/crons/{cron['cron_id']}/ledger")
    assert await client.http.get(f"/runs/crons/{cron['cron_id']}/occurrences")
    assert await client.http.get("/ledger", params={"limit": 3, "thread": thread_id})
    await client.crons.update(cron["cron_id"], enabled=False)
    made = await client.assistants.create("chat", name="one")
    await client.assistants.update(made["assistant_id"], name="two")
    assert await client.assistants.search(name="two")
    assert await client.assistants.get_versions(made["assistant_id"])
    await client.assistants.delete(made["assistant_id"])
    await client.threads.copy(thread_id)
    assert (await client.http.get("/health")).keys()
    await client.crons.delete(cron["cron_id"])
    await client.threads.delete(thread_id)


async def test_no_read_holds_up_the_loop(client: Any, distance: Distance) -> None:
    worst_s = 0.0

    async def tick() -> None:
        nonlocal worst_s
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            worst_s = max(worst_s, time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    begun, reads = time.monotonic(), distance.reads
    async with asyncio.timeout(100):
        await used(client)
    took_s = time.monotonic() - begun
    ticking.cancel()
    assert not distance.on_loop, "\n\n".join(sorted(distance.on_loop))
    # They are made one beside the other: all that was read took longer than all that was done.
    assert (distance.reads - reads) * READ_S > took_s
    assert worst_s < 1.0
