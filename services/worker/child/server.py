"""Frames in and out: what the worker asks of the child."""

import asyncio
import contextlib
import gc
import importlib
import json
import resource
import socket
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from . import drawings, loopback, states, store
from .checkpoints import Saver
from .checkpoints.sqlite import SqliteSaver
from .graphs import LOOKS, READS, Access, CannotLoad, Entry, last_lines, load
from .names import ProjectNamesFirst
from .plain import encode
from .refusals import NotFound, failed
from .runs import CountingExecutor, Outlet, Run
from .store.sqlite import SqliteStore

LENGTH = 4


class Child:
    """Everything that the process holds: graphs, checkpoints, the store, runs."""

    saver: Saver
    store: store.Store

    def __init__(self, reader: asyncio.StreamReader, outlet: Outlet) -> None:
        self._reader, self._outlet = reader, outlet
        self._entries: dict[str, Entry] = {}
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._verbs: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "state": lambda ask: self._with_graph(READS, ask, states.state),
            "history": lambda ask: self._with_graph(READS, ask, states.history),
            "checkpoints_exist": lambda ask: self.saver.must_have(ask["thread_id"], ask["points"]),
            "forget": lambda ask: self.saver.forget(
                ask["thread_id"], ask["token"], fence=ask.get("fence", False)
            ),
            "rollback": lambda ask: self.saver.rollback(ask["thread_id"], ask["run_id"], ask.get("token", 0)),
            "copy": lambda ask: self.saver.copy(ask["thread_id"], ask["to_thread_id"]),
            "ping": _pong,
            "drawing": lambda ask: self._with_graph(LOOKS, ask, drawings.drawing),
            "schemas": self._schemas,
            "subgraphs": lambda ask: self._with_graph(LOOKS, ask, drawings.subgraphs),
            "store_put": lambda ask: store.put(self.store, ask),
            "store_get": lambda ask: store.get(self.store, ask),
            "store_delete": lambda ask: store.delete(self.store, ask),
            "store_search": lambda ask: store.search(self.store, ask),
            "store_namespaces": lambda ask: store.namespaces(self.store, ask),
        }

    async def serve(self) -> None:
        """Load what the first frame says, then do what the others say until the worker is gone."""
        hello = await self._receive()
        sys.path[:0] = hello["roots"]
        sys.meta_path.insert(0, ProjectNamesFirst(hello["roots"]))
        loopback.install()
        self._executor = CountingExecutor(hello["threads"])
        asyncio.get_running_loop().set_default_executor(self._executor)
        if hello.get("memory_mb"):
            limit = hello["memory_mb"] << 20
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        if not await self._load(hello):
            return
        while True:
            self._handle(await self._receive())

    async def close(self) -> None:
        """Let go of the databases."""
        for opened in (getattr(self, "saver", None), getattr(self, "store", None)):
            if opened is not None:
                await opened.close()

    async def _load(self, hello: dict[str, Any]) -> bool:
        loading = ""
        try:
            await self._open(hello)
            for loading, source in hello["graphs"].items():
                self._entries[loading] = load(loading, source)
        except Exception as exc:
            text = str(exc) if isinstance(exc, CannotLoad) else last_lines(exc)
            self._outlet.send({"type": "load_failed", "graph_id": loading, "error": text})
            await self._outlet.drain()
            return False
        gc.freeze()  # what is loaded stays: no collection needs to look at it again
        gc.enable()
        names = {graph_id: entry.name for graph_id, entry in self._entries.items()}
        self._outlet.send({"type": "ready", "graphs": names})
        return True

    async def _open(self, hello: dict[str, Any]) -> None:
        """Open the databases. Raises CannotLoad."""
        if url := hello.get("database"):
            # Only here: an interpreter that runs graphs on files needs nothing of it.
            if why := lacking(("langgraph.checkpoint.postgres.aio", "psycopg")):
                raise CannotLoad(why)
            from .checkpoints.postgres import PostgresSaver
            from .store.postgres import PostgresStore

            self.saver = await PostgresSaver.opened(url)
            self.store = await PostgresStore.opened(url, hello["store"])
            return
        with _naming(hello["checkpoints"]):
            self.saver = await SqliteSaver.opened(hello["checkpoints"])
        with _naming(hello["store"]["path"]):
            self.store = await SqliteStore.opened(hello["store"])

    async def _receive(self) -> dict[str, Any]:
        length = int.from_bytes(await self._reader.readexactly(LENGTH), "big")
        frame: dict[str, Any] = json.loads(await self._reader.readexactly(length))
        return frame

    def _handle(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "start":
                self._run(frame)
            case "cancel":
                if (running := self._runs.get(frame["run_id"])) is not None:
                    # Not before its first step: a task that never began would tell nobody of its end.
                    asyncio.get_running_loop().call_soon(running[1].cancel)
            case "taken":
                if (running := self._runs.get(frame["run_id"])) is not None:
                    running[0].credit.earn(frame["size"])
            case "ask":
                task = asyncio.create_task(self._answer(frame))
                self._answering[frame["id"]] = task
                task.add_done_callback(lambda _: self._answering.pop(frame["id"], None))
            case "drop":
                if (asked := self._answering.get(frame["id"])) is not None:
                    asked.cancel()

    # --- runs -----------------------------------------------------------------------------------------

    def _run(self, start: dict[str, Any]) -> None:
        run_id, entry = start["run_id"], self._entries.get(start["graph_id"])
        if entry is None:
            failure = {"error": "GraphNotFound", "message": f"there is no graph '{start['graph_id']}'"}
            self._outlet.send({"type": "ended", "run_id": run_id, "status": "error", "failure": failure})
            return
        run = Run(start, entry, self.saver, self.store, self._executor, self._outlet)
        task = asyncio.create_task(run.execute())
        self._runs[run_id] = (run, task)
        task.add_done_callback(lambda _: self._runs.pop(run_id, None))

    # --- questions --------------------------------------------------------------------------------------

    async def _answer(self, frame: dict[str, Any]) -> None:
        told: dict[str, Any] = {"type": "told", "id": frame["id"]}
        try:
            body = encode(await self._verbs[frame["verb"]](frame["body"]))
        except BaseException as exc:  # a factory may call sys.exit, and everybody else's answer goes on
            self._outlet.send({**told, "failed": failed(exc)})
        else:
            self._outlet.send(told, body=body)
        await self._outlet.drain()

    async def _schemas(self, ask: dict[str, Any]) -> Any:
        """Those of a graph that is always the same are made once: messages alone take a tenth of a second."""
        entry = self._entries.get(ask["graph_id"])
        if entry is not None and entry.schemas is not None:
            return entry.schemas
        told = await self._with_graph(LOOKS, ask, drawings.schemas)
        if entry is not None and entry.factory is None:
            entry.schemas = told
        return told

    async def _with_graph(
        self, purpose: str, ask: dict[str, Any], answer: Callable[[Any, dict[str, Any]], Awaitable[Any]]
    ) -> Any:
        entry = self._entries.get(ask["graph_id"])
        if entry is None:
            raise NotFound(f"graph_id: the project has no graph '{ask['graph_id']}'")
        config, context = ask.get("config") or {}, ask.get("context")
        async with entry.open(Access(purpose, self.saver, self.store, config, context)) as graph:
            return await answer(graph, ask)


def lacking(modules: Iterable[str]) -> str:
    """Which of the modules this interpreter lacks, and how it gets them; '' when all are there."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as exc:
        return (
            f"{sys.executable} lacks what PostgreSQL needs ({exc}); install it with:"
            f" {sys.executable} -m pip install langgraph-checkpoint-postgres 'psycopg[binary]'"
        )
    return ""


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise CannotLoad(f"{path}: {exc}") from exc


async def _pong(_: dict[str, Any]) -> None:
    """The loop goes round."""


async def serve(fd: int) -> None:
    """Serve the worker at the other end of the socket."""
    connection = socket.socket(fileno=fd)
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 20)
    child = Child(reader, Outlet(writer))
    try:
        await child.serve()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the worker is gone, so nobody waits for us
    await child.close()


def run(fd: int) -> None:
    """Serve until the worker is gone.

    asyncio lets SystemExit and KeyboardInterrupt of any task out of the loop, having told them to whoever waits
    for that task: the run that raised it ends, and the loop goes on with the others where it was.
    """
    loop = asyncio.new_event_loop()
    serving = loop.create_task(serve(fd))
    while not serving.done():
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_until_complete(serving)
