"""The graphs that can be asked for: those of the gateway's own project, and those that workers have registered."""

from collections.abc import Collection, Iterator

from contracts.ledger import Recorded
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.follower import Follower, Tail
from services.kit.lifecycle import Whole
from services.kit.reads import read
from services.kit.views import Views
from services.registered import Graphs


class RegisteredGraphs(Whole, Collection[str]):
    """Their names, kept up with the log: a part. Those of `own` are there whether or not a worker is."""

    def __init__(self, log: EventLog, views: Views, clock: Clock, own: Collection[str]) -> None:
        self._stores, self._own = (log, views), own
        self._graphs, self._tail = Graphs(log, views), Tail(log, "assistant.")
        self._loop = Follower("gateway.graphs.follow", log, clock, self._step)
        super().__init__("gateway.graphs", (self._loop,))

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._graphs.names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._own, *self._graphs.names}))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def pool_of(self, graph_id: str) -> str:
        """Whose workers have the graph."""
        return self._graphs.pool_of(graph_id)

    async def start(self) -> None:
        """Read them; raises what reading raises. Twice is harmless."""
        if not self.started:
            await self._follow()
        await super().start()

    async def _step(self) -> None:
        await self._follow()
        await self._loop.rest()

    async def _follow(self) -> None:
        if self._tail.position is None:
            self._tail.position = await read(self._stores, self._graphs.load)
        await self._tail.follow(self._take)

    async def _take(self, events: list[Recorded]) -> None:
        self._graphs.take(events)
