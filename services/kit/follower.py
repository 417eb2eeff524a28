"""Whoever follows the log: woken by each commit, with a cursor that the log keeps or from a read model on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from contracts.ledger import Recorded
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.lifecycle import FAULTS, NotYet, Supervised
from services.kit.logs import Log
from services.kit.reads import read
from services.kit.views import Views

POLL_S = 1.0
"""Each commit wakes it, but one whose outcome was not known: that is told by nobody."""
KEEP_S = 1.0
"""The cursor is written no more often: it is so much behind what was done, after a crash."""
PAGE = 500
S = TypeVar("S")
T = TypeVar("T")
log_ = Log("follower")


class Follower(Supervised):
    """A loop over the log. `work` does what there is to do and, when there is nothing, rests."""

    def __init__(
        self,
        name: str,
        log: EventLog,
        clock: Clock,
        work: Callable[[], Awaitable[None]],
        listen: Callable[[], Callable[[], None]] | None = None,
        most_s: float = 5.0,
    ) -> None:
        """`listen` begins to listen for whatever else wakes it; what it gives ends that."""
        super().__init__(name, self._awake, most_s)
        self._ledger, self._clock, self._work, self._listen = log, clock, work, listen
        self._news = asyncio.Event()
        self._kept, self._kept_at_s = 0, float("-inf")
        self._ends: list[Callable[[], None]] = []

    async def cursor(self) -> int:
        """How far the follower of this name has come at least, in this process or in one before."""
        return await read(self._ledger, lambda: self._ledger.cursor(self.name))

    async def start(self) -> None:
        """Begin to follow; twice is harmless."""
        if not self._ends:
            self._ends = [self._ledger.on_commit(lambda _: self.wake())]
            self._ends += [self._listen()] if self._listen is not None else []
            await super().start()

    async def stop(self) -> None:
        """End; safe twice and unstarted."""
        while self._ends:
            self._ends.pop()()
        await super().stop()

    def wake(self) -> None:
        """There is something to do."""
        self._news.set()

    async def rest(self, most_s: float = POLL_S) -> None:
        """Wait for a commit, or until the time is over."""
        await self._clock.wait(self._news, min(POLL_S, most_s))

    async def keep(self, position: int) -> None:
        """Let the log keep how far we are, once a second at most. Raises LogUnavailable."""
        now_s = self._clock.monotonic_s()
        if position > self._kept and now_s - self._kept_at_s >= KEEP_S:
            await self._ledger.move_cursor(self.name, position)
            self._kept, self._kept_at_s = position, now_s

    async def _awake(self) -> None:
        self._news.clear()
        await self._work()


class Tail:
    """What the log says of some topics behind the place where something was taken over from a read model."""

    def __init__(self, log: EventLog, topics: str) -> None:
        """`topics` is what those begin with."""
        self._log, self._topics = log, topics
        self.position: int | None = None
        """That place, then how far it has come; before there is one, nothing is followed."""

    async def reached(self, views: Views, model: str) -> None:
        """Return when the read model has come to where the log was at the first call. Raises NotYet before."""
        if self.position is None:
            self.position = await read(self._log, self._log.head)
        if await read(views, lambda: views.position(model)) < self.position:
            raise NotYet(f"{model}: waiting for position {self.position}")

    async def follow(self, take: Callable[[list[Recorded]], Awaitable[None]]) -> None:
        """Let it take what has come since, by pages. Those of which it raises, and all behind, come again."""
        head = await read(self._log, self._log.head)
        while (after := self.position) is not None and after < head:
            events = await read(self._log, lambda: self._log.read_topics(self._topics, after, head, PAGE))
            if events:
                await take(events)
            self.position = events[-1].position if len(events) == PAGE else head


def each(items: Iterable[S], of: Callable[[S], T]) -> Iterator[T]:
    """What is made of each. One of which nothing can be made is told, and keeps those behind it from nothing."""
    for item in items:
        try:
            found = of(item)
        except FAULTS as exc:
            log_.error("follower.passed_over", exc, item=f"{item!r:.300}")
        else:
            yield found
