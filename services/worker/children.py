"""The graph children of a worker: kept warm, replaced when they die."""

import asyncio
import logging
from pathlib import Path

import msgspec

from contracts.frames import Ready, RunEnded, StartRun, StoreSettings
from services.kit.project import Project
from services.worker.graph_child import ChildDied, GraphChild, GraphLoadFailed, OnEvent

BACK_OFF_S = (0.0, 0.2, 1.0, 5.0)
log_ = logging.getLogger("cronledger.children")


def store_settings(path: Path, project: Project) -> StoreSettings:
    """The store in that file, as the project wants it."""
    return StoreSettings(path=str(path), index=project.store.index, ttl=project.store.ttl)


class ChildPool:
    """As many children as asked for, each with so many runs at a time.

    Before the first `lease` they write no checkpoint, and a run gets ChildDied.
    """

    def __init__(
        self,
        project: Project,
        checkpoints: Path,
        store: StoreSettings,
        children: int,
        runs_per_child: int,
        python: Path,
    ) -> None:
        self._project, self._checkpoints, self._python = project, checkpoints, python
        self._store, self._until_s = store, 0.0
        self._size, self._runs_per_child = children, runs_per_child
        self._children: list[GraphChild] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self.ready: Ready | None = None
        self.failing = ""

    @property
    def pids(self) -> list[int]:
        """The processes that are alive."""
        return [child.pid for child in self._alive()]

    @property
    def slots(self) -> int:
        """Runs at a time in all."""
        return self._size * self._runs_per_child

    async def start(self) -> None:
        """Start the children and load the graphs. Raises GraphLoadFailed, ChildDied."""
        if self._keepers:
            return
        first = self._new()
        self.ready = await self._started(first)
        first.lease(self._until_s)  # it may have been renewed while the child was loading
        self._children = [first]
        self._keepers = [asyncio.create_task(self._keep(first))]
        self._keepers += [asyncio.create_task(self._keep(None)) for _ in range(self._size - 1)]

    async def stop(self) -> None:
        """Stop every child; safe twice and unstarted."""
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        children, self._children = self._children, []
        await asyncio.gather(*(child.stop() for child in children))

    async def run(self, start: StartRun, on_event: OnEvent) -> RunEnded:
        """Run a graph in the least busy child, once there is one. Raises ChildDied."""
        child = await self._least_busy()
        return await child.run(start, on_event)

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop."""
        for child in self._children:
            child.cancel(run_id)

    def kill_run(self, run_id: str) -> None:
        """End the child that has the run; its other runs get a ChildDied that excuses them."""
        for child in self._children:
            if child.holds(run_id):
                child.kill(run_id)

    def lease(self, until_s: float) -> None:
        """Until when the worker's claims hold, on the host's monotonic clock; for children to come too."""
        self._until_s = until_s
        for child in self._children:
            child.lease(until_s)

    async def ask(self, verb: str, body: msgspec.Raw) -> msgspec.Raw:
        """The answer to a question of `contracts.queries`, by the least busy child. Raises NoAnswer, ChildDied."""
        return await (await self._least_busy()).ask(verb, body)

    async def _least_busy(self) -> GraphChild:
        async with self._changed:
            await self._changed.wait_for(self._alive)
            return min(self._alive(), key=lambda child: child.load)

    def _alive(self) -> list[GraphChild]:
        return [child for child in self._children if child.alive]

    def _new(self) -> GraphChild:
        threads = max(32, 4 * self._runs_per_child)
        return GraphChild(self._project, self._checkpoints, self._store, self._python, threads, self._until_s)

    async def _started(self, child: GraphChild) -> Ready:
        try:
            return await child.start()
        except BaseException:
            await child.stop()
            raise

    async def _keep(self, child: GraphChild | None) -> None:
        """One place in the pool: a child, and after it another one."""
        failures = 0
        while True:
            if child is None:
                await asyncio.sleep(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])
                child = await self._replaced()
                failures = failures + 1 if child is None else 0
                continue
            await child.died.wait()
            log_.warning("child.died pid=%s", child.pid)
            self._children.remove(child)
            await child.stop()
            child = None

    async def _replaced(self) -> GraphChild | None:
        child = self._new()
        try:
            await self._started(child)
        except (GraphLoadFailed, ChildDied, OSError) as exc:
            self.failing = str(exc)
            log_.error("child.not_started error=%s", exc)
            return None
        self.failing = ""
        child.lease(self._until_s)  # it may have been renewed while the child was loading
        async with self._changed:
            self._children.append(child)
            self._changed.notify_all()
        return child
