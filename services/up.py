"""The embedded shape: every service as a part of one process, beside a nats-server and the graph children."""

from functools import partial
from pathlib import Path

from contracts.codec import EventCodec
from contracts.subjects import RUNS, STREAMS
from services.ground import Ground
from services.kit.bus.external import server_of
from services.kit.bus.nats import NatsBus
from services.kit.bus.streams import Streams
from services.kit.bus.work import void_deliveries
from services.kit.clock import SystemClock
from services.kit.eventlog.owner import LogNews, LogOwner
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.folder import DataFolder
from services.kit.lifecycle import Part, Step, Whole
from services.kit.logs import Log
from services.kit.project import Project
from services.kit.reads import read
from services.kit.settings import Settings
from services.kit.views.sqlite import SqliteViews
from services.projector.door import Door
from services.projector.projector import Projector
from services.roles import relaying, scheduling, sending, working
from services.scheduler.scheduler import LEASE as SCHEDULER_LEASE
from services.serving import Serving
from services.webhooks.sender import LEASE as WEBHOOK_LEASE
from services.worker.lease import PREFIX as WORKER_PREFIX
from services.worker.lease import void_claims, void_leases

LEASES = (WORKER_PREFIX, WEBHOOK_LEASE, SCHEDULER_LEASE)
log_ = Log("up")


class Embedded(Whole):
    """A whole server in one data folder: its parts, each after those that it needs."""

    def __init__(self, settings: Settings, project: Project) -> None:
        super().__init__("cronledger")
        self._project, self._folder = project, DataFolder(Path(settings.data))
        path = self._folder.path
        self._nats = server_of(settings, path / "nats")
        bus = NatsBus(lambda: self._nats.endpoint, "cronledger")
        self._ledger, self._views = (
            SqliteLog(path / "ledger.db", EventCodec()),
            SqliteViews(path / "views.db"),
        )
        self._projector = Projector(self._ledger, path / "views.db")
        ground = Ground(
            settings=settings,
            folder=path,
            clock=SystemClock(),
            log=self._ledger,
            views=self._views,
            bus=bus,
            reached=self._projector.reached,
            changed=self._projector.changed,
            parts=tuple(self._storing(bus)),
        )
        self._ground = ground
        self.serving = Serving(ground, project, [self])
        self.parts += [
            self._folder,
            self.serving.bound,
            *ground.parts,
            *relaying(ground),
            # Says which graphs there are, and which are gone, before anything fires.
            *working(ground, project, lambda: self.serving.url),
            *scheduling(ground),
            *sending(ground, project),
            Step("gateway.views", self._caught_up),  # what the worker has made known is shown, too
            *self.serving.parts,
        ]

    def _storing(self, bus: NatsBus) -> list[Part]:
        """What keeps: files, log, read models, NATS."""
        return [
            self._nats,
            bus,
            Streams(bus, STREAMS, self._nats.replicas),
            self._ledger,
            # The folder is ours alone, so whoever held a lease here is dead.
            *(Step(f"log.leases.{name}", partial(void_leases, self._ledger, name)) for name in LEASES),
            Step("checkpoints.claims", self._claims_voided),
            Step("bus.deliveries", partial(void_deliveries, bus, RUNS.name)),
            LogOwner(self._ledger, bus),
            LogNews(self._ledger, bus),
            self._projector,
            Door(self._projector, bus),
            Step("views", self._caught_up, self._views.close),
        ]

    async def _claims_voided(self) -> None:
        head = await read(self._ledger, self._ledger.head)
        if count := void_claims(self._folder.path / "checkpoints.db", head):
            log_.warning("up.restored", claims=count, why="the ledger is older than the checkpoints")

    async def _caught_up(self) -> None:
        """Wait until the read models show all of the log; when they fail, health tells of it all the same."""
        head = await read(self._ledger, self._ledger.head)
        while not await self._projector.reached(head, 1.0):
            if self._projector.failing:
                log_.error("up.behind", error=self._projector.failing)
                return
            log_.info("up.catching_up", position=self._projector.signal.current, head=head)
