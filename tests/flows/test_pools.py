"""Two projects on one installation, each with a pool of workers of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from textwrap import dedent
from typing import Any

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import APIStatusError

from tests.conftest import GRAPHS
from tests.nats import NatsNode
from tests.postgres import Postgres
from tests.production import Production

BILLING = """
    {"dependencies": ["."], "graphs": {"invoice": "./graphs.py:counter", "remind": "./graphs.py:two_steps"}}
"""
LATER = """
    {"dependencies": ["."], "graphs": {"invoice": "./graphs.py:counter", "dun": "./graphs.py:counter"}}
"""
TAKEN = '{"dependencies": ["."], "graphs": {"counter": "./graphs.py:counter"}}'
SHARED = ("projector0", "relay0", "scheduler0", "gateway0")
FIRST, SECOND, THIRD = "worker0", "worker1", "worker2"


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Production]:
    folder = tmp_path_factory.mktemp("pools")
    nats = NatsNode(folder / "nats").start()
    made = Production(folder, postgres, nats.url, CRONLEDGER_LEASE_S="3")
    for name, config in (("billing", BILLING), ("later", LATER), ("taken", TAKEN)):
        (folder / name).mkdir()
        (folder / name / "graphs.py").write_text(dedent(GRAPHS))
        (folder / name / "langgraph.json").write_text(dedent(config))
    made.projects |= {SECOND: "billing", THIRD: "later"}
    made.given |= {name: {"CRONLEDGER_POOL": "billing"} for name in (SECOND, THIRD)}
    assert made.command("migrate").returncode == 0
    made.begin(*SHARED, FIRST, SECOND)
    made.wait(*SHARED, FIRST, SECOND)
    yield made
    made.close()
    nats.kill()


@pytest.fixture
async def client(production: Production) -> AsyncIterator[Any]:
    async with get_client(url=production.urls["gateway0"], timeout=60) as made:
        yield made


async def ran(client: Any, graph: str, within_s: float = 30) -> int:
    """A run of the graph on a new thread, and a question about it."""
    async with asyncio.timeout(within_s):
        thread_id = (await client.threads.create())["thread_id"]
        await client.runs.wait(thread_id, graph, input={"count": 1})
        return int((await client.threads.get_state(thread_id))["values"]["count"])


async def counts(client: Any, cron_id: str) -> Any:
    return (await client.http.get(f"/runs/crons/{cron_id}"))["ledger"]


async def until(client: Any, cron_id: str, how_many: int) -> None:
    async with asyncio.timeout(60):
        while (await counts(client, cron_id))["fired"] < how_many:  # noqa: ASYNC110 - it is a client
            await asyncio.sleep(0.2)


async def test_each_pool_runs_its_own_graphs(production: Production, client: Any) -> None:
    found = {one["graph_id"] for one in await client.assistants.search(limit=100)}
    assert {"counter", "invoice", "remind"} <= found
    assert await asyncio.gather(*(ran(client, graph) for graph in ("counter", "invoice", "remind"))) == [
        2,
        2,
        3,
    ]
    drawn = await client.assistants.get_graph("invoice")
    assert drawn["nodes"]
    await client.store.put_item(["notes"], "a", {"by": "anybody"})
    crons = [
        (
            await client.crons.create(
                graph, schedule="* * * * * *", input={"count": 1}, on_run_completed="keep"
            )
        )["cron_id"]
        for graph in ("counter", "invoice")
    ]
    for cron_id in crons:
        await until(client, cron_id, 3)
    # One pool is away: the other's work goes on, and its own waits.
    await asyncio.to_thread(production.kill, SECOND)
    thread_id = (await client.threads.create())["thread_id"]
    waiting = await client.runs.create(thread_id, "invoice", input={"count": 1})
    assert await ran(client, "counter") == 2
    assert (await client.store.get_item(["notes"], "a"))["value"] == {"by": "anybody"}
    with pytest.raises(APIStatusError, match="pool 'billing'") as refused:
        await client.assistants.get_graph("remind")
    assert refused.value.status_code == 503
    assert (await client.runs.get(thread_id, waiting["run_id"]))["status"] == "pending"
    production.begin(SECOND)
    await asyncio.to_thread(production.wait, SECOND)
    async with asyncio.timeout(30):
        assert (await client.runs.join(thread_id, waiting["run_id"]))["count"] == 2
    for cron_id in crons:
        await client.crons.delete(cron_id)


def test_a_graph_of_another_pool_that_is_at_work_is_refused(production: Production) -> None:
    production.projects[THIRD] = "taken"
    production.begin(THIRD)
    with pytest.raises(AssertionError):
        production.wait(THIRD)
    told = (production.folder / f"{THIRD}.log").read_text()
    assert "graph 'counter': workers of the pool 'default' have it" in told
    assert "Traceback" not in told
    production.kill(THIRD)
    production.projects[THIRD] = "later"


async def test_a_project_changes_while_both_versions_have_workers(
    production: Production, client: Any
) -> None:
    """A graph that leaves is retired when the last worker of the former project is gone, and not before."""
    cron_id = (await client.crons.create("remind", schedule="* * * * * *"))["cron_id"]
    production.begin(THIRD)
    await asyncio.to_thread(production.wait, THIRD)
    for graph, count in (("invoice", 2), ("remind", 3), ("dun", 2)):
        assert await asyncio.gather(*(ran(client, graph) for _ in range(4))) == [count] * 4
    fired = (await counts(client, cron_id))["fired"]
    await until(client, cron_id, fired + 2)
    assert production.stop(SECOND) == 0
    async with asyncio.timeout(30):
        while not (await counts(client, cron_id))["skipped"]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    assert await ran(client, "dun") == 2
    # Back again, as by a deployment that is taken back.
    production.begin(SECOND)
    await asyncio.to_thread(production.wait, SECOND)
    fired = (await counts(client, cron_id))["fired"]
    await until(client, cron_id, fired + 2)
    await client.crons.delete(cron_id)
    assert production.stop(THIRD) == 0


async def test_a_graph_moves_to_another_pool_with_what_waits(production: Production, client: Any) -> None:
    await asyncio.to_thread(production.kill, FIRST)
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "counter", input={"count": 1})
    production.projects[THIRD] = "taken"
    await asyncio.sleep(4)  # the lease of the dead worker
    production.begin(THIRD)
    await asyncio.to_thread(production.wait, THIRD)
    async with asyncio.timeout(30):
        assert (await client.runs.join(thread_id, run["run_id"]))["count"] == 2
    assert (await client.threads.get_state(thread_id))["values"]["count"] == 2
