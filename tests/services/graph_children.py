"""A project in a folder, and real graph children that run it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec

from contracts.frames import Emitted, RunEnded, StartRun
from contracts.queries import Query
from services.kit.project import GraphSpec, Project, StoreConfig
from services.kit.settings import Settings
from services.worker.children import ChildPool


class Bench:
    """A project of the graphs in a source text, and the pools of children that a test made."""

    def __init__(self, folder: Path, source: str, graphs: list[str], settings: Settings) -> None:
        self.folder, self.graphs = folder, graphs
        self.settings = settings
        self.trail, self.go = folder / "trail", folder / "go"
        self.pools: list[ChildPool] = []
        self.events: list[Emitted] = []
        self.heard = asyncio.Event()
        self.takes = True  # events leave as soon as they have come
        (folder / "graphs.py").write_text(dedent(source))

    def project(self, store: dict[str, Any] | None = None, **graphs: str) -> Project:
        chosen = graphs or {name: name for name in self.graphs}
        path = self.folder / "graphs.py"
        return Project(
            file=self.folder / "langgraph.json",
            folder=self.folder,
            graphs={name: GraphSpec(variable=variable, path=path) for name, variable in chosen.items()},
            roots=(self.folder,),
            store=StoreConfig(**(store or {})),
            env={"TRAIL": str(self.trail), "GO": str(self.go)},
        )

    async def pool(self, children: int = 1, store: dict[str, Any] | None = None, **graphs: str) -> ChildPool:
        settings = msgspec.structs.replace(self.settings, children=children)
        pool = ChildPool(settings, self.project(store, **graphs), self.folder)
        self.pools.append(pool)
        await pool.start()
        return pool

    def hear(self, event: Emitted) -> None:
        self.events.append(event)
        self.heard.set()

    async def until(self, fits: Callable[[Emitted], bool]) -> Emitted:
        """The first event that fits, once it has come."""
        async with asyncio.timeout(20):
            while not (found := [event for event in self.events if fits(event)]):
                self.heard.clear()
                await self.heard.wait()
        return found[0]

    async def run(self, pool: ChildPool, graph: str, **fields: Any) -> RunEnded:
        """Run a graph to its end; ids are the graph's name unless given, `input` may be any value."""
        given = {"run_id": graph, "thread_id": graph, "input": {"trail": []}, **fields}
        given["input"] = msgspec.Raw(msgspec.json.encode(given["input"]))

        def hear(event: Emitted) -> None:
            self.hear(event)
            if self.takes:
                pool.taken(event.run_id, len(bytes(event.data)))

        async with asyncio.timeout(30):
            return await pool.run(StartRun(graph_id=graph, **given), hear)

    def shown(self, *names: str) -> list[tuple[str, Any]]:
        """The events so far: name and data; only those of the names, if any are given."""
        told = [(event.event, msgspec.json.decode(event.data)) for event in self.events]
        return [(name, data) for name, data in told if not names or name in names]


async def ask(pool: ChildPool, query: Query) -> Any:
    """The answer to a question, decoded. Raises NoAnswer."""
    async with asyncio.timeout(20):
        return msgspec.json.decode(await pool.ask(query.VERB, msgspec.Raw(msgspec.json.encode(query))))


def values(ended: RunEnded) -> Any:
    """The state that a run left."""
    assert ended.values is not msgspec.UNSET, ended
    return msgspec.json.decode(ended.values)


@asynccontextmanager
async def bench_of(
    folder: Path, source: str, graphs: list[str], settings: Settings | None = None
) -> AsyncIterator[Bench]:
    """A bench whose children are stopped at the end."""
    bench = Bench(folder, source, graphs, settings or Settings())
    try:
        yield bench
    finally:
        for pool in bench.pools:
            await pool.stop()
