"""The embedded shape: every service as a part of one process, beside a nats-server and the graph children."""

from functools import partial
from pathlib import Path

from contracts.codec import EventCodec
from contracts.ledger import Meta
from contracts.subjects import RUNS, STREAMS
from domain import assistant as assistants
from domain.assistant import Assistant, RetireGraph, default_assistant_id
from domain.changes import Changes
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
from services.kit.queries import named
from services.kit.reads import read
from services.kit.settings import Settings
from services.kit.views.sqlite import SqliteViews
from services.projector.door import Door
from services.projector.projector import Projector
from services.repository import Aggregates, Repository
from services.roles import relaying, scheduling, sending, working
from services.scheduler.scheduler import LEASE as SCHEDULER_LEASE
from services.serving import Serving
from services.webhooks.sender import LEASE as WEBHOOK_LEASE
from services.worker.lease import PREFIX as WORKER_PREFIX
from services.worker.lease import void_claims, void_leases

SQL = named(Path(__file__).with_name("queries.sql"))
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
            *working(ground, project, lambda: self.serving.url),
            # The worker has said which graphs there are; nothing fires before it is said which are gone.
            Step("graphs.left", self._graphs_retired),
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

    async def _graphs_retired(self) -> None:
        """Say which graphs left the project: to the log, so that their crons wait, and to whoever starts us."""
        await self._caught_up()
        repository, now = Repository(self._ledger), self._ground.clock.now()
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
