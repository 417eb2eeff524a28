"""The graphs that can be asked for: those of the gateway's own project, and those that workers have registered."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence

from services.kit.eventlog import EventLog
from services.kit.lifecycle import Part, Supervised
from services.kit.reads import read
from services.kit.views import Views
from services.registered import Graphs

PAGE = 500
POLL_S = 1.0
"""A commit wakes it, but one that nobody has told of."""


class RegisteredGraphs(Collection[str]):
    """Their names, kept up with the log: a part. Those of `own` are there whether or not a worker is."""

    name = "gateway.graphs"

    def __init__(self, log: EventLog, views: Views, own: Collection[str]) -> None:
        self._log, self._views, self._own = log, views, own
        self._graphs = Graphs(log, views)
        self._position: int | None = None
        self._news = asyncio.Event()
        self._loop = Supervised("gateway.graphs.follow", self._step)
        self.parts: Sequence[Part] = (self._loop,)
        self._leave: Callable[[], None] = lambda: None

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._graphs.names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._own, *self._graphs.names}))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def pool_of(self, graph_id: str) -> str:
        """Whose workers have the graph."""
        return self._graphs.pool_of(graph_id)

    @property
    def started(self) -> bool:
        """True while it follows."""
        return self._loop.started

    @property
    def failing(self) -> str:
        """'' : its loop says so itself."""
        return ""

    async def start(self) -> None:
        """Read them; raises what reading raises. Twice is harmless."""
        if not self.started:
            await self._follow()
            self._leave = self._log.on_commit(lambda _: self._news.set())
            await self._loop.start()

    async def stop(self) -> None:
        """Follow no more; safe twice and unstarted."""
        self._leave()
        await self._loop.stop()

    async def _step(self) -> None:
        self._news.clear()
        await self._follow()
        try:
            async with asyncio.timeout(POLL_S):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _follow(self) -> None:
        if self._position is None:
            self._position = await read((self._log, self._views), self._graphs.load)
        head = await read(self._log, self._log.head)
        while (after := self._position) < head:
            events = await read(self._log, lambda: self._log.read_topics("assistant.", after, head, PAGE))
            self._graphs.take(events)
            self._position = events[-1].position if len(events) == PAGE else head
