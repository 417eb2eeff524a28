"""Live events of runs: one subscription per run that somebody watches, fanned out in memory."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from contracts.subjects import RUNEV, run_events_subject
from contracts.work import LiveBatch
from services.kit.bus import Msg, Subscription
from services.kit.bus.large import Joiner
from services.kit.bus.nats import NatsBus
from services.kit.bus.replay import replay
from services.kit.lifecycle import Part

MOST_BATCHES = 2_000
MOST_BYTES = 16 << 20
"""What may wait for one listener; one that lags further is cut off, so that its client comes back by itself."""
REPLAY_S = 10.0
_batch_of = msgspec.json.Decoder(LiveBatch).decode


class Listener:
    """What comes of one run, for one client, in the order in which it came."""

    def __init__(self, run_id: UUID, leave: Callable[["Listener"], None]) -> None:
        self.run_id = run_id
        self.is_cut_off = False
        self.is_doubtful = False  # the bus was away: something may be missing
        self.has_ended = False  # the read models say so
        self._leave = leave
        self._waiting: deque[tuple[int, LiveBatch]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def put(self, size: int, batch: LiveBatch) -> None:
        """Hand over a batch; a listener that lags too far is cut off instead."""
        if self.is_cut_off:
            return
        if self._waiting and (self._bytes + size > MOST_BYTES or len(self._waiting) >= MOST_BATCHES):
            self.cut_off()
            return
        self._bytes += size
        self._waiting.append((size, batch))
        self._news.set()

    def cut_off(self) -> None:
        """Let the client come back by itself: its stream closes without an end."""
        self.is_cut_off = True
        self._waiting.clear()
        self._news.set()

    def ended(self) -> None:
        """Say that the read models show the run's end, or no run any more."""
        self.has_ended = True
        self._news.set()

    def doubt(self) -> None:
        """Say that something may have been lost on the way."""
        self.is_doubtful = True

    def take(self) -> list[LiveBatch]:
        """Everything that waits, oldest first."""
        batches = [batch for _, batch in self._waiting]
        self._waiting.clear()
        self._bytes = 0
        self._news.clear()
        return batches

    async def news(self, timeout_s: float) -> bool:
        """True once there is something to take, or a sign to look at; False when the time is over."""
        if self._news.is_set():
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Listen no more; twice is harmless."""
        self._leave(self)


class _Channel:
    """The subscription to one run's events, and who listens."""

    def __init__(self, bus: NatsBus, run_id: UUID) -> None:
        self.listeners: set[Listener] = set()
        self.opened = asyncio.create_task(self._open(bus, run_id))
        self._joiner = Joiner()
        self._subscription: Subscription | None = None

    async def close(self) -> None:
        await self.opened
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _open(self, bus: NatsBus, run_id: UUID) -> None:
        try:
            self._subscription = await bus.subscribe(run_events_subject(run_id), self._on_msg)
        except ConnectionError:
            for listener in self.listeners:
                listener.doubt()

    async def _on_msg(self, msg: Msg) -> None:
        data = self._joiner.feed(msg.headers, msg.data)
        if data is None:
            return
        batch = _batch_of(data)
        for listener in tuple(self.listeners):
            listener.put(len(data), batch)


class Live:
    """Whoever wants to know what a run streams asks here: a part. Without a bus nothing ever comes."""

    name, failing = "gateway.live", ""
    parts: Sequence[Part] = ()

    def __init__(self, bus: NatsBus | None) -> None:
        self._bus = bus
        self._channels: dict[UUID, _Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._leave: Callable[[], None] | None = None

    @property
    def started(self) -> bool:
        """True while it takes listeners and knows when the bus was away."""
        return self._leave is not None

    @property
    def watched(self) -> int:
        """How many runs have listeners here."""
        return len(self._channels)

    async def start(self) -> None:
        """Begin to doubt what came before each reconnect; twice is harmless."""
        if self._leave is None:
            self._stopped = False
            self._leave = self._bus.on_reconnect(self._reconnected) if self._bus else lambda: None

    async def stop(self) -> None:
        """Close every stream without an end: the clients come back to whoever serves then."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()
        self._stopped = True
        for listener in self._listeners():
            listener.cut_off()

    async def listen(self, run_id: UUID) -> Listener:
        """Listen to a run from now on; whoever gets a listener must close it."""
        listener = Listener(run_id, self._left)
        if self._stopped:
            listener.cut_off()
        if self._bus is None:
            return listener
        channel = self._channels.get(run_id)
        if channel is None:
            channel = self._channels[run_id] = _Channel(self._bus, run_id)
        channel.listeners.add(listener)
        try:
            await asyncio.shield(channel.opened)
        except BaseException:
            listener.close()
            raise
        return listener

    async def kept(self, run_id: UUID) -> list[LiveBatch]:
        """What the bus still has of the run, oldest first. Raises ConnectionError, TimeoutError."""
        if self._bus is None:
            return []
        messages = await replay(self._bus, RUNEV.name, run_events_subject(run_id), REPLAY_S)
        joiner, batches = Joiner(), []
        for headers, data in messages:
            whole = joiner.feed(headers, data)
            if whole is not None:
                batches.append(_batch_of(whole))
        return batches

    def _left(self, listener: Listener) -> None:
        channel = self._channels.get(listener.run_id)
        if channel is None or listener not in channel.listeners:
            return
        channel.listeners.discard(listener)
        if not channel.listeners:
            del self._channels[listener.run_id]
            task = asyncio.create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _reconnected(self) -> None:
        for listener in self._listeners():
            listener.doubt()

    def _listeners(self) -> list[Listener]:
        return [listener for channel in self._channels.values() for listener in channel.listeners]
