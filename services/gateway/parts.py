"""What the gateway is built of; whoever wires the process makes it."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from contracts.subjects import DEFAULT_POOL
from contracts.webhooks import WebhookSettings
from services.gateway.streams.channel import Channels
from services.gateway.streams.ends import Ends
from services.kit.bus.nats import NatsBus
from services.kit.clock import Clock
from services.kit.commands import KeyedLocks
from services.kit.eventlog import EventLog
from services.kit.http import HttpSettings
from services.kit.lifecycle import Background, Part
from services.kit.reads import read
from services.kit.settings import Settings
from services.kit.views import Views
from services.repository import Repository

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class GatewayParts:
    """The edges of the gateway, and what it shares between requests: a part with a life.

    `reached(position, timeout_s)` waits until the read models have passed a position; `changed(timeout_s)`
    waits until they move at all; `health()` gives the name of each part with '' or why it is not well,
    `notices()` what else an operator should know of one. `beside()` is the OpenAPI document of the project's own
    application, if it has one. `graphs` are those that can be asked for, `pool_of`
    says whose workers have one.
    """

    log: EventLog
    views: Views
    reached: Callable[[int, float], Awaitable[bool]]
    changed: Callable[[float], Awaitable[None]]
    clock: Clock
    settings: Settings
    bus: NatsBus | None
    health: Callable[[], dict[str, str]]
    notices: Callable[[], dict[str, str]] = dict
    version: str
    graphs: Collection[str]
    pool_of: Callable[[str], str] = lambda graph_id: DEFAULT_POOL
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    beside: Callable[[], dict[str, Any] | None] = lambda: None
    locks: KeyedLocks = field(default_factory=KeyedLocks)
    background: Background = field(default_factory=lambda: Background("gateway.background"))
    repository: Repository = field(init=False)
    live: Channels = field(init=False)
    ends: Ends = field(init=False)

    async def read(self, function: Callable[[], T]) -> T:
        """What the function comes to, which may read the log and the read models."""
        return await read((self.log, self.views), function)

    def __post_init__(self) -> None:
        # Frozen, and still made of its other fields.
        object.__setattr__(self, "repository", Repository(self.log, self.views))
        object.__setattr__(self, "ends", Ends(self.views, self.changed))
        live = Channels(self.bus, self.log, self.views, self.ends, self.clock, self.reached)
        object.__setattr__(self, "live", live)

    @property
    def name(self) -> str:
        """As a part it is what requests share."""
        return "gateway.shared"

    @property
    def parts(self) -> Sequence[Part]:
        """In the order of their start."""
        return (self.ends, self.background, self.live)

    @property
    def started(self) -> bool:
        """True while everything is there."""
        return all(part.started for part in self.parts)

    @property
    def failing(self) -> str:
        """'' : its parts say so themselves."""
        return ""

    async def start(self) -> None:
        """Begin to watch what is waited for."""
        for part in self.parts:
            await part.start()

    async def stop(self) -> None:
        """Close every stream; the clients come back to whoever serves then."""
        for part in reversed(self.parts):
            await part.stop()
