"""Who waits for the end of a run: one look at the read models for all of them, whenever these move."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from services.kit.lifecycle import Part, Supervised
from services.kit.views import Views

LOOK_S = 1.0
MANY, PAUSE_S = 20, 0.01
"""While so many are watched, two looks are so far apart: one then serves several events."""
MOST_IDS = 500
Told = Callable[[], None]


class Ends:
    """Tells of each watched run when it has ended, or is no longer there: a part."""

    name, failing = "gateway.ends", ""

    def __init__(self, views: Views, changed: Callable[[float], Awaitable[None]]) -> None:
        self._views, self._changed = views, changed
        self._watched: dict[UUID, list[Told]] = {}
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
        self._somebody.set()

        def leave() -> None:
            waiting = self._watched.get(run_id, [])
            if told in waiting:
                waiting.remove(told)
                if not waiting:
                    del self._watched[run_id]

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
        if not self._watched:
            await self._somebody.wait()
        self._somebody.clear()
        waits = [asyncio.ensure_future(self._changed(LOOK_S)), asyncio.create_task(self._somebody.wait())]
        try:
            # First wait, then look: what the read models show from now on is told.
            await asyncio.sleep(0)
            for run_id in self._ended():
                for told in self._watched.pop(run_id, []):
                    told()
            if self._watched:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()
        if len(self._watched) > MANY:
            await asyncio.sleep(PAUSE_S)

    def _ended(self) -> list[UUID]:
        watched = list(self._watched)
        active: set[bytes] = set()
        for start in range(0, len(watched), MOST_IDS):
            ids = [run_id.bytes for run_id in watched[start : start + MOST_IDS]]
            marks = ",".join("?" * len(ids))
            query = f"SELECT run_id FROM runs WHERE run_id IN ({marks}) AND phase != 'ended'"
            active.update(row["run_id"] for row in self._views.all(query, ids))
        return [run_id for run_id in watched if run_id.bytes not in active]
