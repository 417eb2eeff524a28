"""Each service as a process of its own, from the command line, with the real client."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import UnprocessableEntityError

from tests.conftest import Make, Server

REPOSITORY = Path(__file__).parents[2]
Begin = Callable[..., str]


@pytest.fixture(scope="module")
def server(make_shared_server: Make) -> Server:
    return make_shared_server()


@pytest.fixture(scope="module")
def begin(server: Server) -> Iterator[Begin]:
    """Start a service beside the server; what it says when it is ready."""
    begun: list[subprocess.Popen[str]] = []

    def start(service: str, *arguments: str) -> str:
        command = [sys.executable, "-m", "services", service, "--data", str(server.data), *arguments]
        environment = {**os.environ, "CRONLEDGER_SECONDS": "first", "CRONLEDGER_LOG_LEVEL": "warning"}
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
        )
        begun.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "is ready" in said, said
        return said

    yield start
    for process in reversed(begun):
        process.send_signal(signal.SIGTERM)
    for process in reversed(begun):
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def urls(server: Server, begin: Begin) -> tuple[str, str]:
    """Two gateways."""
    said = begin("gateway", "--port", "0")
    return server.url, said.rsplit(" ", 1)[1].strip()


@pytest.fixture
async def clients(urls: tuple[str, str]) -> AsyncIterator[list[Any]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(get_client(url=url)) for url in urls]


async def test_a_client_of_two_gateways_sees_its_own_writes(clients: list[Any]) -> None:
    for n in range(30):
        here, there = clients[n % 2], clients[1 - n % 2]
        thread = await here.threads.create(metadata={"n": n})
        assert (await there.threads.get(thread["thread_id"]))["metadata"]["n"] == n
        assert [t["thread_id"] for t in await there.threads.search(metadata={"n": n})] == [
            thread["thread_id"]
        ]
        cron = await there.crons.create_for_thread(thread["thread_id"], "counter", schedule="0 0 1 1 *")
        assert cron["cron_id"] in [
            c["cron_id"] for c in await here.crons.search(thread_id=thread["thread_id"])
        ]
        await here.crons.delete(cron["cron_id"])
        assert await there.crons.search(thread_id=thread["thread_id"]) == []


async def test_runs_are_waited_for_and_streamed_by_whichever_gateway(clients: list[Any]) -> None:
    here, there = clients
    thread_id = (await here.threads.create())["thread_id"]
    run = await here.runs.create(thread_id, "counter", input={"count": 1, "wait_s": 0.5})
    joined, waited = await asyncio.gather(
        there.runs.join(thread_id, run["run_id"]), here.runs.join(thread_id, run["run_id"])
    )
    assert joined["count"] == waited["count"] == 2
    events = [part.event async for part in there.runs.stream(thread_id, "counter", input={"count": 1})]
    assert "values" in events
    run = await here.runs.create(thread_id, "counter", input={"wait_s": 30})
    await there.runs.cancel(thread_id, run["run_id"], wait=True)
    assert (await here.runs.get(thread_id, run["run_id"]))["status"] == "interrupted"


async def test_many_clients_of_one_thread_meet_no_conflict(clients: list[Any]) -> None:
    thread_id = (await clients[0].threads.create())["thread_id"]
    made = (
        clients[n % 2].runs.create(thread_id, "counter", input={"count": 1}, multitask_strategy="enqueue")
        for n in range(50)
    )
    runs = await asyncio.gather(*made)
    last = await clients[1].runs.join(thread_id, runs[-1]["run_id"])
    assert last["count"] >= 2
    for run in runs:
        await clients[0].runs.join(thread_id, run["run_id"])
    assert (await clients[1].threads.get_state(thread_id))["values"]["count"] == 2 * len(runs)


async def test_a_gateway_without_a_project_knows_the_graphs_of_the_workers(clients: list[Any]) -> None:
    for client in clients:
        with pytest.raises(UnprocessableEntityError, match=r"graphs are .*counter"):
            await client.runs.create(None, "nonsense")
        assert {a["graph_id"] for a in await client.assistants.search(graph_id="counter")} == {"counter"}


async def test_the_others_work_beside_it(server: Server, begin: Begin, clients: list[Any]) -> None:
    config = str(server.folder / "project" / "langgraph.json")
    for service, arguments in (("scheduler", ()), ("relay", ()), ("worker", ("--config", config))):
        begin(service, *arguments)
    thread_id = (await clients[1].threads.create())["thread_id"]
    cron = await clients[1].crons.create_for_thread(
        thread_id, "counter", schedule="* * * * * *", input={"count": 1}
    )
    async with asyncio.timeout(30):
        while len(await clients[0].runs.list(thread_id)) < 5:  # noqa: ASYNC110 - it is a client
            await asyncio.sleep(0.2)
    await clients[0].crons.delete(cron["cron_id"])
    runs = await clients[0].runs.list(thread_id, limit=100)
    for run in runs:
        await clients[1].runs.join(thread_id, run["run_id"])
    assert (await clients[0].threads.get_state(thread_id))["values"]["count"] == 2 * len(runs)
