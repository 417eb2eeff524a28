"""The bus: it carries, it does not remember. The Protocol; implementations sit beside it by technology."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from services.kit.lifecycle import Part


class NoResponders(ConnectionError):
    """Nobody listens on the subject of a request."""


class RequestTimeout(TimeoutError):
    """Nobody answered a request in time."""


class Login(msgspec.Struct, frozen=True):
    """Who we are to a server: a token, a user with a password, or a file of credentials. '' = not given.

    Shown without its secrets, so that it may stand in a log.
    """

    token: str = ""
    user: str = ""
    password: str = ""
    creds: str = ""

    def __repr__(self) -> str:
        ways = [name for name in self.__struct_fields__ if getattr(self, name)]
        return f"Login({', '.join(ways) or 'none'})"


class Certificates(msgspec.Struct, frozen=True):
    """Files for TLS: the authority that servers are trusted by ('' = the system's), and a certificate of our own."""

    ca: str = ""
    cert: str = ""
    key: str = ""


class Endpoint(msgspec.Struct, frozen=True):
    """Where nats-servers listen (`nats://` or `tls://`, host and port), and how they are to be talked to.

    `prefix` stands before every subject and in the name of every stream; '' = none.
    """

    servers: tuple[str, ...]
    login: Login = Login()
    certificates: Certificates = Certificates()
    prefix: str = ""

    @property
    def url(self) -> str:
        """The first of the servers."""
        return self.servers[0]


class NatsServer(Part, Protocol):
    """A part that knows where the bus is: a child of ours, or servers that somebody else runs."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens; after `start`."""
        ...

    @property
    def replicas(self) -> int:
        """How many servers are to have each stream; 0 = as many as there are, at most 3."""
        ...


class Outgoing(msgspec.Struct, frozen=True):
    """A message for an ordered stream, and the position of what it tells."""

    position: int
    subject: str
    data: bytes
    headers: Mapping[str, str] = {}


class Msg(Protocol):
    """A message that came."""

    @property
    def subject(self) -> str: ...

    @property
    def data(self) -> bytes: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def respond(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Answer a request, as often as there are parts to send; harmless when nobody asked."""
        ...


class Subscription(Protocol):
    """Messages that keep coming until it ends."""

    async def unsubscribe(self) -> None:
        """End it; safe twice, and on a connection that is closed."""
        ...


Handler = Callable[[Msg], Awaitable[None]]


class Bus(Protocol):
    """Publish and subscribe, at most once. What must not be lost is in the log."""

    @property
    def connected(self) -> bool: ...

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send; nobody needs to listen. Raises ConnectionError when the outgoing buffer is full."""
        ...

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Call the handler with each message; with a queue name, one of its members gets each.

        Raises ConnectionError when the connection is closed for good.
        """
        ...

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """The first answer. Raises NoResponders, RequestTimeout."""
        ...

    def new_inbox(self) -> str:
        """A subject that nobody else uses, for answers.

        When nobody listens where a message with it as `reply` goes, it gets one with the header `Status: 503`.
        """
        ...

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each reconnect. Returns how to stop it; twice is harmless."""
        ...

    async def stop(self) -> None:
        """Send what is buffered, then end, within a bounded time; safe twice."""
        ...
