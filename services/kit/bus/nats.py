"""The bus on NATS, and the few calls of JetStream that we rest on."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nats.errors
from nats.aio.msg import Msg as NatsMsg
from nats.aio.subscription import Subscription as NatsSubscription

from services.kit.bus import Endpoint, Handler, NoResponders, RequestTimeout
from services.kit.bus.client import FIRST_CONNECT_S, BusClient, options_of, probe
from services.kit.lifecycle import Part
from services.kit.logs import Log

log_ = Log("bus")
DRAIN_S = 4.0
REPORT_S = 5.0
"""How often the same is told: the library's default logs a stack at each attempt."""
ELECTED = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.>"
OURS = ("$", "_")
"""Subjects of NATS itself and inboxes begin so: no prefix stands before them."""


class NatsBus:
    """A connection that comes back by itself, for ever: a part.

    `endpoint` is asked again at each attempt, so that it follows a server that comes back on another port. Its
    prefix is nobody else's business: subjects are given and told without it.
    """

    name = "bus"
    parts: Sequence[Part] = ()

    def __init__(self, endpoint: Callable[[], Endpoint], name: str) -> None:
        self._endpoint, self._client_name = endpoint, name
        self.client = BusClient()
        self._before = ""  # the prefix and its dot
        self._callbacks: list[Callable[[], None]] = []
        self._reported: dict[str, float] = {}
        self.started = False

    @classmethod
    async def connect(cls, endpoint: Endpoint, name: str) -> "NatsBus":
        """A connection to a server that stays where it is. Raises ConnectionError."""
        bus = cls(lambda: endpoint, name)
        await bus.start()
        return bus

    @property
    def connected(self) -> bool:
        return self.client.is_connected

    @property
    def failing(self) -> str:
        """That there is no connection, while there is none."""
        return "not connected to NATS" if self.started and not self.connected else ""

    @property
    def info(self) -> Mapping[str, Any]:
        """What the server that we are connected to said of itself; empty before."""
        return self.client._server_info

    async def start(self) -> None:
        """Connect. Raises ConnectionError within some seconds, with the reason of each server."""
        if self.started:
            return
        endpoint = self._endpoint()
        self._before = f"{endpoint.prefix}." if endpoint.prefix else ""
        await probe(endpoint)
        self.client = BusClient()
        try:
            async with asyncio.timeout(FIRST_CONNECT_S):
                await self._connect(endpoint)
        except TimeoutError:
            await self.client.close()
            raise ConnectionError(f"NATS at {', '.join(endpoint.servers)}: was there, and is gone") from None
        self.started = True

    async def _connect(self, endpoint: Endpoint) -> None:
        await self.client.connect(
            list(endpoint.servers),
            name=self._client_name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]  # it only sleeps so long
            connect_timeout=2,
            ping_interval=10,
            max_outstanding_pings=2,
            drain_timeout=3,
            error_cb=self._on_error,
            disconnected_cb=self._follow,
            reconnected_cb=self._on_reconnected,
            **options_of(endpoint),
        )
        if self.info.get("cluster"):
            await self.client.subscribe(ELECTED, cb=self._on_elected)

    async def stop(self) -> None:
        """Send what is buffered, then end, within a few seconds; safe twice and unstarted."""
        if not self.started:
            return
        self.started = False
        try:
            async with asyncio.timeout(DRAIN_S):
                await self.client.drain()
        except (nats.errors.Error, TimeoutError, ConnectionError):
            await self.client.close()

    async def _on_error(self, exc: Exception) -> None:
        now_s, text = time.monotonic(), repr(exc)
        self._reported = {told: at_s for told, at_s in self._reported.items() if now_s - at_s < REPORT_S}
        if text not in self._reported:  # each server has its own reason
            self._reported[text] = now_s
            log_.warning("bus.error", error=text)
        await self._follow()

    async def _follow(self) -> None:
        """The server may be somewhere else by now; a failed attempt, too, comes by here.

        What is raised here would end the client's attempts for ever.
        """
        if self.client.is_closed or self.client.is_connected:
            return
        try:
            servers = self._endpoint().servers
            if set(servers) - {server.uri.geturl() for server in self.client.server_pool}:
                self.client.set_server_pool(list(servers))
        except Exception as exc:
            log_.warning("bus.no_endpoint", error=repr(exc))

    async def _on_elected(self, msg: NatsMsg) -> None:
        """A stream has another leader: what was sent without an answer until then, it may have lost.

        For those who are called back that is as if the connection had been lost, though it never was.
        """
        if msg.subject.rpartition(".")[2].startswith(self.js_stream("")):
            await self._on_reconnected()

    async def _on_reconnected(self) -> None:
        for callback in tuple(self._callbacks):
            callback()

    def subject(self, name: str) -> str:
        """How a subject of ours is called on the servers: with the prefix."""
        return name if name.startswith(OURS) else self._before + name

    def js_stream(self, name: str) -> str:
        """How a stream of ours is called on the servers: a dot may not stand in its name."""
        return self._before.replace(".", "_") + name

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        await self.publish_to(self.subject(subject), data, headers, reply)

    async def publish_to(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """The same to a subject as it is on the servers: where somebody waits for an answer, say."""
        try:
            await self.client.publish(subject, data, reply, dict(headers) if headers else None)
        except nats.errors.Error as exc:
            raise ConnectionError(str(exc)) from exc

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> "_Subscribed":
        async def on_msg(msg: NatsMsg) -> None:
            await handler(_Incoming(self, msg, msg.subject.removeprefix(self._before)))

        try:
            return _Subscribed(await self.client.subscribe(self.subject(subject), queue, cb=on_msg))
        except nats.errors.Error as exc:
            raise ConnectionError(str(exc)) from exc

    def new_inbox(self) -> str:
        return self.client.new_inbox()

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        return (await self.request_msg(subject, data, timeout_s)).data

    async def request_msg(
        self, subject: str, data: bytes, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> NatsMsg:
        """The first answer with its headers. Raises NoResponders, RequestTimeout, ConnectionError."""
        if not self.connected:
            raise ConnectionError("not connected to NATS")  # a request sent now would leak its reply entry
        try:
            return await self.client.request(
                self.subject(subject), data, timeout=timeout_s, headers=dict(headers) if headers else None
            )
        except nats.errors.NoRespondersError as exc:
            raise NoResponders(subject) from exc
        except (nats.errors.TimeoutError, TimeoutError) as exc:
            raise RequestTimeout(f"{subject}: no answer in {timeout_s} s") from exc
        except nats.errors.Error as exc:
            raise ConnectionError(str(exc)) from exc

    async def api(self, call: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the JetStream API, errors included; names as they are on the servers. Raises ConnectionError."""
        data = json.dumps(body).encode() if body is not None else b""
        answer: dict[str, Any] = json.loads(await self.request(f"$JS.API.{call}", data, 5.0))
        return answer

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop


class _Incoming:
    """A message of the client library in our form."""

    def __init__(self, bus: NatsBus, msg: NatsMsg, subject: str) -> None:
        self._bus, self._reply = bus, msg.reply
        self.subject = subject
        self.data: bytes = msg.data
        self.headers: Mapping[str, str] = msg.headers or {}

    async def respond(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        # Not the client's own `respond`: that one sends the request's headers back.
        if self._reply:
            await self._bus.publish_to(self._reply, data, headers)


class _Subscribed:
    """A subscription of the client library in our form."""

    def __init__(self, subscription: NatsSubscription) -> None:
        self._subscription = subscription

    async def unsubscribe(self) -> None:
        try:
            await self._subscription.unsubscribe()
        except nats.errors.Error:
            pass  # it ended with its connection, or before
