"""A gateway whose read models stand still: what was asked is stored, and its answer goes out all the same."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx import ASGITransport

from contracts.codec import EventCodec
from contracts.ledger import Meta
from domain import assistant as assistants
from domain.assistant import RegisterGraph, default_assistant_id
from domain.changes import Changes
from services.gateway.app import build_app
from services.kit.clock import SystemClock
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from tests.services.gateways import gateway_parts


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await log.start()
    projector, views = Projector(log, tmp_path / "views.db"), SqliteViews(tmp_path / "views.db")
    await projector.start()
    events = assistants.decide(None, RegisterGraph(graph_id="agent", name="agent"))
    made = Changes(appends=assistants.appends(default_assistant_id("agent"), None, events))
    assert await projector.reached(await log.append(made.by(Meta(at=SystemClock().now(), actor="test"))), 20)
    await projector.stop()  # from now on nothing is shown any more
    parts = gateway_parts(
        log, views, projector, health=lambda: {"projector": projector.failing or "not started"}
    )
    app: Any = build_app(parts)
    async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://test") as opened:
        yield opened
    views.close()
    await log.stop()


async def test_cron_that_is_not_shown_yet_is_answered_once(client: httpx.AsyncClient) -> None:
    began = time.monotonic()
    body = {"assistant_id": "agent", "schedule": "0 9 * * *", "metadata": {"a": 1}}
    answer = await client.post("/runs/crons", json=body)
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - began < 15  # two seconds of waiting, and a busy machine
    made = answer.json()
    assert (made["schedule"], made["metadata"]) == ("0 9 * * *", {"a": 1})
    assert made["next_run_date"].endswith("09:00:00+00:00")
    assert made["run_id"] in answer.headers["content-location"]


async def test_thread_and_assistant_too(client: httpx.AsyncClient) -> None:
    thread = await client.post("/threads", json={"metadata": {"a": 1}})
    assert (thread.status_code, thread.json()["metadata"]) == (200, {"a": 1})
    assistant = await client.post("/assistants", json={"graph_id": "agent", "name": "mine"})
    assert (assistant.status_code, assistant.json()["name"]) == (200, "mine")


async def test_health_names_the_part(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/ready"):
        answer = await client.get(path)
        assert answer.status_code == 503
        assert answer.json() == {"status": "unhealthy", "services": {"projector": "not started"}}
