"""What a run streams, on its way to whoever listens: numbered, several events in one message, kept for a while."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from contracts.frames import Emitted
from contracts.subjects import RUNEV, run_events_subject
from contracts.work import LiveBatch, LiveEvent
from services.kit.bus.large import parts_of
from services.kit.bus.nats import NatsBus
from services.kit.lifecycle import Part
from services.worker.seen import Seen

BATCH_EVENTS, BATCH_BYTES = 200, 256 << 10
"""In one message; more would only make the first of them wait. An event that is larger is alone in its message."""
RUN_BYTES = 16 << 20
"""Of a run, in the stream of all runs' events, or one message: its own oldest go, and never those of other runs."""
KEPT_BYTES = 1 << 20
"""Of a run's newest messages, for a bus that comes back without them; or one message, whatever its size."""
KEPT_S, KEPT_OF_ENDED = 30.0, 32 << 20
"""How long they are kept behind the end of a run, and how many bytes of all runs that have ended."""
TAKEN_BYTES = 64 << 10
"""The graph is told that it may go on whenever so much of it has left."""
_encode = msgspec.json.Encoder().encode


class FeedSource(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt whose events a feed carries, and what was seen of those before it."""

    run_id: UUID
    attempt: int
    began_ms: int
    began_at: int = 0
    seen: Seen = msgspec.field(default_factory=Seen)


class Feed:
    """The live events of one attempt of a run: what is emitted leaves in order.

    Emitting never waits; the graph does, because `on_taken` is called with the bytes of events that have left, or
    are kept for a bus that is away.
    """

    def __init__(self, bus: NatsBus, source: FeedSource) -> None:
        self._bus, self._source = bus, source
        self._subject = run_events_subject(source.run_id)
        self.seen = source.seen
        self._repeated = source.seen.values  # one that goes on from there begins with the same once more
        self.on_taken: Callable[[int], None] = lambda size: None
        self._seq = 0
        self._pending: deque[tuple[LiveEvent, int]] = deque()  # and the bytes of its data
        self._taken = 0
        self._kept: deque[bytes] = deque()
        self.kept_bytes = 0
        self._streamed: deque[tuple[int, int]] = deque()  # bytes and parts, of messages that are to stay
        self._since_trimmed = 0
        self._sending: asyncio.Task[None] | None = None
        self._settled, self._is_again = 0, False
        metadata = _encode({"run_id": str(source.run_id), "attempt": source.attempt})
        self._add(LiveEvent(1, "metadata", msgspec.Raw(metadata)), 0)  # the graph knows nothing of it
        for data, origin in source.seen.corrections():
            self._add(LiveEvent(self._seq + 1, "values", msgspec.Raw(data), origin), 0)

    def emit(self, event: Emitted) -> None:
        """Send an event of the graph."""
        data = bytes(event.data)
        if event.event == "values":
            repeated, self._repeated = self._repeated, None
            if repeated == data:
                self._tell_taken(len(data))
                return
        new = LiveEvent(self._seq + 1, event.event, msgspec.Raw(data), event.origin)
        self.seen.take(new)
        self._add(new, len(data))

    async def settled(self, position: int) -> None:
        """Say that the outcome is in the log, behind everything that was emitted; returns when it is sent."""
        self._settled = position
        await self.flushed()

    async def flushed(self) -> None:
        """Wait until what was emitted is on the bus, or is kept for it."""
        self._send_soon()
        if self._sending is not None:
            await self._sending

    def send_again(self) -> None:
        """Send once more what is kept, before anything new: the bus may have lost it. Listeners know doubles."""
        self._is_again = True
        self._send_soon()

    def _add(self, event: LiveEvent, size: int) -> None:
        self._seq = event.seq
        self._pending.append((event, size))
        self._send_soon()

    def _send_soon(self) -> None:
        # What comes while a message is on its way goes into the next one.
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._is_again or self._pending or self._settled:
            if self._is_again:
                self._is_again = False
                for message in tuple(self._kept):
                    await self._publish(message)
                continue
            events, size = self._next_events()
            settled = 0
            if not self._pending:
                settled, self._settled = self._settled, 0
            source = self._source
            batch = LiveBatch(source.attempt, source.began_ms, source.began_at, events, settled)
            message = _encode(batch)
            self._keep(message)
            await self._publish(message)
            self._tell_taken(size)
            await self._trim()

    def _next_events(self) -> tuple[list[LiveEvent], int]:
        """The events of the next message, and the bytes of their data."""
        events, size = list[LiveEvent](), 0
        while self._pending and len(events) < BATCH_EVENTS:
            event, more = self._pending[0]
            if events and size + more > BATCH_BYTES:
                break
            self._pending.popleft()
            events.append(event)
            size += more
        return events, size

    def _tell_taken(self, size: int) -> None:
        self._taken += size
        if self._taken >= TAKEN_BYTES:
            taken, self._taken = self._taken, 0
            self.on_taken(taken)

    def _keep(self, message: bytes) -> None:
        self._kept.append(message)
        self.kept_bytes += len(message)
        while self.kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self.kept_bytes -= len(self._kept.popleft())

    async def _publish(self, message: bytes) -> None:
        parts = parts_of(message)
        try:
            for headers, part in parts:
                await self._bus.publish(self._subject, part, headers)
        except ConnectionError:
            return  # kept, and sent again when the bus is back
        self._streamed.append((len(message), len(parts)))
        self._since_trimmed += len(message)

    async def _trim(self) -> None:
        """Let go of the run's oldest messages in the stream, which itself bounds only how many they are."""
        if self._since_trimmed < RUN_BYTES // 2:
            return
        size = sum(size for size, _ in self._streamed)
        while size > RUN_BYTES // 2 and len(self._streamed) > 1:
            size -= self._streamed.popleft()[0]
        kept = sum(parts for _, parts in self._streamed)
        try:
            what = {"filter": self._bus.subject(self._subject), "keep": kept}
            await self._bus.api(f"STREAM.PURGE.{self._bus.js_stream(RUNEV.name)}", what)
        except (ConnectionError, TimeoutError):
            return  # with the next message
        self._since_trimmed = 0


class Feeds:
    """The feeds of one worker, those that have just ended too."""

    def __init__(self, bus: NatsBus) -> None:
        self._bus = bus
        self._open: dict[UUID, Feed] = {}
        self._ended: dict[UUID, Feed] = {}  # oldest first
        self._ended_bytes = 0
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

    def open(self, source: FeedSource) -> Feed:
        """The feed of a new attempt, in the place of the former one."""
        self._forget(source.run_id)
        feed = self._open[source.run_id] = Feed(self._bus, source)
        return feed

    def close(self, run_id: UUID, feed: Feed) -> None:
        """The attempt is over; its feed is kept a little longer."""
        if self._open.get(run_id) is not feed:
            return
        del self._open[run_id]
        self._ended[run_id] = feed
        self._ended_bytes += feed.kept_bytes
        while len(self._ended) > 1 and self._ended_bytes > KEPT_OF_ENDED:
            self._forget(next(iter(self._ended)))
        asyncio.get_running_loop().call_later(KEPT_S, self._forget, run_id, feed)

    def _forget(self, run_id: UUID, only: Feed | None = None) -> None:
        feed = self._ended.get(run_id)
        if feed is not None and only in (None, feed):
            del self._ended[run_id]
            self._ended_bytes -= feed.kept_bytes

    def _reconnected(self) -> None:
        for feed in [*self._ended.values(), *self._open.values()]:
            feed.send_again()
