"""What graphs see of the server that runs them, when it is not there."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.gateway.server import GatewayServer
from services.worker.children import ChildPool
from tests.services.graph_children import Bench, bench_of, values

GRAPHS = """
    import httpx
    from langgraph.graph import START, StateGraph
    from langgraph_sdk import get_client, get_sync_client
    from langgraph_sdk.client import get_client as by_its_module
    from typing_extensions import TypedDict

    class Seen(TypedDict, total=False):
        seen: list

    async def ask(state: Seen) -> Seen:
        seen = [get_client is by_its_module, get_client.__name__]
        for url in (None, "http://127.0.0.1:9/elsewhere"):
            client, sync = get_client(url=url), get_sync_client(url=url)
            assert client.http.client.base_url == sync.http.client.base_url
            seen.append([str(client.http.client.base_url), len(sync.http.client.event_hooks["request"])])
        try:
            await get_client().threads.search()
        except httpx.TransportError:
            seen.append("TransportError")
        try:
            get_sync_client().threads.search()
        except httpx.TransportError:
            seen.append("TransportError")
        for wait in (get_sync_client().runs.wait, get_sync_client().runs.stream):
            try:
                list(wait(None, "graph", input={}))
            except RuntimeError as exc:
                seen.append(str(exc).partition(":")[0])
        return {"seen": seen}

    builder = StateGraph(Seen)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    graph = builder.compile()
"""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_of(tmp_path, GRAPHS, ["graph"]) as bench:
        yield bench


async def test_server_that_goes_away_is_a_connection_error(bench: Bench) -> None:
    def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(leave, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        pool = ChildPool(
            bench.settings, bench.project(), bench.folder, lambda: f"http://127.0.0.1:{port}/base"
        )
        bench.pools.append(pool)
        await pool.start()
        ended = await bench.run(pool, "graph", input={})
    assert values(ended)["seen"] == [
        True,
        "get_client",
        [f"http://127.0.0.1:{port}/base/", 1],
        ["http://127.0.0.1:9/elsewhere/", 0],
        *["TransportError"] * 2,
        *["get_sync_client() waits for a run in an async node"] * 2,
    ]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:2026"),
        ("0.0.0.0", "http://127.0.0.1:2026"),
        ("", "http://127.0.0.1:2026"),
        ("::", "http://[::1]:2026"),
        ("fe80::1", "http://[fe80::1]:2026"),
        ("agents.example", "http://agents.example:2026"),
    ],
)
def test_address(host: str, url: str) -> None:
    assert GatewayServer(None, host, 2026).url == url
