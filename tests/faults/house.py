"""The whole of a server but its gateway, in this process, on a folder, with edges that fail by a plan.

The one place that knows how the services are put together.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import dedent

import msgspec

from contracts.subjects import RUNS, STREAMS
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.streams import Streams
from services.kit.bus.work import void_deliveries
from services.kit.clock import Clock
from services.kit.lifecycle import Part, Step, Whole, health
from services.kit.project import GraphSpec, Project
from services.kit.settings import Settings
from services.projector.catalog import ALL
from services.projector.projector import Projector
from services.projector.replay import verify
from services.relay.relay import Relay
from services.scheduler.scheduler import Scheduler
from services.worker.children import ChildPool
from services.worker.lease import PREFIX, void_leases
from services.worker.registration import Registration
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
STARTS = 100
log_ = logging.getLogger("cronledger.house")


class House:
    """A server whose edges fail. What can't be started is made anew and started again, as a service manager would."""

    def __init__(self, folder: Path, points: Failpoints, clock: Clock) -> None:
        self.folder, self._points, self._clock = folder, points, clock
        self._project = _project(folder / "project")
        self._parts: list[Part] = []

    async def start(self) -> None:
        """Return when everything is up."""
        await self._again(self._whole)
        await self.resume_scheduler()

    async def stop(self) -> None:
        """Stop everything, newest first."""
        while self._parts:
            await self._parts.pop().stop()

    async def halt_scheduler(self) -> None:
        """Stop the scheduler alone; `resume_scheduler` starts another one."""
        await self._parts.pop().stop()

    async def resume_scheduler(self) -> None:
        """Start a scheduler, as often as it takes."""
        await self._again(lambda: Scheduler(self.log, self._views, self._clock, SETTINGS))

    def health(self) -> dict[str, str]:
        """Why each part is not well, '' for those that are; what is not started yet is not."""
        return health(self._parts)

    async def differences(self) -> list[str]:
        """Where the read models are not what the ledger says."""
        with self._points.spared():
            assert await self._projector.reached(self.log.head(), 20.0)
            return [
                str(found) for found in await asyncio.to_thread(verify, self.log, self.folder / "views.db")
            ]

    async def _again(self, make: Callable[[], Part]) -> None:
        for attempt in range(STARTS):
            part = make()
            self._parts.append(part)
            try:
                await part.start()
                return
            except Exception as exc:
                log_.warning("house.not_started part=%s attempt=%d error=%r", part.name, attempt, exc)
                await self._parts.pop().stop()
                await asyncio.sleep(0.05)
        raise AssertionError("it can't be started")

    def _whole(self) -> Whole:
        nats = EmbeddedNats(self.folder / "nats")
        bus = FailingBus(lambda: nats.endpoint, self._points)
        self.log = log = FailingLog(self.folder / "ledger.db", self._points, self._clock)
        projections = [FailingProjection(real, self._points) for real in ALL]
        self._projector = Projector(log, self.folder / "views.db", projections)
        self._views = FailingViews(self.folder / "views.db", self._points)
        settings = msgspec.structs.replace(SETTINGS, graph_python=str(self._points.python()))
        children = ChildPool(settings, self._project, self.folder)
        shared = (children, self._project, self._clock, SETTINGS)
        parts: list[Part] = [
            nats,
            bus,
            Streams(bus, STREAMS),
            log,
            Step("log.leases", partial(void_leases, log, PREFIX)),
            Step("bus.deliveries", partial(void_deliveries, bus, RUNS.name)),
            self._projector,
            Step("views", self._shown, self._views.close),
            children,
            Relay(log, self._views, bus, self._clock),
            Registration(log, self._views, *shared, worker_id="w-day"),
            Worker(log, bus, *shared, worker_id="w-day"),
        ]
        return Whole("house", parts)

    async def _shown(self) -> None:
        await self._projector.reached(self.log.head(), 20.0)


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
