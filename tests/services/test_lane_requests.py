"""Requests on a thread's lane by the gateway: how many may wait, what each costs, and what a deletion finds."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contracts.api import RunCreate
from contracts.events import CronDeleted
from contracts.ledger import Expect, Transaction
from contracts.spec import RunSpec
from domain import assistant as assistants
from domain import cron as crons
from domain import thread as threads
from domain.assistant import RegisterGraph, default_assistant_id
from domain.changes import Changes
from domain.cron import CreateCron
from domain.errors import LaneFull
from domain.lane import Lane, MultitaskStrategy
from domain.thread import CreateThread
from services.gateway.commands import runs
from services.gateway.commands.endings import delete_thread
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.gateway.problems import STATUSES
from services.gateway.queries.runs import RunAddress
from services.kit.ids import uuid7
from services.kit.settings import Settings
from services.repository import Aggregates
from services.worker.job import Later
from tests.services.gateways import gateway_parts
from tests.services.lane_bench import Bench

MOST = 20
CALLER = Caller("test")


class Gateway(Bench):
    """A bench with the gateway's commands."""

    def parts(self, **fields: Any) -> GatewayParts:
        given = {"clock": self.clock, "settings": Settings(waiting_per_thread=MOST), **fields}
        return gateway_parts(self.log, self.views, self.projector, **given)

    async def thread(self) -> UUID:
        thread_id = uuid7()
        made = threads.decide(None, CreateThread(thread_id=thread_id, user_id="u"))
        await self.append(*threads.appends(thread_id, None, made))
        return thread_id

    async def request(self, thread_id: UUID, strategy: MultitaskStrategy = "enqueue") -> UUID:
        run_id = uuid7()
        body = RunCreate(assistant_id="agent", multitask_strategy=strategy)
        await runs.request(self.parts(), CALLER, body, RunAddress(run_id, thread_id))
        return run_id

    def cron(self, thread_id: UUID) -> tuple[UUID, Changes]:
        """A cron on the thread, as it is created: it rests on the thread's version."""
        cron_id = uuid7()
        command = CreateCron(
            cron_id=cron_id,
            assistant_id=default_assistant_id("agent"),
            graph_id="agent",
            user_id="u",
            schedule="0 9 * * *",
            spec=RunSpec(),
            thread_id=thread_id,
        )
        made = crons.changes(cron_id, None, crons.decide(None, command, self.clock.now()))
        return cron_id, made + Changes(expects=(Expect(thread_id, 1),))

    def is_deleted(self, cron_id: UUID) -> bool:
        events = self.log.stream(cron_id)
        return bool(events) and isinstance(events[-1].body, CronDeleted)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    no_bus: Any = None
    made = Gateway(tmp_path, no_bus)
    await made.open()
    agent = assistants.decide(None, RegisterGraph(graph_id="agent", name="agent"))
    await made.append(*assistants.appends(default_assistant_id("agent"), None, agent))
    yield made
    await made.close()


async def test_more_than_may_wait_are_refused_and_nothing_is_stored(gateway: Gateway) -> None:
    thread_id = await gateway.thread()
    for _ in range(MOST + 1):  # one at the head, the others wait
        await gateway.request(thread_id)
    head = gateway.log.head()
    with pytest.raises(LaneFull, match=f"{MOST} runs wait"):
        await gateway.request(thread_id)
    assert gateway.log.head() == head
    assert STATUSES[LaneFull] == 429
    await gateway.request(thread_id, "interrupt")  # it takes their places
    assert len(gateway.lane(thread_id).in_flight) == 1


async def test_a_request_reads_no_more_when_many_wait(gateway: Gateway) -> None:
    thread_id = await gateway.thread()
    read, streams = gateway.log.stream, 0

    def counted(stream_id: UUID, after_version: int = 0) -> Any:
        nonlocal streams
        streams += 1
        return read(stream_id, after_version)

    gateway.log.stream = counted  # type: ignore[method-assign]
    costs = []
    for _ in range(MOST):
        streams = 0
        await gateway.request(thread_id)
        costs.append(streams)
    assert len(set(costs)) == 1, costs


async def test_a_run_that_takes_turns_leaves_both_lanes(gateway: Gateway) -> None:
    """Another run takes its place on its thread, or the thread is deleted: its cron's next run goes on."""
    cron_id = uuid7()
    first, second, third, fourth = [await gateway.ask_in_turn(cron_id, is_kept=True) for _ in range(4)]
    threads_of = {run_id: gateway.run(run_id).request.thread_id for run_id in (first, second, third)}

    def line() -> dict[UUID, str]:
        [lane] = Aggregates(gateway.log).lanes([Lane(cron_id=cron_id)])
        return {entry.run_id: entry.stopping for entry in lane.in_flight}

    job = await gateway.claim(first)
    other = await gateway.request(threads_of[second], "interrupt")
    assert line() == {first: "", third: "", fourth: ""}
    assert gateway.lane(threads_of[second]).head == other
    await delete_thread(gateway.parts(), CALLER, threads_of[third])
    assert line() == {first: "", fourth: ""}
    await delete_thread(gateway.parts(), CALLER, threads_of[first])
    assert line() == {first: "interrupt", fourth: ""}
    assert isinstance((await gateway.claim(fourth)).verdict, Later)
    assert await gateway.settle(job)
    assert (await gateway.claim(fourth)).verdict is None


async def test_a_cron_that_the_read_models_do_not_show_yet_goes_with_its_thread(gateway: Gateway) -> None:
    """A20: it was created a moment ago, and the lock is free before it is projected."""
    thread_id = await gateway.thread()
    await gateway.projector.stop()
    cron_id, created = gateway.cron(thread_id)
    await gateway.log.append(created.by(CALLER.meta(gateway.parts())))
    deleting = asyncio.create_task(delete_thread(gateway.parts(), CALLER, thread_id))
    await asyncio.sleep(0.2)
    await gateway.projector.start()
    await deleting
    assert gateway.is_deleted(cron_id)


async def test_a_cron_that_is_created_while_its_thread_is_deleted_goes_with_it(gateway: Gateway) -> None:
    """By another gateway, between the look and the deletion."""
    thread_id = await gateway.thread()
    cron_id, created = gateway.cron(thread_id)
    append = gateway.log.append

    async def late(tx: Transaction) -> int:
        gateway.log.append = append  # type: ignore[method-assign]
        await append(created.by(CALLER.meta(gateway.parts())))
        return await append(tx)

    gateway.log.append = late  # type: ignore[method-assign]
    await delete_thread(gateway.parts(), CALLER, thread_id)
    assert gateway.is_deleted(cron_id)
