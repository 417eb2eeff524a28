"""The bus on NATS, and the few calls of JetStream that we rest on."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg as NatsMsg
from nats.aio.subscription import Subscription as NatsSubscription

from contracts.subjects import StreamSpec
from services.kit.bus import Endpoint, Handler, NoResponders, RequestTimeout
from services.kit.lifecycle import Part, Supervised
from services.kit.logs import Log
from services.kit.mendable import Mendable

log_ = Log("bus")
API_RETRIES = 40
DRAIN_S = 4.0
OLDEST_SERVER = (2, 12)  # atomic batches


class StreamDiffers(Mendable):
    """A stream of that name exists and is of another kind; it must be looked at by a person."""


class NatsBus:
    """A connection that comes back by itself, for ever: a part.

    `endpoint` is asked again at each attempt, so that it follows a server that comes back on another port.
    """

    name = "bus"
    parts: Sequence[Part] = ()

    def __init__(self, endpoint: Callable[[], Endpoint], name: str) -> None:
        self._endpoint, self._client_name = endpoint, name
        self.client = Client()
        self._callbacks: list[Callable[[], None]] = []
        self._reported = 0.0
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

    async def start(self) -> None:
        """Connect. Raises ConnectionError when nobody answers there, or the token is wrong."""
        if self.started:
            return
        endpoint = self._endpoint()
        await _probe(endpoint)
        self.client = Client()
        await self.client.connect(
            endpoint.url,
            token=endpoint.token or None,
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
        )
        version = tuple(int(part) for part in self.client._server_info["version"].split(".")[:2])
        if version < OLDEST_SERVER:
            await self.client.close()
            raise ConnectionError(
                f"nats-server {self.client._server_info['version']} is too old; 2.12 is needed"
            )
        self.started = True

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
        if time.monotonic() - self._reported > 5:  # the default logs a stack at each attempt
            self._reported = time.monotonic()
            log_.warning("bus.error", error=repr(exc))
        await self._follow()

    async def _follow(self) -> None:
        """The server may be somewhere else by now; a failed attempt, too, comes by here.

        What is raised here would end the client's attempts for ever.
        """
        if self.client.is_closed or self.client.is_connected:
            return
        try:
            url = self._endpoint().url
            if url not in [server.uri.geturl() for server in self.client.server_pool]:
                self.client.set_server_pool([url])
        except Exception as exc:
            log_.warning("bus.no_endpoint", error=repr(exc))

    async def _on_reconnected(self) -> None:
        for callback in tuple(self._callbacks):
            callback()

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        try:
            await self.client.publish(subject, data, reply, dict(headers) if headers else None)
        except nats.errors.Error as exc:
            raise ConnectionError(str(exc)) from exc

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> "_Subscribed":
        async def on_msg(msg: NatsMsg) -> None:
            await handler(_Incoming(self, msg))

        try:
            return _Subscribed(await self.client.subscribe(subject, queue, cb=on_msg))
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
                subject, data, timeout=timeout_s, headers=dict(headers) if headers else None
            )
        except nats.errors.NoRespondersError as exc:
            raise NoResponders(subject) from exc
        except (nats.errors.TimeoutError, TimeoutError) as exc:
            raise RequestTimeout(f"{subject}: no answer in {timeout_s} s") from exc
        except nats.errors.Error as exc:
            raise ConnectionError(str(exc)) from exc

    async def api(self, call: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the JetStream API, errors included. Raises ConnectionError."""
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

    def __init__(self, bus: NatsBus, msg: NatsMsg) -> None:
        self._bus, self._reply = bus, msg.reply
        self.subject: str = msg.subject
        self.data: bytes = msg.data
        self.headers: Mapping[str, str] = msg.headers or {}

    async def respond(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        # Not the client's own `respond`: that one sends the request's headers back.
        if self._reply:
            await self._bus.publish(self._reply, data, headers)


class _Subscribed:
    """A subscription of the client library in our form."""

    def __init__(self, subscription: NatsSubscription) -> None:
        self._subscription = subscription

    async def unsubscribe(self) -> None:
        try:
            await self._subscription.unsubscribe()
        except nats.errors.Error:
            pass  # it ended with its connection, or before


async def _probe(endpoint: Endpoint) -> None:
    """The endless connect neither returns nor raises on a dead port or a wrong token; a short one does."""
    client = Client()
    try:
        async with asyncio.timeout(5):
            await client.connect(
                endpoint.url,
                token=endpoint.token or None,
                allow_reconnect=False,
                max_reconnect_attempts=2,
                reconnect_time_wait=1,
                connect_timeout=2,
                error_cb=_quiet,
            )
    except (nats.errors.Error, OSError, TimeoutError) as exc:
        raise ConnectionError(f"NATS at {endpoint.url}: {exc}") from exc
    finally:
        transport = client._transport  # a refused connection is left open by the client
        await client.close()
        if transport is not None:
            transport.close()  # type: ignore[no-untyped-call]


async def _quiet(_: Exception) -> None:
    return


class Streams:
    """The streams as they must be: made at the start, and again for a server that came back without them."""

    name, failing = "bus.streams", ""

    def __init__(self, bus: NatsBus, specs: Sequence[StreamSpec]) -> None:
        self._bus, self._specs = bus, specs
        self._again = asyncio.Event()
        self._loop = Supervised("bus.streams.loop", self._ensure)
        self.parts: Sequence[Part] = (self._loop,)
        self._leave: Callable[[], None] = lambda: None

    @property
    def started(self) -> bool:
        """True while it looks after them."""
        return self._loop.started

    async def start(self) -> None:
        """Make what is missing. Raises StreamDiffers, ConnectionError."""
        if self.started:
            return
        await ensure_streams(self._bus, self._specs)
        self._leave = self._bus.on_reconnect(self._again.set)
        await self._loop.start()

    async def stop(self) -> None:
        """Look after them no more; safe twice and unstarted."""
        self._leave()
        await self._loop.stop()

    async def _ensure(self) -> None:
        await self._again.wait()
        self._again.clear()  # before the work: what happens meanwhile is looked at once more
        try:
            await ensure_streams(self._bus, self._specs)
        except BaseException:
            self._again.set()
            raise


async def ensure_streams(bus: NatsBus, specs: Sequence[StreamSpec]) -> None:
    """Create what is missing, bring limits in step; never delete. Raises StreamDiffers, ConnectionError."""
    for spec in specs:
        await _ensure_stream(bus, spec)


async def _ensure_stream(bus: NatsBus, spec: StreamSpec) -> None:
    config = _config(spec)
    for attempt in range(API_RETRIES):
        # Asked first: creating what exists counts its reserved bytes a second time, and may be refused for it.
        present = (await _patient(bus, f"STREAM.INFO.{spec.name}", None)).get("config")
        if present is not None:
            await _update_stream(bus, spec, present, config)
            return
        answer = await _patient(bus, f"STREAM.CREATE.{spec.name}", config)
        error = answer.get("error")
        if error is None:
            return
        if error.get("code") != 503 and error.get("err_code") != 10058:  # somebody else made it meanwhile
            raise StreamDiffers(f"stream {spec.name}: {error.get('description')}")
        await asyncio.sleep(0.05 * min(attempt + 1, 10))
    raise ConnectionError(f"stream {spec.name}: JetStream is not available")


async def _update_stream(
    bus: NatsBus, spec: StreamSpec, present: dict[str, Any], config: dict[str, Any]
) -> None:
    for name in ("retention", "storage"):
        if present[name] != config[name] and spec.is_passing:
            await _replace_stream(bus, spec, config)
            return
        if present[name] != config[name]:
            raise StreamDiffers(
                f"stream {spec.name} has {name} '{present[name]}' where '{config[name]}' is needed"
            )
    if all(present.get(name) == value for name, value in config.items() if value or name in present):
        return
    answer = await _patient(bus, f"STREAM.UPDATE.{spec.name}", {**present, **config})
    if "error" in answer:
        raise StreamDiffers(f"stream {spec.name}: {answer['error'].get('description')}")


async def _replace_stream(bus: NatsBus, spec: StreamSpec, config: dict[str, Any]) -> None:
    await _patient(bus, f"STREAM.DELETE.{spec.name}", None)
    await asyncio.sleep(0.05)  # made anew at once, a stream of that name can have old messages again
    answer = await _patient(bus, f"STREAM.CREATE.{spec.name}", config)
    if "error" in answer:
        raise StreamDiffers(f"stream {spec.name}: {answer['error'].get('description')}")


async def _patient(bus: NatsBus, call: str, body: dict[str, Any] | None) -> dict[str, Any]:
    for attempt in range(API_RETRIES):
        try:
            return await bus.api(call, body)
        except (ConnectionError, TimeoutError):
            await asyncio.sleep(0.05 * min(attempt + 1, 10))
    raise ConnectionError(f"JetStream does not answer {call}")


def _config(spec: StreamSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "subjects": list(spec.subjects),
        "retention": spec.retention,
        "storage": spec.storage,
        "discard": spec.discard,
        "max_age": int(spec.max_age_s * 1e9),
        "max_bytes": spec.max_bytes,
        "max_msgs": spec.max_msgs,
        "max_msgs_per_subject": spec.max_msgs_per_subject,
        "discard_new_per_subject": spec.discard_new_per_subject,
        "allow_direct": spec.allow_direct,
        "allow_atomic": spec.allow_atomic,
        "deny_delete": spec.deny_delete,
        "deny_purge": spec.deny_purge,
        "no_ack": spec.no_ack,
        "duplicate_window": int(min(120, spec.max_age_s or 120) * 1e9),
        "num_replicas": 1,
        **({"persist_mode": "async"} if spec.persist_async else {}),
    }
