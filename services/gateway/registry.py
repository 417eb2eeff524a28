"""The graphs that workers serve, for a gateway that has no project file: as their default assistants say."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from uuid import UUID

from domain.assistant import assistant_of
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Part, Supervised
from services.kit.queries import named
from services.kit.reads import read
from services.kit.views import Views

SQL = named(Path(__file__).parent / "queries" / "queries.sql")
PAGE = 500
DERIVED = 5
"""The version of the ids that are made of the names of graphs."""
POLL_S = 1.0
"""A commit wakes it, but one that nobody has told of."""


class RegisteredGraphs(Collection[str]):
    """Their names, kept up with the log: a part."""

    name = "gateway.graphs"

    def __init__(self, log: EventLog, views: Views) -> None:
        self._log, self._views = log, views
        self._names: dict[UUID, str] = {}
        self._position: int | None = None
        self._news = asyncio.Event()
        self._loop = Supervised("gateway.graphs.follow", self._step)
        self.parts: Sequence[Part] = (self._loop,)
        self._leave: Callable[[], None] = lambda: None

    def __contains__(self, name: object) -> bool:
        return name in self._names.values()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names.values()))

    def __len__(self) -> int:
        return len(self._names)

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
            # What is stored between the two looks is read twice, and means the same.
            position = await read(self._views, lambda: self._views.position("assistants"))
            rows = await read(self._views, lambda: self._views.all(SQL["default_assistants"]))
            await self._take([UUID(bytes=row["assistant_id"]) for row in rows])
            self._position = position
        head = await read(self._log, self._log.head)
        while (after := self._position) < head:
            events = await read(self._log, lambda: self._log.read_topics("assistant.", after, head, PAGE))
            await self._take([event.stream_id for event in events if event.stream_id.version == DERIVED])
            self._position = events[-1].position if len(events) == PAGE else head

    async def _take(self, assistant_ids: Sequence[UUID]) -> None:
        newest = await read(self._log, lambda: self._log.newest(assistant_ids)) if assistant_ids else {}
        for assistant_id, recorded in newest.items():
            found = assistant_of(assistant_id, recorded)
            self._names.pop(assistant_id, None)
            if found is not None and found.system and not found.missing:
                self._names[assistant_id] = found.graph_id
