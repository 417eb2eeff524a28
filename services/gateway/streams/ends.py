"""Who waits for the end of a run, or for anything on a thread: whenever the read models move, a look at what happened."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from uuid import UUID

from contracts.events import BODIES, RunDeleted, RunRolledBack, Settled, ThreadDeleted
from services.gateway.queries.filters import SQL
from services.kit.lifecycle import Part, Supervised
from services.kit.reads import read
from services.kit.views import Row, Views

LOOK_S = 1.0
MANY, PAUSE_S = 20, 0.01
"""While so many are watched, two looks are so far apart: one then serves several events."""
ENDINGS = frozenset(
    topic for topic, body in BODIES.items() if issubclass(body, Settled | RunRolledBack | RunDeleted)
)
Told = Callable[[], None]


class Ends:
    """Tells of each watched run when it has ended, or is no longer there, and of threads that something happened: a part."""

    name, failing = "gateway.ends", ""

    def __init__(self, views: Views, changed: Callable[[float], Awaitable[None]]) -> None:
        self._views, self._changed = views, changed
        self._watched: dict[UUID, list[Told]] = {}
        self._fresh: set[UUID] = set()  # to be looked at next, whatever happens
        self._threads: dict[bytes, list[Told]] = {}
        # To be told next: something may have happened before we looked.
        self._fresh_threads: set[bytes] = set()
        self._behind: set[UUID] = set()  # over by what happened, and not yet in the read model of runs
        self._seen: int | None = None  # the position up to which what happened was looked at
        self._somebody = asyncio.Event()
        self._loop = Supervised("gateway.ends.loop", self._look)
        self.parts: Sequence[Part] = (self._loop,)

    @property
    def started(self) -> bool:
        """True while it watches."""
        return self._loop.started

    async def start(self) -> None:
        """Begin to watch; twice is harmless."""
        await self._loop.start()

    async def stop(self) -> None:
        """Watch no more; safe unstarted."""
        await self._loop.stop()

    def watch(self, run_id: UUID, told: Told) -> Callable[[], None]:
        """Call `told` once, when the read models show the run's end or no such run; what is returned ends it."""
        self._watched.setdefault(run_id, []).append(told)
        self._fresh.add(run_id)
        self._somebody.set()

        def leave() -> None:
            waiting = self._watched.get(run_id, [])
            if told in waiting:
                waiting.remove(told)
                if not waiting:
                    del self._watched[run_id]

        return leave

    def watch_thread(self, thread_id: UUID, told: Told) -> Callable[[], None]:
        """Call `told` whenever something may have happened on the thread; what is returned ends it."""
        key = thread_id.bytes
        self._threads.setdefault(key, []).append(told)
        self._fresh_threads.add(key)
        self._somebody.set()

        def leave() -> None:
            waiting = self._threads.get(key, [])
            if told in waiting:
                waiting.remove(told)
                if not waiting:
                    del self._threads[key]

        return leave

    async def wait(self, run_id: UUID, timeout_s: float) -> bool:
        """True once the run has ended or is no longer there, False when the time is over."""
        ended = asyncio.Event()
        leave = self.watch(run_id, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            leave()
        return True

    async def _look(self) -> None:
        if not self._watched and not self._threads:
            self._seen = None  # what happens while nobody waits concerns nobody
            await self._somebody.wait()
        self._somebody.clear()
        waits = [asyncio.ensure_future(self._changed(LOOK_S)), asyncio.create_task(self._somebody.wait())]
        try:
            # First wait, then look: what the read models show from now on is told.
            await asyncio.sleep(0)
            for run_id in await self._ended():
                for told in self._watched.pop(run_id, []):
                    told()
            if self._watched or self._threads:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()
        if len(self._watched) + len(self._threads) > MANY:
            await asyncio.sleep(PAUSE_S)

    async def _ended(self) -> list[UUID]:
        """The watched runs that are over or gone, among those of which something has happened since the last look."""
        happened, seen = await read(self._views, self._happened)
        touched = {UUID(bytes=row["run_id"]) for row in happened if row["run_id"]}
        deleted = {row["thread_id"] for row in happened if row["topic"] == ThreadDeleted.TOPIC}
        if deleted:
            touched |= self._watched.keys()  # of a deleted thread, which are not told of one by one
        asked = (self._fresh | self._behind | touched) & self._watched.keys()
        found = await read(self._views, lambda: self._not_ended(asked))
        over = {UUID(bytes=row["run_id"]) for row in happened if row["topic"] in ENDINGS} | self._behind
        active = {run_id: row["thread_id"] for run_id, row in found.items() if row is not None}
        self._behind = {run_id for run_id, thread in active.items() if run_id in over or thread in deleted}
        ended = [run_id for run_id, row in found.items() if row is None]
        # Until they are told; and whoever came to wait while the stores were asked.
        self._fresh = (self._fresh - asked) | set(ended)
        self._seen = seen
        self._tell_threads({row["thread_id"] for row in happened})
        return ended

    def _tell_threads(self, touched: set[bytes]) -> None:
        fresh, self._fresh_threads = self._fresh_threads, set()
        for key in (touched | fresh) & self._threads.keys():
            for told in self._threads[key]:
                told()

    def _not_ended(self, asked: Iterable[UUID]) -> dict[UUID, Row | None]:
        return {run_id: self._views.one(SQL["not_ended"], (run_id.bytes,)) for run_id in asked}

    def _happened(self) -> tuple[list[Row], int]:
        """What happened since the last look, and the position up to which that is all."""
        if self._seen is None:
            row = self._views.one(SQL["happened_until"])
            return [], 0 if row is None else int(row["position"])
        rows = self._views.all(SQL["happened"], (self._seen,))
        return rows, rows[-1]["position"] if rows else self._seen
