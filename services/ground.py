"""What a process of any service stands on: log, read models and bus, beside others that stand on the same."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from contracts.codec import EventCodec
from contracts.subjects import STREAMS
from services.kit.bus.external import endpoint_of, server_of
from services.kit.bus.nats import NatsBus
from services.kit.bus.streams import Streams
from services.kit.clock import Clock, SystemClock
from services.kit.eventlog import EventLog
from services.kit.eventlog.beside import Beside
from services.kit.eventlog.owner import LogNews
from services.kit.folder import DataFolder
from services.kit.lifecycle import Part, Step
from services.kit.logs import Log
from services.kit.mendable import Mendable
from services.kit.reach import Reach
from services.kit.reads import read
from services.kit.settings import Settings
from services.kit.views import Views
from services.kit.views.sqlite import SqliteViews
from services.projector.catalog import ALL

POSITIONS = "SELECT name, pos FROM tracking"
LOOK_S = 0.5
log_ = Log("ground")


class LogPart(EventLog, Part, Protocol):
    """A log with a life."""


class NoGround(Mendable):
    """What the settings name is not enough for this service."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The edges of every service. `parts` are started before it; `reached` and `changed` are of the read models."""

    settings: Settings
    folder: Path
    clock: Clock
    log: LogPart
    views: Views
    bus: NatsBus
    reached: Callable[[int, float], Awaitable[bool]]
    changed: Callable[[float], Awaitable[None]]
    parts: tuple[Part, ...]

    @property
    def shown(self) -> Part:
        """Done when there are read models: without them a service could only fail."""
        return Step("views.shown", self._wait_shown)

    async def _wait_shown(self) -> None:
        names = {projection.NAME for projection in ALL}
        while missing := names - (await read(self.views, lambda: positions(self.views))).keys():
            log_.info("views.missing", names=",".join(sorted(missing)), until="a projector has made them")
            await asyncio.sleep(LOOK_S)


def ground_of(settings: Settings, service: str) -> Ground:
    """That of the database of the settings, or of the data folder that `cronledger up` owns. Raises Mendable."""
    return shared(settings, service) if settings.database_url else beside(settings, service)


def beside(settings: Settings, service: str) -> Ground:
    """That of a data folder that another process owns. Raises NoGround."""
    if service == "projector":
        raise NoGround(
            "the read models of a data folder are made by `cronledger up`; set CRONLEDGER_DATABASE_URL"
        )
    folder = Path(settings.data)
    owner = Beside(folder, f"cronledger-{service}", endpoint_of(settings, folder / "nats"))
    return _ground(settings, owner.log, SqliteViews(folder / "views.db"), owner.bus, (owner,))


def shared(settings: Settings, service: str) -> Ground:
    """That of a PostgreSQL database, with NATS: that of the settings, or a bundled one for `cronledger up`.

    Raises NoGround, and what is wrong with the settings of NATS.
    """
    # Imported here: whoever has no PostgreSQL does not wait for its driver.
    from services.kit.eventlog.postgres import PostgresLog
    from services.kit.postgres import check
    from services.kit.views.postgres import PostgresViews
    from services.schemas import SCHEMAS

    url, bundled = settings.database_url, tuple[Part, ...]()
    server = server_of(settings, Path(settings.data) / "nats")
    if not settings.nats_url:
        if service != "up":
            raise NoGround(f"`cronledger {service}` needs CRONLEDGER_NATS_URL beside CRONLEDGER_DATABASE_URL")
        bundled = (DataFolder(Path(settings.data)),)
    bus = NatsBus(lambda: server.endpoint, f"cronledger-{service}")
    log = PostgresLog(url, EventCodec())
    schemas = Step("schemas", lambda: asyncio.to_thread(check, url, SCHEMAS))
    threads = Step("threads", partial(_widened, settings.database_threads))
    streams = Streams(bus, STREAMS, server.replicas)
    parts = (threads, schemas, *bundled, server, bus, streams, log, LogNews(log, bus))
    return _ground(settings, log, PostgresViews(url), bus, parts)


def _ground(settings: Settings, log: LogPart, views: Views, bus: NatsBus, parts: tuple[Part, ...]) -> Ground:
    reach = Reach(bus, views, lambda: slowest(views))
    return Ground(
        settings=settings,
        folder=Path(settings.data),
        clock=SystemClock(),
        log=log,
        views=views,
        bus=bus,
        reached=reach.reached,
        changed=reach.changed,
        parts=(*parts, Step("views", _nothing, views.close), reach),
    )


def slowest(views: Views) -> int:
    """The position that all read models have passed."""
    reached = positions(views)
    return min(reached.get(projection.NAME, 0) for projection in ALL)


def positions(views: Views) -> dict[str, int]:
    """Name -> position of the read models that there are, in one read."""
    return {row["name"]: row["pos"] for row in views.all(POSITIONS)}


async def _widened(threads: int) -> None:
    """So many reads of the database at a time: each has a thread, and for each store a connection."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads, "reads"))


async def _nothing() -> None:
    pass
