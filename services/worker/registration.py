"""The graphs of a worker's project are known by the log as long as workers have them."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from contracts.ledger import Meta
from domain import assistant as assistants
from domain.assistant import Assistant, AssistantCommand, RegisterGraph, RetireGraph, default_assistant_id
from domain.changes import Changes
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Part, Supervised
from services.kit.logs import Log
from services.kit.mendable import Mendable
from services.kit.project import Project
from services.kit.reads import read
from services.kit.settings import Settings
from services.kit.tenure import living
from services.kit.views import Views
from services.registered import SQL
from services.repository import Aggregates, Repository
from services.worker.children import ChildPool
from services.worker.lease import PREFIX, pool_of

log_ = Log("worker")


class GraphTaken(Mendable):
    """Workers of another pool have a graph of this project."""


class Registration:
    """Registers the graphs of a project for the pool of the worker, and says which have left it.

    In a deployment workers of the former project and of the new one share a pool for a while. So a graph that this
    project lacks is retired once, when nobody lives any more of those that were there before this worker; and one
    that it has is registered again whenever somebody has retired it.
    """

    def __init__(
        self,
        log: EventLog,
        views: Views,
        children: ChildPool,
        project: Project,
        clock: Clock,
        settings: Settings,
        *,
        worker_id: str,
    ) -> None:
        self._log, self._views, self._children = log, views, children
        self._project, self._clock, self._worker, self._pool = project, clock, worker_id, pool_of(worker_id)
        self._look_s = settings.lease_s / 2
        self._elders: frozenset[str] | None = None
        self._loop = Supervised("worker.registration.look", self._look, self._look_s)
        self.name, self.failing = "worker.registration", ""
        self.parts: Sequence[Part] = (self._loop,)

    @property
    def started(self) -> bool:
        """True while it looks after them."""
        return self._loop.started

    async def start(self) -> None:
        """Make the graphs known; twice is harmless. Raises GraphTaken."""
        if not self.started:
            workers = await self._living()
            self._elders = frozenset(worker for worker in workers if pool_of(worker) == self._pool)
            await self._check_pools({pool_of(worker) for worker in workers})
            await self._register()
            await self._retire()
            await self._loop.start()

    async def stop(self) -> None:
        """Look no more. The graphs stay known: a pool without workers is one that comes back. Safe unstarted."""
        await self._loop.stop()

    async def _look(self) -> None:
        await asyncio.sleep(self._look_s)
        await self._register()
        await self._retire()

    @property
    def _commands(self) -> list[RegisterGraph]:
        ready = self._children.ready.graphs if self._children.ready else {}
        return [
            RegisterGraph(
                graph_id=graph_id,
                name=name,
                description=self._project.graphs[graph_id].description,
                pool=self._pool,
            )
            for graph_id, name in ready.items()
        ]

    async def _check_pools(self, at_work: set[str]) -> None:
        for command in self._commands:
            known = await self._default(command.graph_id)
            if known is not None and not known.missing and known.pool in at_work - {self._pool}:
                raise GraphTaken(
                    f"graph '{command.graph_id}': workers of the pool '{known.pool}' have it. "
                    f"Name it otherwise in one of the projects, or stop them before it moves to '{self._pool}'"
                )

    async def _register(self) -> None:
        """Those that another pool has taken over meanwhile, while we were thought dead, stay there."""
        for command in self._commands:
            known = await self._default(command.graph_id)
            if self.started and known is not None and known.pool != self._pool:
                continue
            await self._carry_out(command.graph_id, command)

    async def _retire(self) -> None:
        """Once: say which graphs left the project, so that their crons wait."""
        if self._elders is None or self._elders & await self._living():
            return
        for row in await read(self._views, lambda: self._views.all(SQL["graphs"])):
            graph_id = row["graph_id"]
            known = None if graph_id in self._project.graphs else await self._default(graph_id)
            if known is not None and known.system and known.pool == self._pool and not known.missing:
                await self._carry_out(graph_id, RetireGraph())
                log_.warning("worker.graph_left", graph=graph_id, crons=row["crons"], until="it is back")
        self._elders = None

    async def _living(self) -> set[str]:
        return {row.holder for row in await living(self._log, PREFIX)}

    async def _default(self, graph_id: str) -> Assistant | None:
        return await read(self._log, lambda: _loaded(graph_id)(Aggregates(self._log)))

    async def _carry_out(self, graph_id: str, command: AssistantCommand) -> None:
        assistant_id = default_assistant_id(graph_id)

        def decide(known: Assistant | None) -> Changes:
            return Changes(appends=assistants.appends(assistant_id, known, assistants.decide(known, command)))

        meta = Meta(at=self._clock.now(), actor="worker", cause=self._worker, corr=str(assistant_id))
        await Repository(self._log).carry_out(_loaded(graph_id), decide, meta)


def _loaded(graph_id: str) -> Callable[[Aggregates], Assistant | None]:
    return partial(Aggregates.assistant_or_none, assistant_id=default_assistant_id(graph_id))
