"""A scheduler that dies at the instant of many occurrences: the one that stands by decides them all, once each."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from contracts.codec import EventCodec
from contracts.events import AssistantCreated, RunRequested
from contracts.ledger import Append, Meta, Recorded, Transaction
from domain.assistant import default_assistant_id
from services.kit.eventlog.postgres import PostgresLog
from tests.faults.verdict import untrue
from tests.nats import NatsNode
from tests.postgres import Postgres
from tests.production import Production

NAMES = ("projector0", "gateway0", "scheduler0", "scheduler1")


@pytest.fixture
def production(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Production]:
    folder = tmp_path_factory.mktemp("takeover")
    nats = NatsNode(folder / "nats").start()
    settings = {"CRONLEDGER_FIRST_RUN": "scheduled", "CRONLEDGER_CRONS_PER_USER": "0"}
    made = Production(folder, postgres, nats.url, **settings)
    assert made.command("migrate").returncode == 0
    for name in NAMES:  # one after the other: the first scheduler is the one that decides
        made.begin(name)
        made.wait(name)
    yield made
    made.close()
    nats.kill()


@pytest.mark.parametrize("many", [600, pytest.param(10_000, marks=pytest.mark.long)])
async def test_standby_decides_what_was_due(production: Production, many: int) -> None:
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=10 + many // 100)
    schedule = f"{due.second} {due.minute} {due.hour} * * *"
    log = PostgresLog(production.database_url, EventCodec())
    # Registered by no worker: of the graph only its default assistant is needed.
    body = {"assistant_id": await assistant(log), "schedule": schedule, "input": {"count": 1}}
    async with httpx.AsyncClient(base_url=production.urls["gateway0"], timeout=60) as http:

        async def create(each: int) -> None:
            for _ in range(each):
                (await http.post("/runs/crons", json=body)).raise_for_status()

        await asyncio.gather(*(create(many // 20) for _ in range(20)))
    assert datetime.now(UTC) < due, "the crons were not there in time"
    await asyncio.sleep((due - datetime.now(UTC)).total_seconds())
    production.kill("scheduler0")
    async with asyncio.timeout(60):
        while len(fired := list(of_schedule(log))) < many:  # noqa: ASYNC110 - it is a database
            await asyncio.sleep(0.2)
    late = sorted((event.meta.at - due).total_seconds() for event in fired)
    print(f"{many} due: p50 {late[many // 2]:.2f} s, last {late[-1]:.2f} s late")
    assert late[-1] < 30  # five of the lease, and a machine that is busy
    assert untrue(log.read(0, 1_000_000), int(time.time())) == []
    assert len(list(of_schedule(log))) == many
    log.close_readers()


async def assistant(log: PostgresLog) -> str:
    """The default assistant of a graph, as a worker would register it."""
    await log.start()
    made = AssistantCreated(graph_id="counter", name="counter", system=True)
    append = Append(default_assistant_id("counter"), 0, (made,))
    await log.append(Transaction(meta=Meta(at=datetime.now(UTC), actor="test"), appends=(append,)))
    await log.stop()
    await asyncio.sleep(2)  # until the gateway knows it
    return "counter"


def of_schedule(log: PostgresLog) -> Iterator[Recorded]:
    """The runs that the schedule has begun."""
    for event in log.read_topics("run.requested", 0, log.head(), 1_000_000):
        if isinstance(event.body, RunRequested) and event.body.scheduled_for is not None:
            yield event
