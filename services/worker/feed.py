"""What a run streams, on its way to whoever listens: numbered, several events in one message, kept for a while."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from contracts.frames import Emitted
from contracts.subjects import RUNEV, run_events_subject
from contracts.work import LiveBatch, LiveEvent
from services.kit.bus.large import Joiner, parts_of
from services.kit.bus.nats import NatsBus
from services.kit.bus.replay import replay
from services.kit.lifecycle import Part, ended

MOST_EVENTS = 200
"""In one message; more would only make the first of them wait."""
KEPT_BYTES = 4 << 20
"""Of a run's newest messages, for a bus that comes back without them."""
KEPT_S = 30.0
REPLAY_S = 5.0
_encode = msgspec.json.Encoder().encode
_batch_of = msgspec.json.Decoder(LiveBatch).decode


async def last_values(bus: NatsBus, run_id: UUID) -> bytes | None:
    """The last state that earlier attempts have streamed, None when there was none or the bus has lost it."""
    try:
        messages = await replay(bus, RUNEV.name, run_events_subject(run_id), REPLAY_S)
    except (ConnectionError, TimeoutError):
        return None
    joiner, found = Joiner(), None
    for headers, data in messages:
        if (whole := joiner.feed(headers, data)) is not None:
            for event in _batch_of(whole).events:
                found = bytes(event.data) if event.event == "values" else found
    return found


class Feed:
    """The live events of one attempt of a run. Emitting never waits; what is emitted leaves in order.

    `seen_values` is the last state that a former attempt streamed: an attempt that goes on from it would
    begin with the same once more.
    """

    def __init__(
        self, bus: NatsBus, run_id: UUID, attempt: int, began_ms: int, seen_values: bytes | None = None
    ) -> None:
        self._bus, self._run_id = bus, run_id
        self._subject = run_events_subject(run_id)
        self._attempt, self._began_ms = attempt, began_ms
        self._seen_values = seen_values
        self.last_values = seen_values
        self._seq = 0
        self._pending: list[LiveEvent] = []
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._sending: asyncio.Task[None] | None = None
        self._settled = 0
        self._add("metadata", _encode({"run_id": str(run_id), "attempt": attempt}))

    def emit(self, event: Emitted) -> None:
        """Send an event of the graph."""
        data = bytes(event.data)
        if event.event == "values":
            self.last_values = data
            seen, self._seen_values = self._seen_values, None
            if seen == data:
                return
        self._add(event.event, data)

    async def settled(self, position: int) -> None:
        """Say that the outcome is in the log, behind everything that was emitted; returns when it is sent."""
        self._settled = position
        await self.flushed()

    async def flushed(self) -> None:
        """Wait until what was emitted is on the bus, or is kept for it."""
        self._send_soon()
        if self._sending is not None:
            await self._sending

    async def again(self) -> None:
        """Send once more what is kept: the bus may have lost it. Listeners know doubles by their numbers."""
        await self.flushed()
        for message in tuple(self._kept):
            await self._publish(message)

    def _add(self, event: str, data: bytes) -> None:
        self._seq += 1
        self._pending.append(LiveEvent(self._seq, event, msgspec.Raw(data)))
        self._send_soon()

    def _send_soon(self) -> None:
        # What comes while a message is on its way goes into the next one.
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._pending or self._settled:
            events, self._pending = self._pending[:MOST_EVENTS], self._pending[MOST_EVENTS:]
            settled = 0
            if not self._pending:
                settled, self._settled = self._settled, 0
            batch = LiveBatch(attempt=self._attempt, began_ms=self._began_ms, events=events, settled=settled)
            message = _encode(batch)
            self._keep(message)
            await self._publish(message)

    def _keep(self, message: bytes) -> None:
        self._kept.append(message)
        self._kept_bytes += len(message)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft())

    async def _publish(self, message: bytes) -> None:
        try:
            for headers, part in parts_of(message):
                await self._bus.publish(self._subject, part, headers)
        except ConnectionError:
            pass  # kept, and sent again when the bus is back


class Feeds:
    """The feeds of one worker, those that have just ended too."""

    def __init__(self, bus: NatsBus) -> None:
        self._bus = bus
        self._open: dict[UUID, Feed] = {}
        self._again: asyncio.Task[None] | None = None
        self.name, self.failing, self.started = "worker.feeds", "", False
        self.parts: Sequence[Part] = ()
        self._leave: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Send again after each reconnect; twice is harmless."""
        if not self.started:
            self.started = True
            self._leave = self._bus.on_reconnect(self._reconnected)

    async def stop(self) -> None:
        """Send no more. Safe unstarted."""
        self.started = False
        self._leave()
        if self._again is not None:
            await ended(self._again)

    def open(self, run_id: UUID, attempt: int, began_ms: int, seen_values: bytes | None = None) -> Feed:
        """The feed of a new attempt, in the place of the former one."""
        feed = self._open[run_id] = Feed(self._bus, run_id, attempt, began_ms, seen_values)
        return feed

    def close(self, run_id: UUID, feed: Feed) -> None:
        """The run is over; its feed is kept a little longer."""
        asyncio.get_running_loop().call_later(KEPT_S, self._forget, run_id, feed)

    def _forget(self, run_id: UUID, feed: Feed) -> None:
        if self._open.get(run_id) is feed:
            del self._open[run_id]

    def _reconnected(self) -> None:
        if self._again is None or self._again.done():
            self._again = asyncio.create_task(self._send_again())

    async def _send_again(self) -> None:
        for feed in list(self._open.values()):
            await feed.again()
