"""The HTTP server: it ends when it is told to, and its Date goes on though it is seldom woken."""

import asyncio
import time

import httpx
import pytest
from litestar import Litestar, get

from services.gateway import server as server_module
from services.gateway.envelope import RequestEnvelope
from services.gateway.server import GatewayServer


@get("/")
async def hello() -> str:
    return "hello"


async def test_its_date_goes_on_and_it_ends_at_once() -> None:
    server = GatewayServer(Litestar([hello], openapi_config=None), "127.0.0.1", 0)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as http:
        dates = {(await http.get("/")).headers["date"]}
        async with asyncio.timeout(10):
            while len(dates) < 2:
                await asyncio.sleep(0.2)
                dates.add((await http.get("/")).headers["date"])
    began = time.monotonic()
    await server.stop()
    assert time.monotonic() - began < 3
    assert not server.started


async def test_who_waits_when_it_ends_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a 500: it is no fault, and another server can be asked."""
    monkeypatch.setattr(server_module, "GRACE_S", 1)
    waiting = asyncio.Event()

    @get("/wait")
    async def wait() -> str:
        waiting.set()
        await asyncio.sleep(60)
        return "never"

    server = GatewayServer(RequestEnvelope(Litestar([wait], openapi_config=None)), "127.0.0.1", 0)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as http:
        asking = asyncio.create_task(http.get("/wait"))
        await waiting.wait()
        await server.stop()
        answer = await asking
    assert (answer.status_code, answer.json()["detail"]) == (503, "This server is stopping; try again.")
    assert "x-request-id" in answer.headers
