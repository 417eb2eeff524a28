"""Each service as a process of its own, from the command line, with the real client."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import APIConnectionError, APIStatusError, UnprocessableEntityError

from contracts.codec import EventCodec
from contracts.events import RunRequested
from services.kit.eventlog.postgres import PostgresLog
from tests.conftest import REPOSITORY, Make
from tests.faults.verdict import unsettled, untrue
from tests.nats import NatsCluster
from tests.postgres import Postgres
from tests.production import Production


@pytest.fixture(scope="module")
def beside(make_shared_server: Make) -> Iterator[tuple[str, str]]:
    """A whole server on a data folder, and beside it one more of each service."""
    server = make_shared_server()
    config = str(server.folder / "project" / "langgraph.json")
    begun: list[subprocess.Popen[str]] = []

    def begin(service: str, *arguments: str) -> str:
        command = [sys.executable, "-m", "services", service, "--data", str(server.data), *arguments]
        environment = {**os.environ, "CRONLEDGER_SECONDS": "first", "CRONLEDGER_LOG_LEVEL": "warning"}
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
        )
        begun.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "is ready" in said, said
        return said.rsplit(" ", 1)[1].strip()

    url = begin("gateway", "--port", "0")
    for service, arguments in (("scheduler", ()), ("relay", ()), ("worker", ("--config", config))):
        begin(service, *arguments)
    yield server.url, url
    for process in reversed(begun):
        process.send_signal(signal.SIGTERM)
    for process in reversed(begun):
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Production]:
    """PostgreSQL, NATS on three servers, and two or three processes of each service."""
    folder = tmp_path_factory.mktemp("production")
    cluster = NatsCluster(folder / "nats").start()
    made = Production(folder, postgres, cluster.url)
    assert made.command("migrate").returncode == 0
    made.begin(*made.names)
    made.wait(*made.names)
    yield made
    made.close()
    cluster.stop()


@pytest.fixture(scope="module", params=["beside", "production"])
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Two gateways."""
    made = request.getfixturevalue(request.param)
    return made if isinstance(made, tuple) else (made.urls["gateway0"], made.urls["gateway1"])


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


async def test_crons_fire_once_with_two_of_everything(clients: list[Any]) -> None:
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


# --- while each of the processes is killed -------------------------------------------------------------


class Turns:
    """A client that talks to two gateways in turn, and to the other one when one is away."""

    def __init__(self, clients: list[Any]) -> None:
        self._clients, self._n = clients, 0
        self.written = 0

    async def do(self, ask: Callable[[Any], Any]) -> Any:
        async with asyncio.timeout(60):
            while True:
                self._n += 1
                try:
                    return await ask(self._clients[self._n % 2])
                except (APIConnectionError, APIStatusError, httpx.TransportError) as exc:
                    if getattr(exc, "status_code", 503) != 503:
                        raise
                    await asyncio.sleep(0.1)

    async def write_and_read(self) -> None:
        while True:
            thread = await self.do(lambda client: client.threads.create(metadata={"n": self.written}))
            thread_id = thread["thread_id"]
            assert (await self.do(lambda client: client.threads.get(thread_id)))["thread_id"] == thread_id  # noqa: B023
            found = await self.do(lambda client: client.threads.search(metadata={"n": self.written}))
            assert thread_id in [one["thread_id"] for one in found]
            self.written += 1
            await asyncio.sleep(0.05)


async def test_each_process_is_killed_in_turn(production: Production) -> None:
    """Crons fire once, on time; a client of both gateways sees its own writes; every run has one end."""
    async with AsyncExitStack() as stack:
        both = [production.urls["gateway0"], production.urls["gateway1"]]
        clients = [await stack.enter_async_context(get_client(url=url)) for url in both]
        turns, crons = Turns(clients), []
        for n in range(12):
            thread_id = (await clients[0].threads.create())["thread_id"] if n % 2 else None
            given: dict[str, Any] = {"schedule": "* * * * * *", "input": {"count": 1}}
            made: Any = (
                clients[0].crons.create_for_thread(thread_id, "counter", **given)
                if thread_id
                else clients[0].crons.create("counter", **given)
            )
            crons.append((await made)["cron_id"])
        writing = asyncio.create_task(turns.write_and_read())
        for name in production.names:
            await asyncio.to_thread(production.kill, name)
            await asyncio.sleep(0.5)
            production.begin(name)
            await asyncio.to_thread(production.wait, name)
        assert not writing.done(), writing.result()
        writing.cancel()
        assert turns.written > 50
        for cron_id in crons:
            await turns.do(lambda client: client.crons.delete(cron_id))  # noqa: B023
    log = PostgresLog(production.database_url, EventCodec())
    async with asyncio.timeout(90):
        while left := unsettled(recorded := list(log.read(0, 1_000_000))):
            assert left
            await asyncio.sleep(0.5)
    log.close_readers()
    assert untrue(recorded, int(time.time())) == []
    late = sorted(
        (event.meta.at - event.body.scheduled_for).total_seconds()
        for event in recorded
        if isinstance(event.body, RunRequested) and event.body.scheduled_for is not None
    )
    assert len(late) > 100
    assert late[len(late) // 2] < 1
    assert late[-1] < 30  # a lease, and the start of two cores' worth of processes


def test_the_command_line_reads_the_database(production: Production) -> None:
    """After everything that was done to it: the audit, the deliveries, and read models that are what the ledger says."""
    said = production.command("audit", "--type", "cron.created", "--limit", "3")
    assert (said.returncode, len(said.stdout.splitlines())) == (0, 3), said.stderr
    assert "delivery" in production.command("deliveries", "list").stdout
    verified = production.command("replay", "--verify")
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stdout
    rebuilt = production.command("replay", "--only", "crons")
    assert "rebuilt crons" in rebuilt.stdout, rebuilt.stderr
    again = production.command("migrate")
    assert "up to date" in again.stdout
