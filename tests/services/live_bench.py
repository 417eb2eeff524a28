"""A gateway on a real log, real read models, a real bus and a real server; the test is the worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec

from contracts.codec import EventCodec, pack
from contracts.events import RunFailed, RunSucceeded
from contracts.frames import Emitted
from contracts.ledger import Meta
from contracts.subjects import RUNEV, run_events_subject
from contracts.work import LiveBatch
from domain import assistant as assistants
from domain import decisions
from domain.assistant import RegisterGraph, default_assistant_id
from domain.changes import Changes
from domain.run import ClaimRun, Outcome, Run, SettleRun, run_of
from services.gateway.app import GatewayParts, build_app
from services.gateway.server import GatewayServer
from services.kit.bus.nats import NatsBus
from services.kit.bus.pages import Pages
from services.kit.clock import SystemClock
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.settings import Settings
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from services.repository import Aggregates
from services.worker.feed import Feed, FeedSource
from tests.services.gateways import gateway_parts

BEGAN = 1_795_000_000_000


class LiveBench:
    """The gateway on real edges, and what a worker does."""

    def __init__(self, parts: GatewayParts, bus: NatsBus, url: str) -> None:
        self.parts, self.bus, self.url = parts, bus, url
        self.http = httpx.AsyncClient(base_url=url, timeout=30)

    async def thread(self) -> str:
        answer = await self.http.post("/threads", json={})
        return str(answer.json()["thread_id"])

    async def run(self, **body: Any) -> tuple[str, UUID]:
        """A run in the background: its path, and its id."""
        thread_id = await self.thread()
        made = {"assistant_id": "agent", "input": {}, **body}
        answer = await self.http.post(f"/threads/{thread_id}/runs", json=made)
        assert answer.status_code == 200, answer.text
        return answer.headers["content-location"], UUID(answer.json()["run_id"])

    async def claim(self, run_id: UUID, began_ms: int = BEGAN) -> Feed:
        """What a worker does first."""
        run = self.run_now(run_id)
        places = Aggregates(self.parts.log).lanes(run.lanes)
        lost = "gone" if run.attempt else ""
        now = self.parts.log.clock()
        position = await self._append(decisions.claim(run, ClaimRun(worker="w", lost=lost), places, now))
        attempt = run.attempt + 1
        source = FeedSource(run_id=run_id, attempt=attempt, began_ms=began_ms, began_at=position)
        return Feed(self.bus, source)

    async def settle(self, run_id: UUID, feed: Feed | None, values: Any = None, error: str = "") -> None:
        """What a worker does last; without a feed it died before it could tell."""
        run = self.run_now(run_id)
        outcome: Outcome
        common: dict[str, Any] = {"thread_id": run.request.thread_id, "attempt": run.attempt}
        if error:
            outcome = RunFailed(**common, error="ValueError", message=error)
        else:
            outcome = RunSucceeded(**common, output=pack(values)[0])
        command = SettleRun(attempt=run.attempt, outcome=outcome)
        places = Aggregates(self.parts.log).lanes(run.lanes)
        position = await self._append(decisions.settle(run, command, places))
        if feed is not None:
            await feed.settled(position)

    async def forget(self) -> None:
        """Empty the stream of live events, once what was sent before has come to it."""
        last, newest = run_events_subject(UUID(int=0)), f"STREAM.MSG.GET.{RUNEV.name}"
        await self.bus.publish(last, b"{}")
        async with asyncio.timeout(10):
            while "error" in await self.bus.api(newest, {"last_by_subj": last}):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await self.bus.api(f"STREAM.PURGE.{RUNEV.name}")

    def run_now(self, run_id: UUID) -> Run:
        run = run_of(run_id, self.parts.log.stream(run_id))
        assert run is not None
        return run

    async def watched(self, runs: int) -> None:
        """Wait until so many runs have listeners."""
        async with asyncio.timeout(10):
            while self.parts.live.watched != runs:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def stream(self, path: str, **kwargs: Any) -> AsyncIterator["Frames"]:
        method = "POST" if "json" in kwargs else "GET"
        async with self.http.stream(method, path, **kwargs) as answer:
            yield Frames(answer)

    async def _append(self, changes: Changes) -> int:
        position = await self.parts.log.append(changes.by(Meta(at=SystemClock().now(), actor="worker")))
        await self.parts.reached(position, 10)
        return position


class Frames:
    """The frames of an answer, one by one."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> tuple[str, Any, str | None]:
        """Event, data and id of the next frame; comments are left out."""
        found: dict[str, str] = {}
        async with asyncio.timeout(15):
            async for line in self._lines:
                if not line and found:
                    return found["event"], json.loads(found["data"]), found.get("id")
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    found[name] = value
        raise EOFError

    async def rest(self) -> list[tuple[str, Any, str | None]]:
        """Every frame until the stream closes."""
        frames = []
        while True:
            try:
                frames.append(await self.next())
            except EOFError:
                return frames


@asynccontextmanager
async def live_bench(folder: Path, bus: NatsBus, **settings: Any) -> AsyncIterator[LiveBench]:
    """A bench whose gateway is stopped at the end."""
    log = SqliteLog(folder / "ledger.db", EventCodec())
    await log.start()
    projector = Projector(log, folder / "views.db")
    await projector.start()
    views = SqliteViews(folder / "views.db")
    events = assistants.decide(None, RegisterGraph(graph_id="agent", name="agent"))
    made = Changes(appends=assistants.appends(default_assistant_id("agent"), None, events))
    await projector.reached(await log.append(made.by(Meta(at=SystemClock().now(), actor="test"))), 10)
    parts = gateway_parts(
        log, views, projector, settings=Settings(cancel_grace_s=1, lease_s=1, **settings), bus=bus
    )
    server = GatewayServer(build_app(parts), "127.0.0.1", 0)
    await server.start()
    await parts.start()
    made_bench = LiveBench(parts, bus, f"http://127.0.0.1:{server.port}")
    yield made_bench
    await made_bench.http.aclose()
    await parts.stop()
    await server.stop()
    views.close()
    await projector.stop()
    await log.stop()


async def stored(bus: NatsBus, run_id: UUID, seq: int) -> None:
    """Wait until the stream has the event of that number."""
    async with asyncio.timeout(10):
        while True:
            last = 0
            async for value in Pages(bus, RUNEV.name, run_events_subject(run_id)).rest():
                events = msgspec.json.decode(value.data, type=LiveBatch).events
                last = events[-1].seq if events else last
            if last >= seq:
                return


def emitted(run_id: UUID, n: int, event: str = "values") -> Emitted:
    return Emitted(run_id=str(run_id), seq=n, event=event, data=msgspec.Raw(b'{"n":%d}' % n))


def names(frames: list[tuple[str, Any, str | None]]) -> list[str]:
    return [event for event, _, _ in frames]
