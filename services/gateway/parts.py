"""What the gateway is built of; whoever wires the process makes it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from services.kit.bus import Bus
from services.kit.clock import Clock
from services.kit.commands import KeyedLocks
from services.kit.eventlog import EventLog
from services.kit.settings import Settings
from services.kit.views import Views


@dataclass(frozen=True, kw_only=True)
class GatewayParts:
    """The edges of the gateway.

    `reached(position, timeout_s)` waits until the read models have passed a position; `changed(timeout_s)`
    waits until they move at all; `health()` gives the name of each part with '' or why it is not well.
    """

    log: EventLog
    views: Views
    reached: Callable[[int, float], Awaitable[bool]]
    changed: Callable[[float], Awaitable[None]]
    clock: Clock
    settings: Settings
    bus: Bus | None
    health: Callable[[], dict[str, str]]
    version: str
    graphs: tuple[str, ...]
    locks: KeyedLocks = field(default_factory=KeyedLocks)
