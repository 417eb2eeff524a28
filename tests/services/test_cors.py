"""Which web pages may call the server, and what it leaves out."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx import ASGITransport

from contracts.codec import EventCodec
from services.gateway.app import build_app
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.http import GROUPS, HttpSettings
from services.kit.settings import Settings
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from tests.services.gateways import gateway_parts


@pytest.mark.parametrize(
    ("allowed", "origin", "answered"),
    [
        ("*", "https://any.example", "*"),
        ("https://a.example,https://b.example", "https://b.example", "https://b.example"),
        ("https://a.example", "https://evil.example", None),
    ],
)
async def test_origins(tmp_path: Path, allowed: str, origin: str, answered: str | None) -> None:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    projector = Projector(log, tmp_path / "views.db")
    parts = gateway_parts(
        log, SqliteViews(tmp_path / "views.db"), projector, settings=Settings(cors_origins=allowed), graphs=()
    )
    app: Any = build_app(parts)
    async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/ok", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == answered
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        before = await client.options("/threads", headers=asked)
        assert before.headers.get("access-control-allow-origin") == answered
        # What a page sends without asking first, or by a name of its own that means this machine.
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        called = await client.post("/mcp", json=ping, headers={"Origin": origin})
        assert called.status_code == (403 if answered is None else 200)


async def test_what_is_left_out(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    projector = Projector(log, tmp_path / "views.db")
    settings = HttpSettings(disabled=frozenset(GROUPS))
    app: Any = build_app(gateway_parts(log, SqliteViews(tmp_path / "views.db"), projector, http=settings))
    paths = (
        "/threads",
        "/runs",
        "/assistants/search",
        "/runs/crons/search",
        "/store/items",
        "/mcp",
        "/webhooks/deliveries",
    )
    async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        for path in (*paths, "/info", "/openapi.json", "/docs"):
            for method in ("GET", "POST"):
                assert (await client.request(method, path)).status_code == 404, path
        assert (await client.get("/ok")).status_code == 200
