"""The embedded shape: every service as a part of one process, beside a nats-server and the graph children."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from contracts.codec import EventCodec
from contracts.ledger import Meta
from contracts.subjects import RUNS, STREAMS
from domain import assistant as assistants
from domain.assistant import Assistant, RetireGraph, default_assistant_id
from domain.changes import Changes
from services.custom.process import CustomApp
from services.custom.proxy import Proxy
from services.gateway.app import GatewayParts, build_app, paths_of
from services.gateway.mount import Mounted
from services.gateway.server import GatewayServer
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.nats import NatsBus, Streams
from services.kit.bus.work import void_deliveries
from services.kit.clock import SystemClock
from services.kit.eventlog.owner import LogOwner
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.folder import DataFolder
from services.kit.lifecycle import Part, Step, Whole, health, notices
from services.kit.logs import Log
from services.kit.process import run
from services.kit.project import Project, load_project
from services.kit.queries import named
from services.kit.reads import read
from services.kit.settings import Settings
from services.kit.views import Views
from services.projector.door import Door
from services.projector.projector import Projector
from services.relay.relay import Relay
from services.repository import Aggregates, Repository
from services.scheduler.scheduler import Scheduler
from services.webhooks.sender import LEASE as WEBHOOK_LEASE
from services.webhooks.sender import Sender
from services.worker.children import ChildPool
from services.worker.lease import PREFIX as WORKER_PREFIX
from services.worker.lease import void_claims, void_leases
from services.worker.worker import Worker

SQL = named(Path(__file__).with_name("queries.sql"))
log_ = Log("up")
Runner = Callable[[Coroutine[Any, Any, None]], None]


class Embedded(Whole):
    """A whole server in one data folder: its parts, each after those that it needs."""

    def __init__(self, settings: Settings, project: Project) -> None:
        self._settings, self._project = settings, project
        self._clock = SystemClock()
        self._folder = DataFolder(Path(settings.data))
        path = self._folder.path
        self._nats = EmbeddedNats(path / "nats")
        self._bus = NatsBus(lambda: self._nats.endpoint, "cronledger")
        self._ledger = SqliteLog(path / "ledger.db", EventCodec())
        self._projector = Projector(self._ledger, path / "views.db")
        self._views = Views(path / "views.db")
        self._custom = self._customized()
        self._beside = list[Part]()
        self.gateway, shared = self._serving()
        super().__init__(
            "cronledger",
            [
                *self._storing(),
                *self._working(),
                # The worker has said which graphs there are; nothing fires before it is said which are gone.
                Step("graphs.left", self._graphs_retired),
                Scheduler(self._ledger, self._views, self._clock, settings),
                *self._telling(),
                Step("gateway.views", self._caught_up),  # what the worker has made known is shown, too
                *self._beside,
                self.gateway,
                shared,  # stopped first: streams end before the server waits for them
            ],
        )

    def _storing(self) -> list[Part]:
        """What keeps: files, log, read models, NATS."""
        return [
            self._folder,
            # Before anything takes long: a port that is taken is said at once.
            Step("gateway.address", self.gateway.bind, self.gateway.release),
            self._nats,
            self._bus,
            Streams(self._bus, STREAMS),
            self._ledger,
            # The folder is ours alone, so whoever held a worker's lease here is dead.
            Step("log.leases", partial(void_leases, self._ledger, WORKER_PREFIX)),
            Step("checkpoints.claims", self._claims_voided),
            Step("bus.deliveries", partial(void_deliveries, self._bus, RUNS.name)),
            LogOwner(self._ledger, self._bus),
            self._projector,
            Door(self._projector, self._bus),
            Step("views", self._caught_up, self._views.close),
        ]

    def _working(self) -> list[Part]:
        """What runs graphs, and what brings it the work."""
        children = ChildPool(self._settings, self._project, self._folder.path, lambda: self.url)
        worker = Worker(
            self._ledger,
            self._bus,
            children,
            self._project,
            self._clock,
            self._settings,
            worker_id=f"w-{uuid4().hex[:12]}",
        )
        return [children, Relay(self._ledger, self._views, self._bus, self._clock), worker]

    def _telling(self) -> list[Part]:
        """What tells others of the ends of runs."""
        webhooks = self._project.webhooks
        if not webhooks.enabled:
            return []
        shared = (self._ledger, self._views, self._clock, self._settings)
        return [
            Step("webhooks.leases", partial(void_leases, self._ledger, WEBHOOK_LEASE)),
            Sender(*shared, webhooks, version("cronledger")),
        ]

    def _serving(self) -> tuple[GatewayServer, GatewayParts]:
        shared = GatewayParts(
            log=self._ledger,
            views=self._views,
            reached=self._projector.reached,
            changed=self._projector.changed,
            clock=self._clock,
            settings=self._settings,
            bus=self._bus,
            health=lambda: health([self]),
            notices=lambda: notices([self]),
            version=version("cronledger"),
            graphs=tuple(self._project.graphs),
            webhooks=self._project.webhooks,
            http=self._project.http,
            beside=lambda: None if self._custom is None else self._custom.announced.openapi,
        )
        app: Any = build_app(shared)
        if self._custom is not None:
            app = Proxy(app, self._custom, paths_of(app))
            self._beside += [self._custom, app]
        if self._project.http.mount_prefix:
            app = Mounted(app, self._project.http.mount_prefix)
        return GatewayServer(app, self._settings.host, self._settings.port), shared

    @property
    def address(self) -> str:
        """Where it is, as it is told to whoever started it."""
        host, prefix = self._settings.host, self._project.http.mount_prefix
        return f"http://{host}:{self.gateway.port}{prefix}"

    @property
    def url(self) -> str:
        """Where processes of this machine reach the server."""
        return self.gateway.url + self._project.http.mount_prefix

    def _customized(self) -> CustomApp | None:
        """The project's own application, if it has one."""
        if self._project.http.app is None:
            return None
        python = Path(self._settings.graph_python or sys.executable)
        return CustomApp(self._project, python, lambda: self.url)

    async def _claims_voided(self) -> None:
        head = await read(self._ledger, self._ledger.head)
        if count := void_claims(self._folder.path / "checkpoints.db", head):
            log_.warning("up.restored", claims=count, why="the ledger is older than the checkpoints")

    async def _graphs_retired(self) -> None:
        """Say which graphs left the project: to the log, so that their crons wait, and to whoever starts us."""
        await self._caught_up()
        repository, now = Repository(self._ledger), self._clock.now()
        for row in await read(self._views, lambda: self._views.all(SQL["graphs"])):
            graph_id, crons = row["graph_id"], row["crons"]
            if graph_id in self._project.graphs:
                continue
            assistant_id = default_assistant_id(graph_id)
            meta = Meta(at=now, actor="up", cause="project", corr=str(assistant_id))
            await repository.carry_out(
                partial(Aggregates.assistant_or_none, assistant_id=assistant_id), _retired, meta
            )
            log_.warning("up.graph_left", graph=graph_id, crons=crons, until="it is back")

    async def _caught_up(self) -> None:
        """Wait until the read models show all of the log; when they fail, health tells of it all the same."""
        head = await read(self._ledger, self._ledger.head)
        while not await self._projector.reached(head, 1.0):
            if self._projector.failing:
                log_.error("up.behind", error=self._projector.failing)
                return
            log_.info("up.catching_up", position=self._projector.signal.current, head=head)


def _retired(default: Assistant | None) -> Changes:
    """Nothing, if nobody ever registered the graph."""
    if default is None:
        return Changes()
    events = assistants.decide(default, RetireGraph())
    return Changes(appends=assistants.appends(default.assistant_id, default, events))


def serve(args: argparse.Namespace) -> None:
    """`cronledger up`: run until a signal comes. Raises Mendable, PartEnded, and what edges raise."""
    settings = Settings.read(data=str(args.data), host=args.host, port=args.port)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    for name, nearest in Settings.unknown().items():
        log_.warning("settings.unknown", variable=name, nearest=nearest)
    project = load_project(args.config, Path.cwd())
    for notice in project.notices:
        log_.warning("project.notice", notice=notice)
    try:
        import uvloop

        runner: Runner = uvloop.run
    except ImportError:
        runner = asyncio.run
    # A thread that computes hands over after 1 ms, not 5: firings and requests share one interpreter.
    sys.setswitchinterval(0.001)
    runner(_serve(settings, project))


async def _serve(settings: Settings, project: Project) -> None:
    server = Embedded(settings, project)
    await run(server, lambda: f"cronledger is ready on {server.address}")
