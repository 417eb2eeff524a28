"""The graph children of a worker: kept warm, replaced when they die, doubled when they do not answer."""

import asyncio
import contextlib
import math
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from contracts.frames import Ready, RunEnded, StartRun, StoreSettings
from contracts.queries import QueryFailed
from services.kit.lifecycle import Part, Supervised
from services.kit.logs import Log
from services.kit.mendable import sentence
from services.kit.project import Project
from services.kit.settings import Settings
from services.worker.graph_child import (
    ChildDied,
    ChildSpec,
    GraphChild,
    GraphLoadFailed,
    Loss,
    NoAnswer,
    OnEvent,
)
from services.worker.graphs_schema import GraphsDatabase
from services.worker.suspicion import Suspicion

PING_S = 1.0
PLACE_S = 60.0
"""How long a run waits for a process that takes it; then it is given back."""
PATIENCE = 1 / 3
"""Part of a question's time for which the process that answers may be silent: the others wait behind it."""
log_ = Log("children")


def child_spec(settings: Settings, project: Project, folder: Path) -> ChildSpec:
    """How the children of that data folder are started."""
    return ChildSpec(
        project=project,
        checkpoints=folder / "checkpoints.db",
        store=StoreSettings(path=str(folder / "store.db"), index=project.store.index, ttl=project.store.ttl),
        python=Path(settings.graph_python or sys.executable),
        threads=max(32, 4 * settings.runs_per_child),
        memory_mb=settings.child_memory_mb,
    )


class NoPlace(Exception):
    """No process takes the run; somebody else's may."""


class News:
    """Tells whoever waits that a process is wanted, there, or answers again; they look for themselves."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Let everybody look."""
        self._event.set()

    async def come(self) -> None:
        """Wait for the next, or for a while: that a process is silent is told by nobody."""
        self._event.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PING_S):
                await self._event.wait()


class Place:
    """Where one child lives while it is wanted: after it another one, at once or with a back-off."""

    def __init__(
        self,
        name: str,
        make: Callable[[], GraphChild],
        news: News,
        wanted: Callable[[], bool],
        patience_s: float = math.inf,
    ) -> None:
        self.name, self.parts = name, list[Part]()
        self._make, self._news, self._wanted, self._patience_s = make, news, wanted, patience_s
        self._loop = Supervised(self.name, self._step)
        self.child: GraphChild | None = None
        self.ready: Ready | None = None

    @property
    def started(self) -> bool:
        return self._loop.started

    @property
    def failing(self) -> str:
        """Why there is no child, or, where none may be silent for long, that it is."""
        return self._loop.failing or ("" if math.isinf(self._patience_s) else self._silence)

    @property
    def notice(self) -> str:
        """That a node blocks the child: legal, and worth knowing."""
        return self._silence

    @property
    def _silence(self) -> str:
        return self.child.notice if self.child is not None else ""

    async def start(self) -> None:
        """Keep a child there; returns before it is loaded."""
        await self._loop.start()

    async def stop(self) -> None:
        """End it and its child; safe twice and unstarted."""
        await self._loop.stop()
        child, self.child = self.child, None
        if child is not None:
            await child.stop()

    async def begin(self) -> None:
        """Put a child there. Raises GraphLoadFailed, ChildDied, OSError."""
        child = self._make()
        try:
            ready = await child.start()
        except BaseException:
            child.kill("it was not ready")
            await child.stop()
            raise
        self.child, self.ready = child, ready
        self._news.tell()

    async def _step(self) -> None:
        child = self.child
        if child is None:
            await (self.begin() if self._wanted() else self._news.come())
        elif not child.alive:
            await child.died.wait()
            await self._bury(child)
        elif not child.in_flight and not self._wanted():
            self.child = None
            await child.stop()
        else:
            await self._watch(child)

    async def _bury(self, child: GraphChild) -> None:
        self.child = None
        log_.warning("child.died", place=self.name, pid=child.pid, why=child.why)
        await child.stop()
        if not child.proven:
            raise ChildDied(Loss(child.why))  # it would only die again: with a back-off

    async def _watch(self, child: GraphChild) -> None:
        await child.look(PING_S)
        if child.silent_s > self._patience_s:
            child.kill("it did not answer any more")
        self._news.tell()


class ChildPool:
    """The children that run graphs, one more that answers questions, and one for a run that must be alone.

    Beside each that does not answer (a node blocks it) a spare one is started when a run waits.
    """

    def __init__(
        self, settings: Settings, project: Project, folder: Path, url: Callable[[], str] | None = None
    ) -> None:
        """`url` tells where the server is, as soon as a child is to be started."""
        self._spec, self._url = child_spec(settings, project, folder), url or str
        self._settings = settings
        self._database = GraphsDatabase.of(settings)
        self._suspicion, self._news = Suspicion(), News()
        self._waiting = 0
        size = range(1, settings.children + 1)
        self._regular = [self._place(f"child{n}", lambda: True) for n in size]
        self._spares = [self._place(f"spare{n}", partial(self._spare_wanted, n)) for n in size]
        self._alone = self._place("quarantine", lambda: bool(self._suspicion))
        self._questions = self._place("questions", lambda: True, settings.question_timeout_s * PATIENCE)
        self._quarantine = asyncio.Lock()
        self.name = "worker.children"
        self.parts: Sequence[Part] = [*self._regular, *self._spares, self._alone, self._questions]
        self.ready: Ready | None = None
        self.started = False

    @property
    def failing(self) -> str:
        """'': the places say it themselves."""
        return ""

    @property
    def pids(self) -> list[int]:
        """The processes that run graphs and are alive."""
        return [child.pid for child in self._running() if child.alive]

    @property
    def slots(self) -> int:
        """Runs at a time in all."""
        return self._settings.children * self._settings.runs_per_child

    async def start(self) -> None:
        """Start the first child and the one that answers, and the others behind them.

        Raises GraphLoadFailed, DatabaseProblem.
        """
        if self.started:
            return
        if self._database is not None:
            index = self._spec.store.index
            address = await asyncio.to_thread(self._database.prepare, index)
            self._spec = msgspec.structs.replace(self._spec, database=address)
        # Each to its end: one that is cancelled while it cleans up would leave a process behind.
        both = (self._regular[0].begin(), self._questions.begin())
        for told in await asyncio.gather(*both, return_exceptions=True):
            if isinstance(told, BaseException):
                await self.stop()
                if isinstance(told, ChildDied | OSError):
                    told = GraphLoadFailed(f"{self._spec.python} can't run the graphs: {sentence(told)}")
                raise told
        self.ready = self._regular[0].ready
        for part in self.parts:
            await part.start()
        self.started = True

    async def stop(self) -> None:
        """Stop every child; safe twice and unstarted."""
        self.started = False
        await asyncio.gather(*(part.stop() for part in self.parts))

    # --- runs -------------------------------------------------------------------------------------

    async def run(
        self, start: StartRun, on_event: OnEvent, begun: Callable[[], None] = lambda: None
    ) -> RunEnded:
        """Run a graph in the least busy child, or alone if it may have crashed one; `begun` when it has one.

        Raises ChildDied, NoPlace.
        """
        async with self._seat(start.run_id) as child:
            begun()
            return await child.run(start, on_event)

    def over(self, run_id: str) -> None:
        """The run does not come again: it is no longer to be remembered whether it crashed a child."""
        self._suspicion.cleared(run_id)

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop."""
        for child in self._running():
            child.cancel(run_id)

    def taken(self, run_id: str, size: int) -> None:
        """Tell a run that so many more bytes of its events have left."""
        for child in self._running():
            child.taken(run_id, size)

    def kill_run(self, run_id: str) -> None:
        """End the child that has the run; it counts against none of the child's runs."""
        for child in self._running():
            if child.holds(run_id):
                child.kill(f"run {run_id} did not stop")

    @contextlib.asynccontextmanager
    async def _seat(self, run_id: str) -> AsyncIterator[GraphChild]:
        if self._suspicion.falls_on(run_id):
            async with self._quarantine:
                if self._suspicion.falls_on(run_id):  # else it has become known meanwhile who it was
                    yield await self._able([self._alone])
                    return
        yield await self._able([*self._regular, *self._spares])

    async def _able(self, places: list[Place]) -> GraphChild:
        """The least busy child of these places that answers. Raises NoPlace."""
        self._waiting += 1
        self._news.tell()  # a place may be empty because nobody waited
        try:
            async with asyncio.timeout(PLACE_S):
                while not (able := [p.child for p in places if p.child is not None and p.child.able]):
                    await self._news.come()
            return min(able, key=lambda child: child.in_flight)
        except TimeoutError:
            reasons = "; ".join(why for place in places if (why := place.failing or place.notice))
            raise NoPlace(f"no graph process took it in {PLACE_S:g} s: {reasons}") from None
        finally:
            self._waiting -= 1

    def _spare_wanted(self, number: int) -> bool:
        """As many as do not answer, begun when a run waits; kept until those answer again."""
        silent = sum(place.child is not None and not place.child.able for place in self._regular)
        return number <= silent and (self._waiting > 0 or self._spares[number - 1].child is not None)

    def _running(self) -> list[GraphChild]:
        places = [*self._regular, *self._spares, self._alone]
        return [place.child for place in places if place.child is not None]

    def _place(self, name: str, wanted: Callable[[], bool], patience_s: float = math.inf) -> Place:
        def make() -> GraphChild:
            spec = msgspec.structs.replace(self._spec, url=self._url())
            return GraphChild(f"worker.{name}", spec, self._suspicion.crashed)

        return Place(f"worker.{name}", make, self._news, wanted, patience_s)

    # --- questions --------------------------------------------------------------------------------

    async def ask(self, verb: str, body: msgspec.Raw) -> msgspec.Raw:
        """The answer to a question of `contracts.queries`. Raises NoAnswer, in bounded time."""
        limit_s = self._settings.question_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._asked(verb, body)
        except TimeoutError:
            why = self._questions.failing or "the graph is busy with it"
            text = f"no answer in {limit_s:g} s: {why}"
        except ChildDied as exc:
            text = str(exc)
        raise NoAnswer(QueryFailed("failed", text))

    async def _asked(self, verb: str, body: msgspec.Raw) -> msgspec.Raw:
        try:
            return await (await self._answering()).ask(verb, body)
        except ChildDied as exc:
            if exc.loss.counts:
                raise
            return await (await self._answering()).ask(verb, body)  # another question's doing, perhaps

    async def _answering(self) -> GraphChild:
        while (child := self._questions.child) is None or not child.alive:
            await self._news.come()
        return child
