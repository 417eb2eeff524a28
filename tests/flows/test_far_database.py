"""PostgreSQL behind a long line, and away for a while: a server on it, and its clients."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from contracts.codec import EventCodec
from contracts.events import CronCreated
from services.kit.eventlog.postgres import PostgresLog
from services.kit.settings import Settings
from services.schemas import upgrade
from tests.conftest import Make, Server
from tests.faults.verdict import unsettled, untrue
from tests.postgres import Postgres
from tests.wire import Wire

AWAY_S = 12
"""The long form takes the minute; by then every time-out has run out as well."""


@pytest.fixture
async def wire(postgres: Postgres) -> AsyncIterator[Wire]:
    made = await Wire(postgres.port).start()
    yield made
    await made.stop()


@pytest.fixture
async def urls(postgres: Postgres, wire: Wire) -> tuple[str, str]:
    """The address by the wire, and the one beside it."""
    database = postgres.database()
    direct = postgres.url_of(database)
    upgrade(Settings(database_url=direct), lambda _: None)
    return f"postgresql://postgres@127.0.0.1:{wire.port}/{database}", direct


@pytest.fixture
async def server(make_server: Make, urls: tuple[str, str], tmp_path: Path) -> Server:
    # In a thread: the wire is in this loop.
    return await asyncio.to_thread(make_server, CRONLEDGER_DATABASE_URL=urls[0], CRONLEDGER_LEASE_S="5")


async def test_a_long_line_blocks_no_loop(server: Server, wire: Wire) -> None:
    """With 20 ms more for each answer: heartbeats and streams go on, and commands share their commits."""
    async with (
        get_client(url=server.url) as client,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        assistant = (await client.assistants.search(graph_id="stepping"))[0]["assistant_id"]
        wire.delay_s = 0.01
        thread = await client.threads.create()
        streaming = asyncio.create_task(_stream(client, thread["thread_id"], assistant))
        began = time.monotonic()
        made = await asyncio.gather(*(http.post("/threads", json={"metadata": {"n": n}}) for n in range(100)))
        assert len({one.json()["thread_id"] for one in made}) == 100
        assert time.monotonic() - began < 20  # one after the other they would take longer than that
        pings = []
        for _ in range(20):
            asked = time.monotonic()
            assert (await http.get("/ok")).status_code == 200
            pings.append(time.monotonic() - asked)
        assert sorted(pings)[10] < 0.5
        assert (await http.get("/health")).json()["status"] == "healthy"
        events = await streaming
        assert [event for event in events if event == "updates"] == ["updates"] * 8
        wire.delay_s = 0.0


async def _stream(client: Any, thread_id: str, assistant_id: str) -> list[str]:
    asked = client.runs.stream(thread_id, assistant_id, input={"wait_s": 0.2}, stream_mode="updates")
    return [part.event async for part in asked]


@pytest.mark.parametrize("away_s", [AWAY_S, pytest.param(60, marks=pytest.mark.long)])
async def test_away_for_a_while(server: Server, wire: Wire, urls: tuple[str, str], away_s: float) -> None:
    """503 with a reason while it is away; nothing acknowledged is lost; everything resumes by itself."""
    async with (
        get_client(url=server.url) as client,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        kept = [(await client.threads.create())["thread_id"] for _ in range(5)]
        cron: Any = await client.crons.create("counter", schedule="*/2 * * * * *", input={"count": 1})
        await asyncio.sleep(3)
        wire.cut()
        began, told = time.monotonic(), []
        while time.monotonic() - began < away_s:
            answer = await http.post("/threads", json={})
            told.append(answer.status_code)
            if answer.status_code == 200:
                kept.append(answer.json()["thread_id"])
            else:
                assert answer.status_code == 503, answer.text
                assert "ledger" in answer.json()["detail"] or "database" in answer.json()["detail"]
            searched = await http.post("/threads/search", json={})
            assert searched.status_code in (200, 503), searched.text
            await asyncio.sleep(0.3)
        assert 503 in told
        wire.mend()
        async with asyncio.timeout(60):
            while (await http.post("/threads", json={})).status_code != 200:  # noqa: ASYNC110 - it is a client
                await asyncio.sleep(0.2)
            for thread_id in kept:
                assert (await http.get(f"/threads/{thread_id}")).status_code == 200
            while (await http.get("/health")).json()["status"] != "healthy":  # noqa: ASYNC110 - it is a client
                await asyncio.sleep(0.2)
        await asyncio.sleep(3)
        await client.crons.delete(cron["cron_id"])
    log = PostgresLog(urls[1], EventCodec())
    async with asyncio.timeout(60):
        while unsettled(recorded := log.read(0, 100_000)):  # noqa: ASYNC110 - it is a database
            await asyncio.sleep(0.5)
    log.close_readers()
    assert [e for e in recorded if isinstance(e.body, CronCreated)]
    assert untrue(recorded, int(time.time())) == []
