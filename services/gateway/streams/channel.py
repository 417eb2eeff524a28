"""What comes live of a run, for all who watch it here: the newest of it in memory, the rest in the stream."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from contracts.subjects import RUNEV, run_events_subject
from contracts.work import LiveBatch
from services.gateway.streams.ends import Ends
from services.gateway.streams.outcomes import Outcome, outcome_of
from services.kit.bus import Msg, Subscription
from services.kit.bus.large import Joiner
from services.kit.bus.nats import NatsBus
from services.kit.bus.pages import Pages
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Part
from services.kit.logs import Log
from services.kit.reads import read
from services.kit.views import Views

WINDOW_BYTES = 256 << 10
"""Of a run's newest batches; or the newest one. A cursor that is further behind reads the stream."""
ALL_WINDOWS_BYTES = 64 << 20
"""Of all runs that are watched here; beyond that a batch that is large is read from the stream by each cursor."""
GRACE_S = 1.0
"""How long a run's last events may come after the read models have shown its end."""
REACHED_S = 5.0
log_ = Log("gateway")
_batch_of = msgspec.json.Decoder(LiveBatch).decode
Mark = tuple[int, int]
"""The place of an event among a run's: when its attempt began (milliseconds since the epoch), its number."""
BEGINNING: Mark = (-1, 0)


class Batch(msgspec.Struct, frozen=True):
    """A batch in memory, and its forms on the wire, each made once however many watch."""

    batch: LiveBatch
    size: int
    shown: dict[Any, Any] = {}

    @property
    def first(self) -> Mark:
        """The place of its first event."""
        return self.batch.began_ms, self.batch.events[0].seq

    @property
    def last(self) -> Mark:
        """The place of its last event."""
        return self.batch.began_ms, self.batch.events[-1].seq


def batch_of(data: bytes) -> Batch:
    """The batch of a message. Raises msgspec.DecodeError."""
    return Batch(_batch_of(data), len(data), {})


def follows(mark: Mark, batch: Batch) -> bool:
    """Whether nothing is between that place and the batch, which may begin before it."""
    began, seq = batch.first
    return seq <= mark[1] + 1 if began == mark[0] else seq == 1 or began < mark[0]


class Channel:
    """One run as it is watched here: shared by its cursors.

    `window` holds the newest batches as they came, whose numbers begin with `begins`; `outcome` is set when the
    run has ended and all that is to come of it has come, or nobody waits for it any more; `doubts` counts the times
    when something may have been lost on the way.
    """

    def __init__(self, run_id: UUID, channels: "Channels") -> None:
        self.run_id, self._channels = run_id, channels
        self.window: list[Batch] = []
        self.begins, self.doubts = 0, 0
        self.outcome: Outcome | None = None
        self.cursors = 0
        self._bytes = 0
        self._joiner = Joiner()
        self._news = asyncio.Event()
        self._settled: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._opened = asyncio.create_task(self._open())
        self._subscription: Subscription | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def next(self) -> int:
        """The number of the batch that comes next."""
        return self.begins + len(self.window)

    @property
    def is_cut_off(self) -> bool:
        """True when the gateway stops: streams close without an end, and clients come back."""
        return not self._channels.started

    def pages(self) -> Pages | None:
        """A reader of what the stream has of the run; None without a bus."""
        bus = self._channels.bus
        return None if bus is None else Pages(bus, RUNEV.name, run_events_subject(self.run_id))

    async def opened(self) -> None:
        """Return when what is published from then on comes into the window. Raises ConnectionError."""
        await asyncio.shield(self._opened)

    def watch(self) -> None:
        """See to it that the run's end is known, from when the run is; twice is harmless."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())

    async def close(self) -> None:
        """Watch no more."""
        self._channels.resized(-self._bytes)
        if self._ending is not None:
            self._ending.cancel()
        await asyncio.wait({self._opened})
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    def settled(self, position: int) -> None:
        """Note that the outcome is at that position of the log, behind everything that was emitted."""
        if not self._settled.done():
            self._settled.set_result(position)

    def doubt(self) -> None:
        """Let every cursor look into the stream for what did not come."""
        self.doubts += 1
        self.tell()

    def tell(self) -> None:
        """Wake all who wait for news."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self, timeout_s: float) -> bool:
        """True when there is something to look at, False when the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _open(self) -> None:
        bus = self._channels.bus
        if bus is not None:
            self._subscription = await bus.subscribe(run_events_subject(self.run_id), self._on_msg)

    async def _on_msg(self, msg: Msg) -> None:
        data = self._joiner.feed(msg.headers, msg.data)
        if data is None:
            return
        try:
            came = batch_of(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            log_.warning("gateway.live_unreadable", run_id=self.run_id, error=exc)
            return
        if came.batch.events and not self._is_double(came):
            self._append(came)
        if came.batch.settled:
            self.settled(came.batch.settled)

    def _is_double(self, came: Batch) -> bool:
        """Whether it came before: after a lost connection a worker sends once more what it has kept."""
        return bool(self.window) and came.last <= self.window[-1].last

    def _append(self, came: Batch) -> None:
        self.window.append(came)
        size, dropped = came.size, 0
        most = WINDOW_BYTES if self._channels.window_bytes < ALL_WINDOWS_BYTES else 0
        while self._bytes + size > most and dropped < len(self.window) - 1:
            size -= self.window[dropped].size
            dropped += 1
        if most == 0 and came.size > WINDOW_BYTES:  # nothing is left for it: each cursor reads it by itself
            size -= came.size
            dropped += 1
        del self.window[:dropped]
        self.begins += dropped
        self._bytes += size
        self._channels.resized(size)
        self.tell()

    async def _end(self) -> None:
        """Wait for the run's end, by its worker's word or by the read models, whichever comes first."""
        while self.outcome is None:
            try:
                self.outcome = await self._ended()
            except Exception as exc:  # a store that fails: the end is only late
                log_.error("gateway.end_unknown", exc, run_id=self.run_id)
                await asyncio.sleep(GRACE_S)
        self.tell()

    async def _ended(self) -> Outcome | None:
        over = asyncio.Event()
        leave = self._channels.ends.watch(self.run_id, over.set)
        looking = asyncio.create_task(over.wait())
        signs: set[asyncio.Future[Any]] = {looking, self._settled}
        try:
            await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            looking.cancel()
            leave()
        if self._settled.done():
            while not await self._channels.reached(self._settled.result(), REACHED_S):
                pass  # nobody hears of an end that nobody can read
        outcome = await self._channels.outcome_of(self.run_id)
        if outcome is None:
            await asyncio.sleep(0.05)  # the read models lag behind the request
        elif outcome.was_started and not self._settled.done():
            await self._wait_for_the_last(outcome)
        return outcome

    async def _wait_for_the_last(self, outcome: Outcome) -> None:
        """The worker's last events are on their way, if it lives; what did not come may be in the stream."""
        ago_s = self._channels.clock.wall_s() - outcome.ended_s if outcome.ended_s is not None else 0.0
        if ago_s < GRACE_S:
            await asyncio.wait({self._settled}, timeout=GRACE_S - max(0.0, ago_s))
        if not self._settled.done():
            self.doubt()


class Channels:
    """The runs that are watched here, each by one subscription, whoever watches: a part.

    `reached(position, timeout_s)` waits until the read models have passed a position of the log. Without a bus
    nothing ever comes live.
    """

    name, failing = "gateway.live", ""
    parts: Sequence[Part] = ()

    def __init__(
        self,
        bus: NatsBus | None,
        log: EventLog,
        views: Views,
        ends: Ends,
        clock: Clock,
        reached: Callable[[int, float], Awaitable[bool]],
    ) -> None:
        self.bus, self.ends, self.clock, self.reached = bus, ends, clock, reached
        self._log, self._views = log, views
        self.window_bytes = 0
        self._open: dict[UUID, Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._leave: Callable[[], None] | None = None

    @property
    def started(self) -> bool:
        """True while it knows when the bus was away."""
        return self._leave is not None

    @property
    def watched(self) -> int:
        """How many runs are watched here."""
        return len(self._open)

    async def start(self) -> None:
        """Begin to doubt what came before each reconnect; twice is harmless."""
        if self._leave is None:
            self._leave = self.bus.on_reconnect(self._reconnected) if self.bus else lambda: None

    async def stop(self) -> None:
        """Close every stream without an end: the clients come back to whoever serves then."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()
        for channel in self._open.values():
            channel.tell()

    async def join(self, run_id: UUID) -> Channel:
        """The channel of a run, open from now on; whoever gets it must leave it. Raises ConnectionError."""
        channel = self._open.get(run_id)
        if channel is None:
            channel = self._open[run_id] = Channel(run_id, self)
        channel.cursors += 1
        try:
            await channel.opened()
        except BaseException:
            self.leave(channel)
            raise
        return channel

    def leave(self, channel: Channel) -> None:
        """Watch it no more; it closes with the last who watches."""
        channel.cursors -= 1
        if channel.cursors == 0:
            del self._open[channel.run_id]
            task = asyncio.create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def outcome_of(self, run_id: UUID) -> Outcome | None:
        """What a run came to; None while the read models do not show its end."""
        return await read((self._log, self._views), lambda: outcome_of(self._views, self._log, run_id))

    def resized(self, by: int) -> None:
        """Note that the windows hold so many bytes more."""
        self.window_bytes += by

    def _reconnected(self) -> None:
        for channel in self._open.values():
            channel.doubt()
