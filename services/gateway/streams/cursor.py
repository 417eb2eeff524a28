"""A place in what a run has emitted that goes on: through the stream as far as it must, in memory as far as it can."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from contracts.work import LiveEvent
from services.gateway.streams.channel import (
    BEGINNING,
    Batch,
    Channel,
    Channels,
    Mark,
    batch_of,
    follows,
)
from services.gateway.streams.outcomes import Outcome
from services.kit.bus.pages import Pages, Value

GAP_S, LOOK_S = 1.0, 0.05
"""How long what is missing may still come (the stream has a message a little after those who listen); between looks."""
AWAY_S, AGAIN_S = 5.0, 0.25
"""How long the end of a run waits for a bus that is away, lest something before it is not told; between attempts."""
PIECE_BYTES = 1 << 20
"""What is taken out of memory at a time, or one batch."""


class Events(msgspec.Struct, frozen=True):
    """Some events of a batch; None: all of them."""

    batch: Batch
    some: Sequence[LiveEvent] | None = None


class Gap(msgspec.Struct, frozen=True):
    """Events that nobody has any more: those behind a place and before another one; None: up to the end."""

    behind: Mark
    before: Mark | None = None
    began_at: int = 0  # the position in the log of the attempt of the latter


class Ended(msgspec.Struct, frozen=True):
    """The run is over, and what there was of it was told."""

    outcome: Outcome


Step = Events | Gap | Ended


class Cursor:
    """Each event of a run once and in order, then its end. Whoever opens it must close it.

    It goes on to what follows its place and to nothing else. When something else comes next, or may have been lost,
    it reads the stream; what is not there either is told as a gap.
    """

    def __init__(self, channels: Channels, channel: Channel, mark: Mark | None, *, is_new: bool) -> None:
        self._channels, self._channel = channels, channel
        self._mark, self._index, self._doubts = mark, channel.next, channel.doubts
        self._pages = channel.pages() if mark is not None and not is_new else None
        self._is_known = mark is None or mark == BEGINNING  # an event of the attempt that it names was there
        self._has_seen = mark is None or is_new  # else it may all be forgotten
        self._hole: Value | None = None  # what came in the stream where something else should follow
        self._jumps = False  # what is missing is given up
        self._missing_s, self._away_s = 0.0, 0.0  # since when, by the monotonic clock; 0: it is not
        self._is_open = True
        self._look_s = 0.0  # when to look again, whatever comes; 0: when something comes

    @classmethod
    async def open(
        cls, channels: Channels, run_id: UUID, mark: Mark | None, *, is_new: bool = False
    ) -> "Cursor":
        """A cursor behind a place, None = at what comes from now on. Raises ConnectionError.

        `is_new`: the run is about to be asked for, so that the stream has nothing of it yet.
        """
        return cls(channels, await channels.join(run_id), mark, is_new=is_new)

    @property
    def run_id(self) -> UUID:
        """The run."""
        return self._channel.run_id

    @property
    def is_cut_off(self) -> bool:
        """True when the server stops: the stream closes without an end, and its client comes back."""
        return self._channel.is_cut_off

    def close(self) -> None:
        """Give back what it holds; twice is harmless."""
        if self._is_open:
            self._is_open = False
            self._channels.leave(self._channel)

    async def next(self, timeout_s: float) -> list[Step]:
        """What comes next; nothing when that took longer, or it is cut off. Behind `Ended` nothing comes."""
        self._channel.watch()
        until_s = self._now() + timeout_s
        while not self.is_cut_off:
            self._look_s = 0.0
            steps = self._in_window() if self._pages is None else await self._in_stream(self._pages)
            if steps:
                return steps
            left_s = until_s - self._now()
            if left_s <= 0:
                break
            if self._look_s:
                left_s = min(left_s, self._look_s)
            elif self._pages is not None:
                continue  # it has only just come to the stream, or there is more of it
            await self._channel.news(left_s)
        return []

    # --- in memory ----------------------------------------------------------------------------------

    def _in_window(self) -> list[Step]:
        channel, steps, size = self._channel, list[Step](), 0
        while size < PIECE_BYTES:
            if self._index < channel.begins or self._doubts != channel.doubts:
                return self._to_stream(steps)
            if self._index == channel.next:
                break
            batch = channel.window[self._index - channel.begins]
            if not self._admits(batch, steps):
                return self._to_stream(steps)
            self._index += 1
            size += self._take(batch, steps)
        if not steps and channel.outcome is not None:
            steps.append(Ended(channel.outcome))
        return steps

    def _to_stream(self, steps: list[Step]) -> list[Step]:
        """Look there for what follows, next time."""
        self._doubts, self._hole = self._channel.doubts, None
        self._pages = self._channel.pages()
        if self._mark is None or self._pages is None:  # it has no place there
            self._index, self._pages = max(self._index, self._channel.begins), None
            self._jumps = True
            return steps or self._in_window()
        return steps

    def _admits(self, batch: Batch, steps: list[Step]) -> bool:
        """Whether the batch may be taken now: it follows, or what is before it is given up."""
        if self._mark is None or follows(self._mark, batch):
            return True
        if self._jumps:
            steps.append(Gap(self._mark, batch.first, batch.batch.began_at))
        return self._jumps

    def _take(self, batch: Batch, steps: list[Step]) -> int:
        """Go behind it; the bytes of what was not told yet."""
        began, seq = BEGINNING if self._mark is None else self._mark
        first, last = batch.first, batch.last
        if last <= (began, seq):
            return 0
        some = None
        if first[0] == began and first[1] <= seq:
            some = [event for event in batch.batch.events if event.seq > seq]
        steps.append(Events(batch, some))
        self._mark, self._jumps, self._has_seen, self._is_known = last, False, True, True
        self._hole, self._missing_s = None, 0.0
        return batch.size

    # --- in the stream ------------------------------------------------------------------------------

    async def _in_stream(self, pages: Pages) -> list[Step]:
        try:
            values = await pages.next()
        except (ConnectionError, TimeoutError):
            return self._while_away()
        self._away_s = 0.0
        if values is None:
            return self._at_its_end(pages)
        steps = list[Step]()
        for value in values:
            self._read(value, steps)
        return steps

    def _read(self, value: Value, steps: list[Step]) -> None:
        try:
            batch = batch_of(value.data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if batch.batch.settled:
            self._channel.settled(batch.batch.settled)
        if not batch.batch.events:
            return
        assert self._mark is not None
        self._has_seen = True
        self._is_known = self._is_known or batch.first[0] == self._mark[0]
        if self._admits(batch, steps):
            self._take(batch, steps)
        elif self._hole is None:
            self._hole = value

    def _at_its_end(self, pages: Pages) -> list[Step]:
        """All of it was read: go on in memory, if what is there follows."""
        assert self._mark is not None
        if self._has_seen and not self._is_known:  # an id of no attempt that there was
            self._mark, self._is_known = BEGINNING, True
            pages.rewind(0)
            return []
        channel = self._channel
        new = [n for n, batch in enumerate(channel.window, channel.begins) if batch.last > self._mark]
        index = new[0] if new else channel.next
        is_missing = bool(new) and not follows(self._mark, channel.window[index - channel.begins])
        if not is_missing and self._hole is None:
            self._pages, self._index = None, index
            if not self._has_seen and channel.outcome is not None and channel.outcome.was_started:
                self._has_seen = True
                return [Gap(self._mark), Ended(channel.outcome)]
            return self._in_window()
        if not self._is_given_up():
            self._look_s = LOOK_S
        elif self._hole is not None:
            pages.rewind(self._hole.begins - 1)
            self._jumps, self._hole = True, None
        else:
            self._pages, self._index, self._jumps = None, index, True
        return []

    def _is_given_up(self) -> bool:
        self._missing_s = self._missing_s or self._now()
        if self._hole is not None:
            taken_s = datetime.fromisoformat(self._hole.at).timestamp()
            if self._channels.clock.wall_s() - taken_s >= GAP_S:
                return True  # it would have come long ago
        return self._now() - self._missing_s >= GAP_S

    def _while_away(self) -> list[Step]:
        """The bus does not answer: wait for it, for a while when all that is to come would be the end."""
        self._away_s, self._look_s = self._away_s or self._now(), AGAIN_S
        outcome = self._channel.outcome
        if outcome is None or self._now() - self._away_s < AWAY_S:
            return []
        assert self._mark is not None
        return [Gap(self._mark), Ended(outcome)]

    def _now(self) -> float:
        return self._channels.clock.monotonic_s()
