"""A log with its read models, a clock that the test moves, edges that fail when the test says so."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, cast
from uuid import UUID

import msgspec

from contracts.codec import EventCodec
from contracts.events import (
    AssistantCreated,
    CronCreated,
    RunRequested,
    ThreadCreated,
)
from contracts.ledger import Append, Body, Meta, Payload, Transaction
from contracts.spec import RunSpec
from domain import cron as crons
from domain.changes import Changes
from domain.cron import CreateCron, CronCommand, cron_of
from services.kit.eventlog import LogUnavailable
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.settings import Settings
from services.kit.tenure import Membership
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from services.scheduler.partitions import PARTITIONS
from services.scheduler.scheduler import LEASE, LEASE_S, Scheduler
from tests.faults.client import Client

START = datetime(2026, 11, 24, 12, 0, 0, 500_000, tzinfo=UTC)
ASSISTANT = UUID(int=7)


def is_shared(schedulers: Sequence[Scheduler]) -> bool:
    """Whether each partition is decided by exactly one of them, and each of them decides some."""
    shares = [scheduler.partitions for scheduler in schedulers]
    return all(shares) and sorted(n for share in shares for n in share) == list(range(PARTITIONS))


async def die(scheduler: Scheduler) -> None:
    """As SIGKILL would: nothing is given back."""
    await scheduler._renewing.stop()
    await scheduler._loop.stop()
    await scheduler._backfills.stop()


class MovedClock:
    """Goes forward only when the test says so; whoever waits is woken then."""

    def __init__(self) -> None:
        self.at = START
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        return self.at

    def wall_s(self) -> float:
        return self.at.timestamp()

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        woken = [asyncio.create_task(event.wait()), asyncio.create_task(self._moved.wait())]
        await asyncio.wait(woken, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
        for task in woken:
            task.cancel()
        self._moved.clear()
        return event.is_set()

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)
        self._moved.set()


class Edge:
    """A log or read models as the scheduler sees them: everything is passed on, but for what shall fail."""

    def __init__(self, real: object) -> None:
        self._real = real
        self._failing: dict[str, list[int]] = {}
        self._shares: dict[str, tuple[float, Random]] = {}
        self._lost: tuple[float, Random] | None = None
        self.meanwhile: Callable[[], Awaitable[None]] | None = None  # between a decision and its append
        self.failed = 0
        self.calls: Counter[str] = Counter()
        self.error: Exception = OSError("disk I/O error")
        self.frozen_head: int | None = None

    def fail(self, name: str, after: int = 0, times: int = 1) -> None:
        """Let the call raise `times` times, when it was made `after` times more."""
        self._failing[name] = [after, times]

    def sometimes(self, name: str, share: float, chance: Random) -> None:
        """Let this share of the calls raise."""
        self._shares[name] = (share, chance)

    def lose_answers(self, share: float, chance: Random) -> None:
        """Let this share of the appends be stored, and raise all the same."""
        self._lost = (share, chance)

    async def append_many(self, txs: Any) -> Any:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        outcomes = await self.__getattr__("append_many")(txs)
        if self._lost is not None and self._lost[1].random() < self._lost[0]:
            raise LogUnavailable("nobody answered")
        return outcomes

    def well(self) -> None:
        """Nothing fails any more."""
        self._failing.clear()
        self._shares.clear()
        self._lost = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            if name in self._shares and self._shares[name][1].random() < self._shares[name][0]:
                self.failed += 1
                raise self.error
            counts = self._failing.get(name)
            if counts is not None:
                if counts[0] > 0:
                    counts[0] -= 1
                elif counts[1] > 0:
                    counts[1] -= 1
                    raise self.error
            if name == "head" and self.frozen_head is not None:
                return self.frozen_head
            return found(*args, **kwargs)

        return call


class Bench:
    """A log with its read models, and schedulers on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = MovedClock()
        self.log = SqliteLog(folder / "ledger.db", EventCodec())
        self.log._recorder.clock = self.clock.now  # type: ignore[method-assign]
        self.projector = Projector(self.log, folder / "views.db")
        self.views = SqliteViews(folder / "views.db")
        self.edge_log, self.edge_views = Edge(self.log), Edge(self.views)
        self.settings = Settings(catch_up_spread_s=0)
        self.schedulers: list[Scheduler] = []

    async def open(self) -> None:
        await self.log.start()
        await self.projector.start()
        created = AssistantCreated(graph_id="agent", name="agent", system=True)
        await self.store(Append(ASSISTANT, 0, (created,)))

    async def close(self) -> None:
        for scheduler in self.schedulers:
            await scheduler.stop()
        self.views.close()
        await self.projector.stop()
        await self.log.stop()

    async def schedule(self, how_many: int = 1) -> None:
        for _ in range(how_many):
            await self.begin(
                Scheduler(cast(Any, self.edge_log), cast(Any, self.edge_views), self.clock, self.settings)
            )

    async def rivals(self, how_many: int) -> list[Scheduler]:
        """Schedulers that share the crons, each of which knows which are its own; the first has edges that fail."""
        begun = [await self.member(edge_log=self.edge_log, edge_views=self.edge_views)]
        begun += [await self.member() for _ in range(1, how_many)]
        await self.until(lambda: is_shared(begun))
        return begun

    async def member(self, edge_log: Any = None, edge_views: Any = None, clock: Any = None) -> Scheduler:
        """One more scheduler, by itself if nothing else is said."""
        members = Membership(self.log, self.clock, LEASE, LEASE_S)
        edges = edge_log or Edge(self.log), edge_views or Edge(self.views)
        scheduler = Scheduler(
            cast(Any, edges[0]), cast(Any, edges[1]), clock or self.clock, self.settings, members
        )
        await self.begin(scheduler)
        return scheduler

    async def begin(self, scheduler: Scheduler) -> None:
        self.schedulers.append(scheduler)
        await scheduler.start()

    async def halt(self) -> None:
        for scheduler in self.schedulers:
            await scheduler.stop()
        self.schedulers.clear()

    async def store(self, *appends: Append) -> None:
        meta = Meta(at=self.clock.now(), actor="test")
        position = await self.log.append(Transaction(meta=meta, appends=appends))
        await self.projector.reached(position)

    async def thread(self) -> UUID:
        thread_id = uuid7()
        await self.store(Append(thread_id, 0, (ThreadCreated(user_id="u"),)))
        return thread_id

    async def cron(self, schedule: str, **fields: Any) -> UUID:
        cron_id = uuid7()
        command = CreateCron(
            cron_id=cron_id,
            assistant_id=fields.pop("assistant_id", ASSISTANT),
            graph_id="agent",
            user_id="u",
            schedule=schedule,
            spec=RunSpec(**fields.pop("spec", {})),
            seconds=True,
            **fields,
        )
        await self.command(cron_id, command)
        return cron_id

    async def former_cron(self, schedule: str, timezone: str, tzdata: str = "2001a", **fields: Any) -> UUID:
        """A cron that was made by former rules of its zone."""
        cron_id = uuid7()
        created = CronCreated(
            assistant_id=ASSISTANT,
            graph_id="agent",
            user_id="u",
            schedule=schedule,
            canonical=schedule,
            timezone=timezone,
            payload=Payload(inline=msgspec.Raw(b"{}")),
            tzdata=tzdata,
            **fields,
        )
        await self.store(Append(cron_id, 0, (created,)))
        return cron_id

    async def command(self, cron_id: UUID, command: CronCommand) -> None:
        def decide() -> Changes:
            cron = cron_of(cron_id, self.log.stream(cron_id))
            return crons.changes(cron_id, cron, crons.decide(cron, command, self.clock.now()))

        # As a gateway does: a scheduler may tell of the cron at the same moment.
        await Client(self.log, self.clock).do(decide)
        await self.projector.reached(self.log.head())

    def events(self, *kinds: type[Body]) -> list[Any]:
        return [e.body for e in self.log.read(0, 100_000) if isinstance(e.body, kinds)]

    def fired(self, cron_id: UUID | None = None) -> list[str]:
        requested = [e for e in self.events(RunRequested) if cron_id in (None, e.cron_id)]
        return [e.scheduled_for.strftime("%H:%M:%S") for e in requested]

    def has_fired(self, how_many: int) -> bool:
        return len(self.fired()) == how_many

    async def until(self, done: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not done():  # noqa: ASYNC110 - the log has no event for what a test looks for
                await asyncio.sleep(0.01)

    async def settled(self, pending: Callable[[], Any]) -> None:
        """Until nothing is pending, or a while has passed: an edge may fail just now."""
        for _ in range(20):
            await asyncio.sleep(0.02)
            if not pending():
                return

    async def quiet(self) -> None:
        """Until every scheduler has looked twice at what there is."""
        await asyncio.sleep(0.3)
