"""Plans of what is broken, on the production shape and under load; what must hold is looked at from outside.

`CRONLEDGER_SEEDS=17` (or `1-60`) with `make test-long` carries out these plans; a seed that failed fails again.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import httpx
import nats
import pytest
import pytest_asyncio
from langgraph_sdk import get_client

from contracts.codec import EventCodec
from contracts.ledger import Recorded
from contracts.subjects import LEDGER
from services.kit.eventlog.postgres import PostgresLog
from tests.faults.hazards import Hazards
from tests.faults.load import Load
from tests.faults.plans import plan_of, told
from tests.faults.verdict import unsettled, untrue

SHORT_S, LONG_S = 8.0, 40.0
SETTLED_S = 150.0


def seeds() -> list[int]:
    """Those of the long form."""
    first, _, last = os.environ.get("CRONLEDGER_SEEDS", "101-110").partition("-")
    return list(range(int(first), int(last or first) + 1))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hazards(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hazards]:
    made = await Hazards(tmp_path_factory.mktemp("hazards")).start()
    yield made
    await made.stop()


@pytest.mark.long
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("seed", "length_s"),
    [
        *((seed, SHORT_S) for seed in range(1, 6)),
        *((seed, LONG_S) for seed in seeds()),
    ],
)
async def test_all_that_was_promised_holds(hazards: Hazards, seed: int, length_s: float) -> None:
    plan = plan_of(seed, length_s, hazards.production.names)
    print(f"seed {seed}:\n{told(plan)}")
    log = PostgresLog(hazards.production.database_url, EventCodec())
    start = log.head()
    async with AsyncExitStack() as stack:
        urls = [hazards.production.urls[name] for name in ("gateway0", "gateway1")]
        clients = [await stack.enter_async_context(get_client(url=url, timeout=30)) for url in urls]
        load, stop = Load(clients, seed), asyncio.Event()
        working = asyncio.create_task(load.run(stop))
        try:
            await hazards.carry_out(plan)
        finally:
            stop.set()
            await asyncio.wait({working})
            await load.end()  # the next plan is to find nothing of it
        working.result()
    recorded = await settled(log, start)
    assert load.faults == []
    assert load.unkept(recorded) == []
    assert untrue(recorded, int(time.time())) == []
    await healthy(urls)
    assert await unpublished(hazards, log) == []
    log.close_readers()
    verified = await asyncio.to_thread(hazards.production.command, "replay", "--verify")
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stdout
    print(
        f"{len(recorded)} events, {sum(load.acknowledged.values())} acknowledged, refused {dict(load.refused)}"
    )


async def settled(log: PostgresLog, start: int) -> list[Recorded]:
    """The events since the start, when every run has ended."""
    until = time.monotonic() + SETTLED_S
    while left := unsettled(recorded := log.read(start, 1_000_000)):
        assert time.monotonic() < until, (
            len(left),
            left[:5],
            len(recorded),
            [str(e.topic) for e in recorded[-5:]],
        )
        await asyncio.sleep(0.5)
    return recorded


async def healthy(urls: list[str]) -> None:
    """Every gateway says that all its parts are well."""
    async with httpx.AsyncClient(timeout=30) as http, asyncio.timeout(60):
        for url in urls:
            while (told := (await http.get(f"{url}/health")).json())["status"] != "healthy":
                assert told
                await asyncio.sleep(0.2)


async def unpublished(hazards: Hazards, log: PostgresLog) -> list[str]:
    """Events that subscribers were not told of, or were told of twice or out of order."""
    head = log.head()
    client: Any = await nats.connect(hazards.cluster.url.split(","))
    js = client.jetstream()
    try:
        positions: list[int] = []
        async with asyncio.timeout(90):
            while True:
                newest = await js.get_last_msg(LEDGER.name, "ledger.>")
                if int(newest.headers["Ledger-Position"]) >= head:
                    break
                await asyncio.sleep(0.2)
            subscription = await js.subscribe("ledger.>", ordered_consumer=True)
            while not positions or positions[-1] < head:
                message = await subscription.next_msg(10)
                positions.append(int(message.headers["Ledger-Position"]))
    finally:
        await client.close()
    faults = [f"{b} came after {a}" for a, b in pairwise(positions) if b <= a]
    known = {event.position for event in log.read(0, 1_000_000) if event.position <= head}
    return faults + [f"{position} was not told of" for position in sorted(known - {*positions})]
