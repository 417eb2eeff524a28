"""What a process of any service stands on: log, read models and bus, beside others that stand on the same."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.kit.bus.nats import NatsBus
from services.kit.clock import Clock, SystemClock
from services.kit.eventlog import EventLog
from services.kit.eventlog.beside import Beside
from services.kit.lifecycle import Part, Step
from services.kit.reach import Reach
from services.kit.settings import Settings
from services.kit.views import Views
from services.kit.views.sqlite import SqliteViews
from services.projector.catalog import ALL


class LogPart(EventLog, Part, Protocol):
    """A log with a life."""


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


def beside(settings: Settings, service: str) -> Ground:
    """That of a data folder that `cronledger up` owns."""
    folder = Path(settings.data)
    owner, views = Beside(folder, f"cronledger-{service}"), SqliteViews(folder / "views.db")
    reach = Reach(owner.bus, views, lambda: slowest(views))
    return Ground(
        settings=settings,
        folder=folder,
        clock=SystemClock(),
        log=owner.log,
        views=views,
        bus=owner.bus,
        reached=reach.reached,
        changed=reach.changed,
        parts=(owner, Step("views", _nothing, views.close), reach),
    )


def slowest(views: Views) -> int:
    """The position that all read models have passed."""
    return min(views.position(projection.NAME) for projection in ALL)


async def _nothing() -> None:
    pass
