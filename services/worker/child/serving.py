"""Frames in and out: what the worker asks of the child."""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from . import drawing, states, storing
from .asking import NotFound, failed
from .checkpoints import Lease, Saver
from .loading import LOOKS, READS, Access, CannotLoad, Entry, last_lines, load
from .names import ProjectNamesFirst
from .plain import encode
from .running import CountingExecutor, Outlet, Run

LENGTH = 4


class Child:
    """Everything that the process holds: graphs, checkpoints, the store, runs."""

    saver: Saver
    store: storing.Store

    def __init__(self, reader: asyncio.StreamReader, outlet: Outlet) -> None:
        self._reader, self._outlet = reader, outlet
        self._entries: dict[str, Entry] = {}
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._lease, self._renewed = Lease(0.0), asyncio.Event()
        self._verbs: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "state": lambda ask: self._with_graph(READS, ask, states.state),
            "history": lambda ask: self._with_graph(READS, ask, states.history),
            "forget": lambda ask: self.saver.forget(ask["thread_id"]),
            "rollback": lambda ask: self.saver.rollback(ask["thread_id"], ask["run_id"]),
            "copy": lambda ask: self.saver.copy(ask["thread_id"], ask["to_thread_id"]),
            "drawing": lambda ask: self._with_graph(LOOKS, ask, drawing.drawing),
            "schemas": lambda ask: self._with_graph(LOOKS, ask, drawing.schemas),
            "subgraphs": lambda ask: self._with_graph(LOOKS, ask, drawing.subgraphs),
            "store_put": lambda ask: storing.put(self.store, ask),
            "store_get": lambda ask: storing.get(self.store, ask),
            "store_delete": lambda ask: storing.delete(self.store, ask),
            "store_search": lambda ask: storing.search(self.store, ask),
            "store_namespaces": lambda ask: storing.namespaces(self.store, ask),
        }

    async def serve(self) -> None:
        """Load what the first frame says, then do what the others say until the worker is gone."""
        hello = await self._receive()
        sys.path[:0] = hello["roots"]
        sys.meta_path.insert(0, ProjectNamesFirst(hello["roots"]))
        self._executor = CountingExecutor(hello["threads"])
        asyncio.get_running_loop().set_default_executor(self._executor)
        self._lease.until_s = hello["until_s"]
        if not await self._load(hello):
            return
        watching = asyncio.create_task(self._watch_lease())
        try:
            while True:
                self._handle(await self._receive())
        finally:
            watching.cancel()

    async def _load(self, hello: dict[str, Any]) -> bool:
        loading = ""
        try:
            self.saver = await Saver.opened(hello["checkpoints"], self._lease)
            self.store = await storing.Store.opened(hello["store"])
            for loading, source in hello["graphs"].items():
                self._entries[loading] = load(loading, source)
        except Exception as exc:
            text = str(exc) if isinstance(exc, CannotLoad) else last_lines(exc)
            self._outlet.send({"type": "load_failed", "graph_id": loading, "error": text})
            await self._outlet.drain()
            return False
        names = {graph_id: entry.name for graph_id, entry in self._entries.items()}
        self._outlet.send({"type": "ready", "graphs": names})
        return True

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
            case "ask":
                task = asyncio.create_task(self._answer(frame))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case "lease":
                self._lease.until_s = frame["until_s"]
                self._renewed.set()

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

    async def _watch_lease(self) -> None:
        """Stop every run when the worker's lease has ended; the saver refuses their writes by then."""
        while True:
            self._renewed.clear()
            left_s = self._lease.until_s - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s + 0.001 if left_s > 0 else 1.0):
                    await self._renewed.wait()
            if self._lease.ended:
                self._fence_all()

    def _fence_all(self) -> None:
        for run, task in list(self._runs.values()):
            if not run.fenced:
                run.fenced = True
                task.cancel()

    # --- questions --------------------------------------------------------------------------------------

    async def _answer(self, frame: dict[str, Any]) -> None:
        told: dict[str, Any] = {"type": "told", "id": frame["id"]}
        try:
            body = encode(await self._verbs[frame["verb"]](frame["body"]))
        except Exception as exc:
            self._outlet.send({**told, "failed": failed(exc)})
        else:
            self._outlet.send(told, body=body)
        await self._outlet.drain()

    async def _with_graph(
        self, purpose: str, ask: dict[str, Any], answer: Callable[[Any, dict[str, Any]], Awaitable[Any]]
    ) -> Any:
        entry = self._entries.get(ask["graph_id"])
        if entry is None:
            raise NotFound(f"graph_id: the project has no graph '{ask['graph_id']}'")
        config, context = ask.get("config") or {}, ask.get("context")
        async with entry.open(Access(purpose, self.saver, self.store, config, context)) as graph:
            return await answer(graph, ask)


async def serve(fd: int) -> None:
    """Serve the worker at the other end of the socket."""
    connection = socket.socket(fileno=fd)
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 20)
    try:
        await Child(reader, Outlet(writer)).serve()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the worker is gone, so nobody waits for us


def run(fd: int) -> None:
    """Serve until the worker is gone."""
    asyncio.run(serve(fd))
