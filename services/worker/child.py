"""The graph child: runs the user's graphs in a process that holds none of our packages.

Started by file path as `[python, "-P", child.py, fd, project folder]`. It imports the standard library and what
LangGraph brings with it, and talks over the socket `fd` in frames (`contracts/frames.py` has their forms).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import ctypes
import dataclasses
import importlib
import importlib.util
import inspect
import json
import math
import os
import pathlib
import re
import socket
import sys
import traceback
import types
import typing
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

OURS = frozenset({"contracts", "domain", "projections", "services"})
LENGTH = 4
RUN: contextvars.ContextVar[str] = contextvars.ContextVar("cronledger_run", default="")
SHOWN = (
    "ValueError",
    "TypeError",
    "KeyError",
    "AttributeError",
    "RuntimeError",
    "RecursionError",
    "TimeoutError",
)
"""Exceptions (and their subclasses) whose text a client may read; others can hold secrets."""


class ProjectNamesFirst:
    """Resolves our top-level names among the project's folders alone, so that neither hides the other."""

    def __init__(self, roots: list[str]) -> None:
        self.roots = roots

    def find_spec(
        self, name: str, path: Any = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in OURS:
            return None
        spec = PathFinder.find_spec(name, self.roots if path is None else path, target)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec


# --- values to JSON -----------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """The value in a form that JSON has; what nobody can know becomes null."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(key if isinstance(key, str) else str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [plain(item) for item in value]
    return plain_object(value)


def plain_object(value: Any) -> Any:
    if hasattr(value, "model_dump") and callable(value.model_dump):
        return plain(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if type(value).__module__ in ("uuid", "ipaddress", "pathlib", "pathlib._local") or isinstance(
        value, pathlib.PurePath
    ):
        return str(value)
    if isinstance(value, re.Pattern):
        return value.pattern
    if hasattr(value, "value") and hasattr(value, "name") and type(value).__class__.__name__ == "EnumType":
        return plain(value.value)
    return None


def clean(text: str) -> str:
    """The text without what JSON or a database can't hold."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def encode(value: Any) -> bytes:
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")).encode()


def shown_failure(exc: BaseException) -> dict[str, str]:
    """Class and text of an exception as a client may see it."""
    names = {cls.__name__ for cls in type(exc).__mro__}
    ours = any(cls.__module__.startswith("langgraph.errors") for cls in type(exc).__mro__)
    readable = ours or bool(names & set(SHOWN)) or "HTTPException" in names
    text = str(exc.args[0]) if isinstance(exc, KeyError) and exc.args else str(exc)
    return {"error": type(exc).__name__, "message": clean(text) if readable else "An internal error occurred"}


# --- loading graphs -----------------------------------------------------------------------------------


class CannotLoad(Exception):
    """A graph can't be loaded, and why."""


class Entry:
    """A graph of the project: compiled once, or a factory that is called for each access."""

    def __init__(self, graph_id: str, value: Any) -> None:
        self.graph_id = graph_id
        self.compiled = compiled(value)
        self.factory = None if self.compiled is not None else value
        self.takes: list[str] = []
        if self.factory is not None:
            if not callable(value):
                raise CannotLoad(
                    f"is a {type(value).__name__}, and neither a graph nor a function that makes one"
                )
            self.takes = parameters(value)

    @property
    def name(self) -> str:
        own = getattr(self.compiled, "name", None) or "LangGraph"
        return self.graph_id if own == "LangGraph" else str(own)

    @contextlib.asynccontextmanager
    async def open(self, config: dict[str, Any], context: Any, saver: Any) -> AsyncIterator[Any]:
        """The graph, with our checkpointer; a factory's context is left when the run has ended."""
        if self.factory is None:
            yield self._ours(self.compiled, saver)
            return
        given = {"config": config, "runtime": runtime(context)} if self.takes else {}
        made = self.factory(*(given[kind] for kind in self.takes))
        async with contextlib.AsyncExitStack() as stack:
            if inspect.isawaitable(made):
                made = await made
            if hasattr(made, "__aenter__"):
                made = await stack.enter_async_context(made)
            elif hasattr(made, "__enter__") and compiled(made) is None:
                made = stack.enter_context(made)
            graph = compiled(made)
            if graph is None:
                raise TypeError(f"the factory of graph '{self.graph_id}' gave a {type(made).__name__}")
            yield self._ours(graph, saver)

    def _ours(self, graph: Any, saver: Any) -> Any:
        changes = {"checkpointer": saver}
        if getattr(graph, "name", None) in (None, "LangGraph"):
            changes["name"] = self.graph_id
        return graph.copy(changes)


def compiled(value: Any) -> Any:
    """The compiled graph that the value is or can be compiled to; None when it is none."""
    if hasattr(value, "astream") and hasattr(value, "aget_state"):
        return value
    if hasattr(value, "compile") and hasattr(value, "add_node") and not isinstance(value, type):
        return value.compile()
    return None


def parameters(factory: Callable[..., Any]) -> list[str]:
    """What a factory wants, in order: `config`, `runtime`. Raises CannotLoad."""
    found = [
        p
        for p in inspect.signature(factory).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(found) > 2:
        raise CannotLoad(
            "is a function of more than two parameters; it may take a config and a ServerRuntime"
        )
    try:
        hints = typing.get_type_hints(factory, include_extras=True)
    except Exception:
        hints = {}
    kinds = ["runtime" if is_runtime(hints.get(p.name, p.annotation)) else "config" for p in found]
    if len(kinds) == 2 and kinds[0] == kinds[1]:
        raise CannotLoad("is a function of two parameters; annotate one of them with ServerRuntime")
    return kinds


def is_runtime(annotation: Any) -> bool:
    return "ServerRuntime" in str(annotation) or "_ExecutionRuntime" in str(annotation)


def runtime(context: Any) -> Any:
    from langgraph.store.memory import InMemoryStore
    from langgraph_sdk import runtime as sdk

    return sdk._ExecutionRuntime(access_context="threads.create_run", store=InMemoryStore(), context=context)


def load(graph_id: str, source: dict[str, str]) -> Entry:
    """The graph of that place. Raises CannotLoad with a text for its author."""
    where = source.get("path") or source.get("module") or ""
    try:
        module = module_of(source)
        value = getattr(module, source["variable"])
        return Entry(graph_id, value)
    except CannotLoad as exc:
        raise CannotLoad(f"graph '{graph_id}': {where}:{source['variable']} {exc}") from None
    except AttributeError as exc:
        raise CannotLoad(f"graph '{graph_id}': {where} has no '{source['variable']}': {exc}") from exc
    except BaseException as exc:
        lines = traceback.format_exception_only(exc)
        raise CannotLoad(f"graph '{graph_id}': {where} can't be imported: {''.join(lines).strip()}") from exc


def module_of(source: dict[str, str]) -> types.ModuleType:
    path = source.get("path")
    if not path:
        return importlib.import_module(source["module"])
    if not os.path.isfile(path):
        raise CannotLoad("is not there")
    name = "cronledger_project_" + re.sub(r"\W", "_", path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CannotLoad("is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# --- running ------------------------------------------------------------------------------------------


class CountingExecutor(ThreadPoolExecutor):
    """Knows which runs have a blocking node in a thread: a cancel must not be reported while it goes on."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "node")
        self.busy: dict[str, int] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        run_id = RUN.get()
        future = super().submit(fn, *args, **kwargs)
        if run_id:
            self.busy[run_id] = self.busy.get(run_id, 0) + 1
            future.add_done_callback(lambda _: self._done(run_id))
        return future

    def _done(self, run_id: str) -> None:
        self.busy[run_id] -= 1

    async def quiet(self, run_id: str) -> None:
        """Wait until no thread works for the run."""
        while self.busy.get(run_id, 0) > 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        self.busy.pop(run_id, None)


class Emitter:
    """Turns what LangGraph streams into events of the asked modes."""

    def __init__(
        self, run_id: str, modes: list[str], send: Callable[[dict[str, Any], list[tuple[str, bytes]]], None]
    ) -> None:
        self.run_id, self.modes, self.send = run_id, modes, send
        self.seq = 0
        self.messages: dict[str, Any] = {}

    def native(self) -> list[str]:
        """The modes to ask LangGraph for."""
        names = ["messages" if mode in ("messages", "messages-tuple") else mode for mode in self.modes]
        return list(dict.fromkeys(names))

    def emit(self, event: str, data: Any) -> None:
        self.seq += 1
        frame = {"type": "event", "run_id": self.run_id, "seq": self.seq, "event": event}
        self.send(frame, [("data", encode(data))])

    def take(self, namespace: tuple[str, ...], mode: str, data: Any) -> None:
        """One piece of the stream."""
        suffix = "".join(f"|{part}" for part in namespace)
        if mode != "messages":
            self.emit(mode + suffix, interrupts_shown(data))
        elif "messages-tuple" in self.modes:
            self.emit("messages", data)
        else:
            self._message(*data)

    def _message(self, message: Any, metadata: dict[str, Any]) -> None:
        is_chunk = type(message).__name__.endswith("Chunk")
        known = self.messages.get(message.id)
        if known is None:
            self.emit("messages/metadata", {message.id: {"metadata": metadata}})
        self.messages[message.id] = whole = known + message if known is not None and is_chunk else message
        shown = plain(whole)
        if isinstance(shown, dict) and isinstance(shown.get("type"), str):
            shown["type"] = {"AIMessageChunk": "ai"}.get(shown["type"], shown["type"])
        self.emit("messages/partial" if is_chunk else "messages/complete", [shown])


def interrupts_shown(data: Any) -> Any:
    if isinstance(data, dict) and "__interrupt__" in data:
        shown = [{"value": i.value, "id": i.id} for i in data["__interrupt__"]]
        return {**data, "__interrupt__": shown}
    return data


class Child:
    """Everything that the process holds: graphs, checkpoints, runs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.entries: dict[str, Entry] = {}
        self.runs: dict[str, asyncio.Task[None]] = {}
        self.saver: Any = None

    async def serve(self) -> None:
        hello = await self.receive()
        sys.path[:0] = hello["roots"]
        sys.meta_path.insert(0, ProjectNamesFirst(hello["roots"]))
        self.executor = CountingExecutor(hello["threads"])
        asyncio.get_running_loop().set_default_executor(self.executor)
        await self.open_checkpoints(hello["checkpoints"])
        for graph_id, source in hello["graphs"].items():
            try:
                self.entries[graph_id] = load(graph_id, source)
            except CannotLoad as exc:
                self.send({"type": "load_failed", "graph_id": graph_id, "error": clean(str(exc))})
                await self.writer.drain()
                return
        self.send({"type": "ready", "graphs": {g: entry.name for g, entry in self.entries.items()}})
        while True:
            self.handle(await self.receive())

    async def open_checkpoints(self, path: str) -> None:
        import aiosqlite
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        connection = await aiosqlite.connect(path, timeout=30)
        self.saver = AsyncSqliteSaver(connection)
        await self.saver.setup()

    async def receive(self) -> dict[str, Any]:
        length = int.from_bytes(await self.reader.readexactly(LENGTH), "big")
        frame: dict[str, Any] = json.loads(await self.reader.readexactly(length))
        return frame

    def send(self, frame: dict[str, Any], raw: Iterable[tuple[str, bytes]] = ()) -> None:
        """Write a frame; `raw` members are JSON already."""
        data = encode(frame)
        for name, value in raw:
            data = data[:-1] + b',"' + name.encode() + b'":' + value + b"}"
        self.writer.write(len(data).to_bytes(LENGTH, "big") + data)

    def handle(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "start":
            task = asyncio.create_task(self.run(frame))
            self.runs[frame["run_id"]] = task
            task.add_done_callback(lambda _: self.runs.pop(frame["run_id"], None))
        elif kind == "cancel":
            if task_or_none := self.runs.get(frame["run_id"]):
                task_or_none.cancel()
        elif kind == "forget":
            task = asyncio.create_task(self.forget(frame["thread_id"]))
            self.runs["forget " + frame["thread_id"]] = task

    async def forget(self, thread_id: str) -> None:
        await self.saver.adelete_thread(thread_id)
        self.send({"type": "forgotten", "thread_id": thread_id})
        self.runs.pop("forget " + thread_id, None)

    async def run(self, start: dict[str, Any]) -> None:
        RUN.set(start["run_id"])
        status, failure, state = "success", None, None
        config = self.config(start)
        context = start.get("context")
        saver = self.saver
        if start.get("temporary"):
            from langgraph.checkpoint.memory import InMemorySaver

            saver = InMemorySaver()
        try:
            async with self.entries[start["graph_id"]].open(config, context, saver) as graph:
                try:
                    await self.stream(graph, start, config, context)
                except asyncio.CancelledError:
                    status = "cancelled"
                except Exception as exc:
                    status, failure = "error", shown_failure(exc)
                state = await graph.aget_state({"configurable": {"thread_id": start["thread_id"]}})
        except asyncio.CancelledError:
            status = "cancelled"
        except Exception as exc:
            status, failure = "error", failure or shown_failure(exc)
        if status == "cancelled":
            await self.executor.quiet(start["run_id"])
        else:
            self.executor.busy.pop(start["run_id"], None)
        self.ended(start["run_id"], status, failure, state)
        await self.writer.drain()

    def config(self, start: dict[str, Any]) -> dict[str, Any]:
        config = dict(start.get("config") or {})
        own = {"run_id": start["run_id"], "thread_id": start["thread_id"]}
        config["configurable"] = {**config.get("configurable", {}), **own}
        # By it the next attempt knows whose checkpoint it finds.
        config["metadata"] = {**config.get("metadata", {}), "run_id": start["run_id"]}
        return config

    async def stream(self, graph: Any, start: dict[str, Any], config: dict[str, Any], context: Any) -> None:
        given = start.get("input")
        if start.get("attempt", 1) > 1 and not start.get("temporary"):
            known = await self.saver.aget_tuple({"configurable": {"thread_id": start["thread_id"]}})
            if known is not None and known.metadata.get("run_id") == start["run_id"]:
                state = await graph.aget_state({"configurable": {"thread_id": start["thread_id"]}})
                # Not `next`: tasks whose writes are stored and not applied yet are left out of it.
                if not state.tasks:
                    return  # it had finished, only nobody was told
                given = None
        emitter = Emitter(start["run_id"], start.get("stream_modes") or [], self.send)
        more = {"durability": start["durability"]} if start.get("durability") else {}
        async for part in graph.astream(
            given,
            config,
            context=context,
            stream_mode=emitter.native() or ["updates"],
            interrupt_before=start.get("interrupt_before"),
            interrupt_after=start.get("interrupt_after"),
            subgraphs=bool(start.get("stream_subgraphs")),
            **more,
        ):
            if not emitter.modes:
                continue
            namespace, mode, data = part if start.get("stream_subgraphs") else ((), *part)
            emitter.take(namespace, mode, data)
            await self.writer.drain()

    def ended(self, run_id: str, status: str, failure: dict[str, str] | None, state: Any) -> None:
        frame: dict[str, Any] = {"type": "ended", "run_id": run_id, "status": status, "failure": failure}
        raw: list[tuple[str, bytes]] = []
        if state is not None:
            frame |= state_frame(state)
            raw = [("values", encode(state.values)), ("tasks", encode([task_shown(t) for t in state.tasks]))]
        self.send(frame, raw)


def state_frame(state: Any) -> dict[str, Any]:
    return {
        "next": list(state.next),
        "interrupts": {
            task.id: [{"id": i.id, "value": i.value} for i in task.interrupts]
            for task in state.tasks
            if task.interrupts
        },
        "checkpoint": checkpoint_shown(state.config),
        "parent_checkpoint": checkpoint_shown(state.parent_config),
        "metadata": dict(state.metadata or {}),
        "created_at": state.created_at,
    }


def checkpoint_shown(config: Any) -> dict[str, str] | None:
    configurable = (config or {}).get("configurable", {})
    if not configurable.get("checkpoint_id"):
        return None
    names = ("thread_id", "checkpoint_ns", "checkpoint_id")
    return {name: configurable.get(name, "") for name in names}


def task_shown(task: Any) -> dict[str, Any]:
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": None if task.error is None else str(task.error),
        "interrupts": [{"id": i.id, "value": i.value} for i in task.interrupts],
        "checkpoint": task.state.get("configurable") if isinstance(task.state, dict) else None,
        "state": None,
        "result": task.result,
    }


async def main(fd: int) -> None:
    connection = socket.socket(fileno=fd)
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 20)
    try:
        await Child(reader, writer).serve()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the worker is gone, so nobody waits for us


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # die with the worker, even when a graph blocks everything
    asyncio.run(main(int(sys.argv[1])))
    os._exit(0)  # not by sys.exit: a blocking node in a thread would be waited for
