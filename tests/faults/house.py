"""The whole of a server but its gateway, in this process, on a folder, with edges that fail by a plan.

The one place that knows how the services are put together.
"""

import asyncio
import logging
from pathlib import Path
from textwrap import dedent
from typing import Protocol

from contracts.subjects import STREAMS
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.nats import ensure_streams
from services.kit.clock import Clock
from services.kit.lifecycle import Part, health
from services.kit.project import GraphSpec, Project
from services.kit.settings import Settings
from services.projector.catalog import ALL
from services.projector.projector import Projector
from services.projector.replay import verify
from services.relay.relay import Relay
from services.scheduler.scheduler import Scheduler
from services.worker.children import ChildPool, store_settings
from services.worker.lease import PREFIX, void_leases
from services.worker.worker import Worker
from tests.faults.failpoint import FailingBus, FailingLog, FailingProjection, FailingViews, Failpoints

GRAPHS = """
    import asyncio
    import operator
    import time
    from typing import Annotated, Any, TypedDict

    from langgraph.graph import END, START, StateGraph


    class State(TypedDict, total=False):
        count: Annotated[int, operator.add]
        text: str


    def one(node):
        builder = StateGraph(State)
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        builder.add_edge("node", END)
        return builder.compile()


    async def wait(state):
        await asyncio.sleep(0.3)
        return {"count": 1}


    def block(state):
        time.sleep(0.4)
        return {"count": 1}


    def fail(state):
        raise ValueError("it always does")


    quick = one(lambda state: {"count": 1})
    slow = one(wait)
    blocking = one(block)
    failing = one(fail)
    large = one(lambda state: {"text": "x" * 50_000})
"""
NAMES = ("quick", "slow", "blocking", "failing", "large")
SETTINGS = Settings(catch_up_spread_s=0.2, lease_s=2.0, cancel_grace_s=2.0)
STARTS = 20
log_ = logging.getLogger("cronledger.house")


class Stops(Protocol):
    """What can be stopped."""

    async def stop(self) -> None: ...


class House:
    """A server whose edges fail. What can't be started is started again, as a service manager would."""

    def __init__(self, folder: Path, points: Failpoints, clock: Clock) -> None:
        self.folder, self.points, self.clock = folder, points, clock
        self.parts: list[Part] = []
        self._begun: list[Stops] = []
        self._project = _project(folder / "project")

    async def start(self) -> None:
        """Return when everything is up."""
        for attempt in range(STARTS):
            try:
                await self._start()
                return
            except Exception as exc:
                log_.warning("house.not_started attempt=%d error=%r", attempt, exc)
                await self.stop()
                await asyncio.sleep(0.05)
        raise AssertionError("it can't be started")

    async def stop(self) -> None:
        """Stop everything, newest first."""
        while self._begun:
            await self._begun.pop().stop()

    async def halt_scheduler(self) -> None:
        """Stop the scheduler alone; `resume_scheduler` starts another one."""
        self._begun.remove(self.scheduler)
        await self.scheduler.stop()

    async def resume_scheduler(self) -> None:
        """Start a scheduler, as often as it takes."""
        for _ in range(STARTS):
            self.scheduler = Scheduler(self.log, self._views, self.clock, SETTINGS)
            try:
                await self.scheduler.start()
                self._begun.append(self.scheduler)
                return
            except Exception as exc:
                log_.warning("house.scheduler_not_started error=%r", exc)
                await self.scheduler.stop()
        raise AssertionError("the scheduler can't be started")

    def health(self) -> dict[str, str]:
        """Why each part is not well, '' for those that are."""
        return health(self.parts)

    async def differences(self) -> list[str]:
        """Where the read models are not what the ledger says."""
        with self.points.spared():
            assert await self.projector.reached(self.log.head(), 20.0)
            return [
                str(found) for found in await asyncio.to_thread(verify, self.log, self.folder / "views.db")
            ]

    async def _start(self) -> None:
        nats = EmbeddedNats(self.folder / "nats")
        await self._begin(nats)
        bus = await FailingBus.failing(nats.endpoint, self.points)
        self._begun.append(_Closing(bus.close))
        await ensure_streams(bus, STREAMS)
        self.log = FailingLog(self.folder / "ledger.db", self.points, self.clock)
        self._begun.append(_Closing(self.log.close))
        await self.log.start()
        await void_leases(self.log, PREFIX)
        projections = [FailingProjection(real, self.points) for real in ALL]
        self.projector = Projector(self.log, self.folder / "views.db", projections)
        await self._begin(self.projector)
        self._views = FailingViews(self.folder / "views.db", self.points)
        self._begun.append(_Closing(self._close_views))
        children = ChildPool(
            self._project,
            self.folder / "checkpoints.db",
            store_settings(self.folder / "store.db", self._project),
            1,
            10,
            self.points.python(),
        )
        await self._begin(children)
        await self._begin(Relay(self.log, self._views, bus, self.clock))
        worker = Worker(self.log, bus, children, self._project, self.clock, SETTINGS, worker_id="w-day")
        await self._begin(worker)
        self.scheduler = Scheduler(self.log, self._views, self.clock, SETTINGS)
        await self._begin(self.scheduler)

    async def _begin(self, part: "Starts") -> None:
        self._begun.append(part)
        await part.start()

    async def _close_views(self) -> None:
        self._views.close()


class Starts(Stops, Protocol):
    """What can be started and stopped."""

    async def start(self) -> object: ...


class _Closing:
    """Something that only has to be closed."""

    def __init__(self, close: "Close") -> None:
        self._close = close

    async def stop(self) -> None:
        await self._close()


class Close(Protocol):
    """How it is closed."""

    async def __call__(self) -> None: ...


def _project(folder: Path) -> Project:
    folder.mkdir()
    path = folder / "graphs.py"
    path.write_text(dedent(GRAPHS))
    return Project(
        file=folder / "langgraph.json",
        folder=folder,
        graphs={name: GraphSpec(variable=name, path=path) for name in NAMES},
        roots=(folder,),
        env={},
    )
