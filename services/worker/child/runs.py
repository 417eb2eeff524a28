"""One run of a graph, from the frame that starts it to the frame that tells how it ended."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, is_typeddict

from .checkpoints import RUN, Fenced, Saver, Unreachable
from .credit import Credit
from .emitter import Emitter
from .graphs import RUNS, UPDATES, Access, Entry
from .plain import encode, shown_failure
from .protocol import ProtocolEmitter, events_of
from .states import frame_fields, task_shown

CHECKPOINT_KEYS = ("checkpoint_id", "checkpoint_ns", "checkpoint_map")


class CountingExecutor(ThreadPoolExecutor):
    """Knows which runs have a blocking node in a thread: a cancel must not be reported while it goes on."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "node")
        self.busy: dict[str, int] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        run_id = RUN.get()
        future = super().submit(lambda: ordinary(fn, *args, **kwargs))
        if run_id:
            self.busy[run_id] = self.busy.get(run_id, 0) + 1
            future.add_done_callback(lambda _: self._done(run_id))
        return future

    def _done(self, run_id: str) -> None:
        self.busy[run_id] = self.busy.get(run_id, 0) - 1

    async def quiet(self, run_id: str) -> None:
        """Wait until no thread works for the run."""
        while self.busy.get(run_id, 0) > 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        self.busy.pop(run_id, None)


def ordinary(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call it; what means something to a coroutine that awaits the call becomes an error.

    No future can hold a StopIteration, so that the run would wait for ever; a GeneratorExit would close it.
    """
    try:
        return fn(*args, **kwargs)
    except (StopIteration, GeneratorExit) as exc:
        raise RuntimeError(f"a node raised {type(exc).__name__}") from exc


class Outlet:
    """Where frames go. What is written waits in memory, so a writer has to await `drain` now and then."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def send(self, frame: dict[str, Any], **raw: bytes) -> None:
        """Write a frame; `raw` members are JSON already."""
        data = encode(frame)
        if raw:
            more = b"".join(b',"' + name.encode() + b'":' + value for name, value in raw.items())
            data = data[:-1] + more + b"}"
        self._writer.writelines((len(data).to_bytes(4, "big"), data))

    async def drain(self) -> None:
        """Wait while the worker is slow to read; when it is gone, the process ends soon."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()


class Run:
    """A run that this child has."""

    def __init__(
        self,
        start: dict[str, Any],
        entry: Entry,
        saver: Saver,
        store: Any,
        executor: CountingExecutor,
        outlet: Outlet,
    ) -> None:
        self.run_id: str = start["run_id"]
        self.fenced, self.lost = False, ""
        self.credit = Credit()
        self._start, self._entry, self._saver, self._store = start, entry, saver, store
        self._executor, self._outlet = executor, outlet
        self._thread = {"configurable": {"thread_id": start["thread_id"]}}
        self._seq = 0
        self._status = "success"
        self._failure: dict[str, str] | None = None

    async def execute(self) -> None:
        """Run it to its end, and tell."""
        RUN.set(self.run_id)
        state, graph = None, None
        try:
            async with self._entry.open(self._access()) as graph:
                await self._outcome(self._work(graph))
                state = await graph.aget_state(self._thread)
        except (
            BaseException
        ) as exc:  # whatever a graph raises: sys.exit is an error of its run, of nobody else
            self._note(exc)
        await self._quiet()
        self._saver.ended(self.run_id)
        self._tell(state, graph)
        await self._outlet.drain()

    # --- how it ends --------------------------------------------------------------------------------

    async def _outcome(self, work: Awaitable[None]) -> None:
        """Do the work, and note what came of it."""
        try:
            await work
        except BaseException as exc:
            self._note(exc)
            await self._quiet()  # before the state is read: a node in a thread may still write

    def _note(self, exc: BaseException) -> None:
        task = asyncio.current_task()
        self.fenced = self.fenced or isinstance(exc, Fenced)
        if isinstance(exc, Unreachable):
            self.lost = self.lost or str(exc)
        if self._status != "success":
            return
        # A graph may raise it by itself; then nobody asked for it.
        if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
            self._status = "cancelled"
        else:
            self._status, self._failure = "error", shown_failure(exc)

    async def _quiet(self) -> None:
        if self._status == "cancelled":
            await self._executor.quiet(self.run_id)
        else:
            self._executor.busy.pop(self.run_id, None)
        await self._saver.settled(self.run_id)

    def _tell(self, state: Any, graph: Any) -> None:
        status, failure = "fenced" if self.fenced else self._status, self._failure
        if self.lost and not self.fenced:
            status, failure = "lost", {"error": "Unreachable", "message": self.lost}
        frame = {"type": "ended", "run_id": self.run_id, "status": status, "failure": failure}
        if state is None or status in ("fenced", "lost"):
            self._outlet.send(frame)
            return
        raw = {"values": encode(state.values), "tasks": encode([task_shown(t) for t in state.tasks])}
        output = output_of(graph, state.values)
        if output is not state.values:
            raw["output"] = encode(output)
        self._outlet.send(frame | frame_fields(state), **raw)

    # --- what it does ---------------------------------------------------------------------------------

    def _access(self) -> Access:
        temporary = bool(self._start.get("temporary"))
        saver: Any = self._saver
        if temporary:
            from langgraph.checkpoint.memory import InMemorySaver

            saver = InMemorySaver()
        purpose = RUNS if self._start.get("updates") is None else UPDATES
        context = self._start.get("context") or {}
        return Access(purpose, saver, self._store, self._config(), context, temporary)

    def _config(self) -> dict[str, Any]:
        config = dict(self._start.get("config") or {})
        own = {"run_id": self.run_id, "thread_id": self._start["thread_id"]}
        config["configurable"] = {**config.get("configurable", {}), **own}
        # By it the next attempt knows whose checkpoint it finds.
        config["metadata"] = {**config.get("metadata", {}), "run_id": self.run_id}
        return config

    async def _work(self, graph: Any) -> None:
        config, begun = self._config(), False
        if not self._start.get("temporary"):
            begun = await self._prepare()
        updates = self._start.get("updates")
        if not begun and not self._start.get("temporary"):
            # It was there when the run was asked for; from one that is gone LangGraph would start anew.
            await self._saver.must_have(self._start["thread_id"], points_of(config["configurable"]))
        if updates is not None:
            config["configurable"].setdefault("checkpoint_ns", "")  # LangGraph asks for it beside an id
            await graph.abulk_update_state(config, supersteps_of(updates))
        elif not begun:
            await self._stream(graph, given_of(self._start), config)
        elif (await graph.aget_state(self._thread)).tasks:
            # Not `next`: tasks whose writes are stored and not applied yet are left out of it.
            await self._stream(graph, None, without_checkpoint(config))
        # Else it had finished, only nobody was told.

    async def _prepare(self) -> bool:
        """Make the thread ready for this attempt; True if it goes on from what an earlier one left."""
        thread_id, token = self._start["thread_id"], self._start.get("token", 0)
        await self._saver.claim(thread_id, token)
        if self._start.get("attempt", 1) == 1:
            await self._saver.begin(thread_id, self.run_id)
            return False
        if self._start.get("updates") is None and await self._saver.newest_run(thread_id) == self.run_id:
            return True
        # It starts again, so nothing may be left of the first start: an answer to an interrupt that is
        # stored already would otherwise answer the next interrupt as well.
        await self._saver.rollback(thread_id, self.run_id, token)
        return False

    async def _stream(self, graph: Any, given: Any, config: dict[str, Any]) -> None:
        options: dict[str, Any] = {
            "context": context_of(graph, self._start.get("context")),
            "interrupt_before": self._start.get("interrupt_before"),
            "interrupt_after": self._start.get("interrupt_after"),
        }
        if self._start.get("durability"):
            options["durability"] = self._start["durability"]
        if self._start.get("event_streaming"):
            await self._stream_events(graph, given, config, options)
        else:
            await self._stream_modes(graph, given, config, options)

    async def _stream_events(
        self, graph: Any, given: Any, config: dict[str, Any], options: dict[str, Any]
    ) -> None:
        emitter = ProtocolEmitter(self._emit)
        try:
            async with contextlib.aclosing(events_of(graph, given, config, options)) as events:
                async for one in events:
                    emitter.take(one)
                    await self._room()
        except asyncio.CancelledError:
            emitter.close("interrupted")
            raise
        except BaseException as exc:
            emitter.close("failed", exc)
            raise
        emitter.close("completed")

    async def _stream_modes(
        self, graph: Any, given: Any, config: dict[str, Any], options: dict[str, Any]
    ) -> None:
        emitter = Emitter(self._start.get("stream_modes") or [], self._emit)
        subgraphs = bool(self._start.get("stream_subgraphs"))
        options |= {"stream_mode": emitter.native(), "subgraphs": subgraphs}
        source = parts_of(graph, given, config, options, emitter)
        async with contextlib.aclosing(source) as parts:
            async for part in parts:
                namespace, mode, data = part if subgraphs else ((), *part)
                emitter.take(namespace, mode, data)
                await self._room()

    async def _room(self) -> None:
        """Wait until what was emitted is on its way."""
        await self._outlet.drain()
        await self.credit.wait()

    def _emit(self, event: str, data: bytes, origin: dict[str, Any] | None = None) -> None:
        self._seq += 1
        frame: dict[str, Any] = {"type": "event", "run_id": self.run_id, "seq": self._seq, "event": event}
        if origin is not None:
            frame["origin"] = origin
        self._outlet.send(frame, data=data)
        self.credit.spend(len(data))


async def parts_of(
    graph: Any, given: Any, config: dict[str, Any], options: dict[str, Any], emitter: Emitter
) -> AsyncGenerator[Any, None]:
    """The parts of the graph's stream; LangChain's own events go to the emitter on the way, if asked for."""
    if not emitter.wants_events:
        async with contextlib.aclosing(graph.astream(given, config, **options)) as parts:
            async for part in parts:
                yield part
        return
    root = None
    async with contextlib.aclosing(graph.astream_events(given, config, version="v2", **options)) as events:
        async for event in events:
            root = root or event["run_id"]  # the graph's own start comes first
            emitter.take_event(event)
            if event["event"] == "on_chain_stream" and event["run_id"] == root:
                yield event["data"]["chunk"]


def output_of(graph: Any, values: Any) -> Any:
    """The state by the graph's output schema; the values themselves when it has no other."""
    names = graph.output_channels
    if names == graph.stream_channels_asis or not isinstance(values, dict):
        return values
    if isinstance(names, str):
        return values.get(names)
    if set(values) <= set(names):
        return values
    return {name: values[name] for name in names if name in values}


def points_of(configurable: dict[str, Any]) -> list[tuple[str, str]]:
    """The checkpoints that a configurable names, as (namespace, id)."""
    points = [(ns, at) for ns, at in (configurable.get("checkpoint_map") or {}).items() if at]
    if configurable.get("checkpoint_id"):
        points.append((configurable.get("checkpoint_ns") or "", configurable["checkpoint_id"]))
    return points


class Context(dict[str, Any]):
    """What a run was given, `{}` too: LangGraph takes what is not true for none, and a node would get None."""

    def __bool__(self) -> bool:
        return True


def context_of(graph: Any, given: dict[str, Any] | None) -> Context:
    """The context without keys that the graph's schema does not have: a dataclass would take none of them."""
    schema, context = getattr(graph, "context_schema", None), Context(given or {})
    fields = getattr(schema, "__dataclass_fields__", None) or getattr(schema, "model_fields", None)
    if fields is None:
        fields = getattr(schema, "__annotations__", None) if is_typeddict(schema) else None
    if fields is None:
        return context
    aliases = {getattr(field, "alias", None) for field in fields.values()}
    return Context({key: value for key, value in context.items() if key in fields or key in aliases})


def without_checkpoint(config: dict[str, Any]) -> dict[str, Any]:
    """The config, not bound to the checkpoint from which the run started."""
    kept = {k: v for k, v in config["configurable"].items() if k not in CHECKPOINT_KEYS}
    return {**config, "configurable": kept}


# --- what a graph is given ----------------------------------------------------------------------------


def given_of(start: dict[str, Any]) -> Any:
    """The input, or LangGraph's Command."""
    command = start.get("command")
    return start.get("input") if command is None else command_of(command)


def command_of(command: dict[str, Any]) -> Any:
    """LangGraph's Command of what a client sent."""
    from langgraph.types import Command

    update = command.get("update")
    if isinstance(update, list):
        update = [tuple(pair) if isinstance(pair, list) else pair for pair in update]
    return Command(update=update, resume=command.get("resume"), goto=goto_of(command.get("goto")))


def goto_of(goto: Any) -> Any:
    """A node's name, a Send, or several of these."""
    from langgraph.types import Send

    if goto is None:
        return ()
    if isinstance(goto, list):
        return [goto_of(each) for each in goto]
    return Send(goto["node"], goto.get("input")) if isinstance(goto, dict) else goto


def supersteps_of(updates: list[list[dict[str, Any]]]) -> Any:
    """LangGraph's supersteps of what a client sent."""
    return [[update_of(update) for update in superstep] for superstep in updates]


def update_of(update: dict[str, Any]) -> Any:
    """One state update; a `command` takes the place of values."""
    from langgraph.types import StateUpdate

    command = update.get("command")
    values = update.get("values") if command is None else command_of(command)
    return StateUpdate(values, update.get("as_node"), update.get("task_id"))
