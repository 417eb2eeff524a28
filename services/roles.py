"""The services as lists of parts: what `cronledger up` starts all of, and each command one of."""

from collections.abc import Callable
from importlib.metadata import version

from services.ground import Ground
from services.kit.lifecycle import Part
from services.kit.project import Project
from services.kit.tenure import Membership, Tenure, Tenured
from services.projector.door import Door
from services.projector.projector import Projector
from services.relay.relay import Relay
from services.scheduler.scheduler import LEASE, LEASE_S, Scheduler
from services.webhooks.sender import Sender
from services.worker.children import ChildPool
from services.worker.lease import worker_id_of
from services.worker.registration import Registration
from services.worker.worker import Worker

PROJECTOR_LEASE = "projector"
PROJECTOR_LEASE_S = 2.0
"""Short: while nobody projects, what was written is not seen, and answers wait (`gateway.commands.execution`)."""


def scheduling(ground: Ground) -> list[Part]:
    """What fires: any number of it, which share the crons."""
    members = Membership(ground.log, ground.clock, LEASE, min(LEASE_S, ground.settings.lease_s))
    return [Scheduler(ground.log, ground.views, ground.clock, ground.settings, members)]


def projecting(ground: Ground) -> list[Part]:
    """What makes the read models of a PostgreSQL database: any number of it, of which one does."""
    tenure = Tenure(ground.log, ground.clock, PROJECTOR_LEASE, PROJECTOR_LEASE_S)
    projector = Projector(ground.log, ground.settings.database_url)
    return [Tenured(tenure, [projector, Door(projector, ground.bus)])]


def relaying(ground: Ground) -> list[Part]:
    """What brings events and work to NATS: any number of it, each of which does no harm to the others."""
    return [Relay(ground.log, ground.views, ground.bus, ground.clock)]


def working(ground: Ground, project: Project, url: Callable[[], str] | None = None) -> list[Part]:
    """What runs the graphs of a project: any number of it. `url` is where graphs reach the server."""
    children = ChildPool(ground.settings, project, ground.folder, url)
    worker_id = worker_id_of(ground.settings.pool)
    shared = (children, project, ground.clock, ground.settings)
    registration = Registration(ground.log, ground.views, *shared, worker_id=worker_id)
    return [children, registration, Worker(ground.log, ground.bus, *shared, worker_id=worker_id)]


def sending(ground: Ground, project: Project) -> list[Part]:
    """What tells others of the ends of runs: any number of it, of which one sends."""
    if not project.webhooks.enabled:
        return []
    shared = (ground.log, ground.views, ground.clock, ground.settings)
    return [Sender(*shared, project.webhooks, version("cronledger"))]
