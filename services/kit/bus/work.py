"""A work queue on JetStream: put work in, pull no more of it than there are free slots."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import nats.errors
from nats.aio.msg import Msg as NatsMsg

from services.kit.bus.nats import NatsBus
from services.kit.lifecycle import Supervised

HEARTBEAT_S = 2.0
EXPIRES_S = 30.0
LEAST_EXPIRES_S = 5.0
"""A request lives at least two of its heartbeats, or it is refused."""
AGAIN_S = 1.0
MOST_WAITING = 4096
"""Workers that may wait for work of one pool at a time; the next one is refused, and asks again and again."""
EXPIRED = frozenset({"404", "408"})
STORE_FAILED, IS_THERE = 10077, "maximum messages per subject exceeded"


class WorkQueue:
    """Where work is put for whoever pulls it: at most one message on a subject, until it is acknowledged."""

    def __init__(self, bus: NatsBus, stream: str) -> None:
        self._bus = bus
        self._stream = stream

    async def put(self, subject: str, data: bytes) -> bool:
        """Put work on the stream, durable when this returns; False when it is on it already.

        Without a message id: its window would swallow work that was done and is to be done again.
        Raises ConnectionError when the stream does not take it, RequestTimeout.
        """
        headers = {"Nats-Expected-Stream": self._bus.js_stream(self._stream)}
        answer = await self._bus.request_msg(subject, data, 5.0, headers)
        error = json.loads(answer.data).get("error")
        if error is None:
            return True
        # The code is that of every limit of a stream; only the text says which.
        if error.get("err_code") == STORE_FAILED and error.get("description") == IS_THERE:
            return False
        raise ConnectionError(f"{subject}: {error.get('description')}")

    async def items(self, subject: str) -> set[str]:
        """The last tokens of the subjects like this on which there is work, also such as somebody has.

        Raises ConnectionError when the stream does not say, RequestTimeout.
        """
        found: set[str] = set()
        while True:
            asked = {"subjects_filter": self._bus.subject(subject), "offset": len(found)}
            told = await self._bus.api(f"STREAM.INFO.{self._bus.js_stream(self._stream)}", asked)
            if (error := told.get("error")) is not None:
                raise ConnectionError(f"{self._stream}: {error.get('description')}")
            some = told["state"].get("subjects") or {}
            found |= {name.rpartition(".")[2] for name in some}
            if not some or len(found) >= told.get("total", 0):
                return found


async def void_deliveries(bus: NatsBus, stream: str) -> None:
    """Let what was delivered and not acknowledged come again at once. Raises ConnectionError.

    For a process that knows that whoever it was delivered to is dead. Consumers are made anew by those who pull.
    """
    js_stream = bus.js_stream(stream)
    names = (await bus.api(f"CONSUMER.NAMES.{js_stream}")).get("consumers") or ()
    for name in names:
        await bus.api(f"CONSUMER.DELETE.{js_stream}.{name}")


class Delivery:
    """One message that was handed to us. Exactly one of its endings must be called, and it frees the slot."""

    def __init__(self, msg: NatsMsg, loop: "PullLoop") -> None:
        self._msg = msg
        self._loop = loop
        self._open = True
        self.data: bytes = msg.data
        self.headers: Mapping[str, str] = msg.headers or {}
        self.num_delivered: int = msg.metadata.num_delivered

    async def ack(self) -> None:
        """It is done; never again."""
        await self._end(b"+ACK")

    async def ack_sync(self) -> bool:
        """The same, and wait for the server's word; False when it gave none (it may come again)."""
        if not self._open:
            return True
        self._open = False
        self._loop.done()
        try:
            await self._loop.bus.request(self._msg.reply, b"+ACK", 2.0)
        except (ConnectionError, TimeoutError):
            return False
        return True

    async def term(self, reason: str) -> None:
        """Never again, though it is not done."""
        await self._end(b"+TERM " + reason.encode())

    async def nak(self, delay_s: float = 0.0) -> None:
        """Not now: give it to anybody after the delay."""
        delay = json.dumps({"delay": int(delay_s * 1e9)}).encode()
        await self._end(b"-NAK " + delay if delay_s > 0 else b"-NAK")

    async def in_progress(self) -> None:
        """Still at it: start the waiting time anew."""
        await self._loop.bus.publish(self._msg.reply, b"+WPI")

    async def _end(self, word: bytes) -> None:
        if self._open:
            self._open = False
            self._loop.done()
            await self._loop.bus.publish(self._msg.reply, word)


class PullLoop(Supervised):
    """Messages of a durable consumer, as many at a time as there are slots; survives restarts of the server.

    Own, because the client library's fetch stalls after a reconnect and after an empty answer.
    """

    def __init__(
        self, bus: NatsBus, stream: str, durable: str, subject: str, slots: int, ack_wait_s: float = 30.0
    ) -> None:
        super().__init__(f"bus.pull.{durable}", self._pull, AGAIN_S)
        self.bus = bus
        self._stream, self._durable, self._subject = stream, durable, subject
        self._slots = slots
        self._ack_wait_s = ack_wait_s
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self._kick = asyncio.Event()
        self._in_use = self._wanted = self._request = 0
        self._heard = 0.0
        self._inbox = self._refusal = ""
        self._subscription: Any = None
        self._fresh = True
        self._leave: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Make the consumer if it is missing, and begin to pull; twice is harmless. Raises ConnectionError."""
        if not self.started:
            await self._ensure_consumer()
            self._leave = self.bus.on_reconnect(self._reconnected)
            await super().start()

    async def stop(self) -> None:
        """End it; what was delivered and not taken goes back at once."""
        self._leave()
        await super().stop()
        subscription, self._subscription = self._subscription, None
        try:
            if subscription is not None:
                await subscription.unsubscribe()
            while not self._queue.empty():
                await self._queue.get_nowait().nak()
        except (ConnectionError, nats.errors.Error):
            pass  # without a connection they come again by themselves
        self._fresh = True

    async def next(self) -> Delivery:
        """The next message."""
        return await self._queue.get()

    def done(self) -> None:
        """A slot is free again; called by the message's ending."""
        self._in_use -= 1
        self._kick.set()

    def _reconnected(self) -> None:
        self._fresh = True
        self._kick.set()

    async def _ensure_consumer(self) -> None:
        config: dict[str, Any] = {
            "durable_name": self._durable,
            "filter_subject": self.bus.subject(self._subject),
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait_s * 1e9),
            "max_deliver": -1,
            # Whoever pulls asks for no more than its free slots; a bound here would be one for all of them together.
            "max_ack_pending": -1,
            "max_waiting": MOST_WAITING,
        }
        error = await self._make(config)
        if error is not None and (waiting := await self._waiting()) is not None:
            # Of one that an older version made: the only thing in it that a server never changes.
            error = await self._make({**config, "max_waiting": waiting})
        if error is not None:
            raise ConnectionError(f"consumer {self._durable}: {error.get('description')}")

    async def _make(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        js_stream = self.bus.js_stream(self._stream)
        body = {"stream_name": js_stream, "config": config}
        answer = await self.bus.api(f"CONSUMER.DURABLE.CREATE.{js_stream}.{self._durable}", body)
        error: dict[str, Any] | None = answer.get("error")
        return error

    async def _waiting(self) -> int | None:
        """How many may wait at the consumer that is there; None without one, or when it is as many as it should."""
        answer = await self.bus.api(f"CONSUMER.INFO.{self.bus.js_stream(self._stream)}.{self._durable}")
        waiting = int(answer.get("config", {}).get("max_waiting", MOST_WAITING))
        return None if waiting == MOST_WAITING else waiting

    async def _pull(self) -> None:
        refusal, self._refusal = self._refusal, ""
        if refusal:
            raise ConnectionError(f"consumer {self._durable}: {refusal}")  # so that the next try comes later
        try:
            await self._ask()
        except BaseException:
            self._fresh = True  # whether the request was heard is not known
            raise
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self._kick.wait()
        except TimeoutError:
            pass
        self._kick.clear()
        if self._wanted > 0 and time.monotonic() - self._heard > 2 * HEARTBEAT_S + 0.5:
            self._fresh = True  # its heartbeats stopped: the server has forgotten the request

    async def _ask(self) -> None:
        if self._fresh:
            await self._new_inbox()
        if self._wanted > 0 or self._in_use >= self._slots or not self.bus.connected:
            return
        self._request += 1
        self._wanted = self._slots - self._in_use
        self._heard = time.monotonic()
        body = {
            "batch": self._wanted,
            # No longer than a message waits for its end: to one that stands still it is handed once, and not again.
            "expires": int(min(EXPIRES_S, max(LEAST_EXPIRES_S, self._ack_wait_s)) * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        ask = f"$JS.API.CONSUMER.MSG.NEXT.{self.bus.js_stream(self._stream)}.{self._durable}"
        await self.bus.publish(ask, json.dumps(body).encode(), reply=f"{self._inbox}.{self._request}")

    async def _new_inbox(self) -> None:
        # The server drops requests whose inbox nobody listens to, so the old ones end with the old inbox.
        # Let go of first: what fails below is tried again, and to unsubscribe twice is an error for ever.
        former, self._subscription = self._subscription, None
        if former is not None:
            await former.unsubscribe()
        if not self.bus.connected:
            raise ConnectionError("not connected")
        await self._ensure_consumer()
        self._inbox = self.bus.client.new_inbox()
        self._subscription = await self.bus.client.subscribe(self._inbox + ".*", cb=self._on_msg)
        self._wanted = 0
        self._fresh = False

    async def _on_msg(self, msg: NatsMsg) -> None:
        self._heard = time.monotonic()
        status = msg.headers.get("Status") if msg.headers and not msg.data else None
        if status is None:
            delivery = Delivery(msg, self)  # first: what is no message of a stream raises, and takes no slot
            self._in_use += 1
            self._wanted -= 1
            self._queue.put_nowait(delivery)
        elif status != "100" and msg.subject == f"{self._inbox}.{self._request}":
            self._wanted = 0  # this request is over
            self._fresh = self._fresh or status not in EXPIRED  # the consumer went away, or its stream
            told = (msg.headers or {}).get("Description", "")
            self._refusal = told if told.startswith("Exceeded") else ""
        if self._wanted <= 0:
            self._kick.set()
