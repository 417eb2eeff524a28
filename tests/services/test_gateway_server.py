"""The HTTP server: it ends when it is told to, and its Date goes on though it is seldom woken."""

import asyncio
import time

import httpx
from litestar import Litestar, get

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
