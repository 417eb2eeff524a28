"""Searches, sorts, counts and deletes in large read models over HTTP, and what a large past costs an idle server.

Sizes: BENCH_THREADS (200,000 threads with a run each), BENCH_CRONS (100,000), BENCH_IDLE_S (30 s). The folder is
made once and kept at BENCH_FOLDER when that is given.
"""

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from httpx import ASGITransport

from contracts.codec import EventCodec
from services.gateway.app import build_app
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.postgres import migrate
from services.kit.views import Views
from services.kit.views.postgres import SCHEMA, PostgresViews
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from tests.bench.test_server import cpu_s
from tests.populated import ASSISTANT, GRAPH, cron_id, populate, thread_id
from tests.postgres import Postgres
from tests.services.gateways import gateway_parts

pytestmark = [pytest.mark.bench, pytest.mark.asyncio(loop_scope="module")]
Say = Callable[[str, str, str], None]
THREADS = int(os.environ.get("BENCH_THREADS", "200000"))
CRONS = int(os.environ.get("BENCH_CRONS", "100000"))
IDLE_S = float(os.environ.get("BENCH_IDLE_S", "30"))
SETTLES_S = float(os.environ.get("BENCH_SETTLES_S", "20"))  # until the crons are loaded
TIMES = 21
BAR = "p50 10 ms"
FREE = "free filter"

QUESTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "threads, newest": ("/threads/search", {}, BAR),
    "threads, by created_at": ("/threads/search", {"sort_by": "created_at"}, BAR),
    "threads, by state_updated_at": ("/threads/search", {"sort_by": "state_updated_at"}, BAR),
    "threads, by status": ("/threads/search", {"sort_by": "status"}, BAR),
    "threads, status error": ("/threads/search", {"status": "error"}, BAR),
    "threads, status busy (5)": ("/threads/search", {"status": "busy"}, BAR),
    "threads, metadata of one": ("/threads/search", {"metadata": {"n": 77}}, BAR),
    "threads, metadata of 1 in 100": ("/threads/search", {"metadata": {"team": "team-7"}}, BAR),
    "threads, the same, oldest first": (
        "/threads/search",
        {"metadata": {"team": "team-7"}, "sort_by": "created_at", "sort_order": "asc"},
        BAR,
    ),
    "threads, metadata of all": ("/threads/search", {"metadata": {"all": True}}, BAR),
    "threads, metadata of none": ("/threads/search", {"metadata": {"n": -1}}, BAR),
    "threads, metadata of all, 1,000 of them": (
        "/threads/search",
        {"metadata": {"all": True}, "limit": 1000, "select": ["thread_id"]},
        "p50 40 ms",
    ),
    "threads, values": ("/threads/search", {"values": {"answer": 77}}, FREE),
    "threads counted": ("/threads/count", {}, BAR),
    "threads counted, status idle": ("/threads/count", {"status": "idle"}, "what it counts"),
    "threads counted, metadata of one": ("/threads/count", {"metadata": {"n": 77}}, BAR),
    "threads counted, metadata of all": ("/threads/count", {"metadata": {"all": True}}, "what it counts"),
    "crons, newest": ("/runs/crons/search", {}, BAR),
    "crons, by end_time": ("/runs/crons/search", {"sort_by": "end_time"}, BAR),
    "crons, by next_run_date": ("/runs/crons/search", {"sort_by": "next_run_date", "sort_order": "asc"}, BAR),
    "crons, by thread_id": ("/runs/crons/search", {"sort_by": "thread_id"}, BAR),
    "crons, of an assistant": ("/runs/crons/search", {"assistant_id": str(UUID(int=8))}, BAR),
    "crons, disabled, by end_time": ("/runs/crons/search", {"enabled": False, "sort_by": "end_time"}, BAR),
    "crons, metadata of one": ("/runs/crons/search", {"metadata": {"n": 77}}, BAR),
    "crons, metadata of 1 in 100": ("/runs/crons/search", {"metadata": {"team": "team-7"}}, BAR),
    "crons, metadata of all": ("/runs/crons/search", {"metadata": {"all": True}}, BAR),
    "crons counted": ("/runs/crons/count", {}, BAR),
    "crons counted, metadata of 1 in 100": ("/runs/crons/count", {"metadata": {"team": "team-7"}}, BAR),
    "assistants by name": ("/assistants/search", {"name": "team 7"}, BAR),
}
LEDGER: dict[str, dict[str, Any]] = {
    "ledger, type assistant.": {"type": "assistant."},
    "ledger, type run.": {"type": "run."},
    "ledger, of a thread": {"thread": str(thread_id(77))},
    "ledger, since the last events": {"since": "2026-01-03T07:33:00Z"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of it."""
    kept = Path(os.environ.get("BENCH_FOLDER") or tmp_path_factory.mktemp("large"))
    if not (kept / "views.db").exists():
        kept.mkdir(parents=True, exist_ok=True)
        asyncio.run(populate(kept, THREADS, CRONS, active=5))
    return kept


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """Where the read models are."""
    return str(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(
    folder: Path, database: str, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway over the folder, in this process: what is measured is the request, not the socket."""
    log = SqliteLog(folder / "ledger.db", EventCodec())
    await log.start()
    place: Path | str = folder / "views.db"
    if database == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        place = server.url_of(server.database())
        migrate(place, [SCHEMA], lambda _: None)
    projector = Projector(log, place)
    await projector.start()
    assert await projector.reached(log.head(), 600)
    views: Views = SqliteViews(place) if isinstance(place, Path) else PostgresViews(place)
    parts = gateway_parts(log, views, projector, graphs=(GRAPH,))
    app: Any = build_app(parts)
    async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://t", timeout=60) as client:
        yield client
    views.close()
    await projector.stop()
    await log.stop()


async def p50_ms(ask: Callable[[int], Any], times: int = TIMES) -> float:
    took = []
    for n in range(times):
        began = time.perf_counter()
        answer = await ask(n)
        took.append(time.perf_counter() - began)
        assert answer.status_code in (200, 204), answer.text
    return statistics.median(took) * 1000


@pytest.mark.parametrize("what", QUESTIONS)
async def test_search(http: httpx.AsyncClient, say: Say, database: str, what: str) -> None:
    path, body, bar = QUESTIONS[what]
    times = 5 if bar == FREE else TIMES
    say(f"{database}: {what}", f"{await p50_ms(lambda _: http.post(path, json=body), times):.1f} ms", bar)


@pytest.mark.parametrize("what", LEDGER)
async def test_ledger(http: httpx.AsyncClient, say: Say, database: str, what: str) -> None:
    took = await p50_ms(lambda _: http.get("/ledger", params=LEDGER[what]))
    say(f"{database}: {what}", f"{took:.1f} ms", BAR)


async def test_deletes(http: httpx.AsyncClient, say: Say, database: str) -> None:
    """Each with its commit and the wait until the read models show it."""

    async def assistant(n: int) -> Any:
        made = (await http.post("/assistants", json={"graph_id": GRAPH, "name": f"mine {n}"})).json()
        return made["assistant_id"]

    many, first = TIMES, TIMES * (database == "postgres")  # the ledger is one: others each time
    mine = [await assistant(n) for n in range(many)]
    created = await p50_ms(lambda n: http.post("/assistants", json={"graph_id": GRAPH}), many)
    say(f"{database}: create an assistant, for comparison", f"{created:.1f} ms", "-")
    for what, ask in {
        "delete a thread": lambda n: http.delete(f"/threads/{thread_id(THREADS // 2 + first + n)}"),
        "delete a cron": lambda n: http.delete(f"/runs/crons/{cron_id(CRONS // 2 + first + n)}"),
        "delete an assistant": lambda n: http.delete(f"/assistants/{mine[n]}"),
    }.items():
        say(f"{database}: {what}", f"{await p50_ms(ask, many):.1f} ms", BAR)
    left = await http.post("/threads/count", json={"metadata": {"assistant_id": str(ASSISTANT)}})
    assert left.json() > 0


async def test_idle(folder: Path, make_server: Any, say: Say) -> None:
    """CPU of a server that has nothing to do, with years behind it and with nothing."""
    used = []
    for copied in (None, folder):
        server = make_server(CRONLEDGER_LOG_LEVEL="warning")
        if copied is not None:
            server.stop()
            for old in server.data.glob("*.db*"):
                old.unlink()
            for name in ("ledger.db", "ledger.db-wal", "views.db", "views.db-wal"):
                if (folder / name).exists():
                    shutil.copy(folder / name, server.data / name)
            server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            there = (await client.post("/threads/count", json={})).json()
            assert there > 0.9 * THREADS if copied else there == 0
        await asyncio.sleep(SETTLES_S)
        before = cpu_s(server.process.pid)
        await asyncio.sleep(IDLE_S)
        used.append(cpu_s(server.process.pid) - before)
        server.stop()
    empty, large = used
    say(f"idle, {THREADS:,} runs, {IDLE_S:.0f} s", f"{large:.2f} s (empty {empty:.2f} s)", "x1.2")
