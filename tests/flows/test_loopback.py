"""Graphs that use the server which runs them: clients of the SDK that are made without an address reach it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server("loopback")


@pytest.mark.parametrize("graph", ["dispatcher", "sync_dispatcher"])
async def test_nodes_start_runs_wait_for_them_and_stream_them(client: Any, graph: str) -> None:
    values = await client.runs.wait(None, graph, input={"text": "hello"})
    told = values["told"]
    assert told | {"thread_id": ""} == {"thread_id": "", "waited": "HELLO", "streamed": 2, "state": "X"}
    thread = await client.threads.get(told["thread_id"])
    assert thread["metadata"]["by"] == "dispatcher"
    assert len(await client.runs.list(told["thread_id"])) == 2


async def test_several_at_a_time(client: Any) -> None:
    waiting = [client.runs.wait(None, "dispatcher", input={"text": str(n)}) for n in range(4)]
    assert [values["told"]["waited"] for values in await asyncio.gather(*waiting)] == list("0123")
