"""What LangGraph streams, as events of the event streaming protocol: all channels, and graphs inside at any depth.

The root's own lifecycle is not told here: whoever shows the events knows when the run has begun and how it ended.
"""

import time
import warnings
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from .emitter import INTERRUPT, Namespace, task_event
from .plain import HIDDEN, clean, encode, shallow, shown_error, shown_failure

MODES = ("checkpoints", "custom", "messages", "tasks", "tools", "updates", "values")
NEEDED = "event_streaming: the project's langgraph has no event streaming; 1.2.22 or newer is needed"
NOTES = "__metadata__"  # beside the nodes of an update: that it comes from a cache
TASKS = "cronledger_tasks"  # the channel by which tasks come
Emit = Callable[[str, bytes, dict[str, Any]], None]


class TooOld(RuntimeError):
    """LangGraph does not have the protocol; the text is for whoever asked for it."""


class ProtocolEmitter:
    """Turns the events of one run into the protocol's: a method, data as JSON, and where it comes from."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._asked: set[str] = set()
        self._open: dict[Namespace, str] = {}  # graphs inside that are at work, and their names
        self._unfinished: set[str] = set()  # tasks without a result so far

    def take(self, event: dict[str, Any]) -> None:
        """One event of LangGraph's."""
        method, params = event["method"], event["params"]
        namespace, data = tuple(params["namespace"]), params["data"]
        match method:
            case "values":
                self._ask(namespace, params.get("interrupts") or ())
                shown = without_interrupts(data)
                if shown != {}:
                    self._tell("values", shown, namespace)
            case "updates":
                self._take_updates(namespace, data)
            case "messages":
                self._take_message(namespace, *data)
            case "tools":
                self._tell("tools", data, namespace)
            case "lifecycle":
                self._take_lifecycle(data)
            case "checkpoints":
                point = checkpoint(data)
                self._tell(
                    "checkpoints", point, namespace, key=f"checkpoint|{joined(namespace)}|{point['id']}"
                )
            case "custom":
                self._tell("custom", {"payload": data}, namespace)
            case _:  # of a transformer: ours, or one of the project's own
                name = method.removeprefix("custom:")
                if name == TASKS:
                    self._take_task(tuple(data["namespace"]), data["data"])
                else:
                    self._tell("custom", {"name": name, "payload": data}, namespace)

    def close(self, event: str, exc: BaseException | None = None) -> None:
        """Tell of graphs inside that are still at work what became of them, the deepest first.

        One whose task has no result at the end of a run that went well is at a breakpoint.
        """
        for namespace in deepest_first(self._open):
            paused = event == "completed" and task_of(namespace) in self._unfinished
            self._close(namespace, "interrupted" if paused else event, exc)

    def _take_updates(self, namespace: Namespace, data: Any) -> None:
        for node, values in (data if isinstance(data, dict) else {}).items():
            if node == INTERRUPT:
                self._ask(namespace, values)
            elif node != NOTES:
                shown = (values or {}) if values is None or isinstance(values, dict) else {"value": values}
                update = {"node": node, "values": without_interrupts(shown)}
                self._tell("updates", update, namespace, node=node)

    def _take_message(self, namespace: Namespace, message: Any, metadata: dict[str, Any] | None) -> None:
        node = (metadata or {}).get("langgraph_node") or ""
        if isinstance(message, dict):
            if "event" in message:
                self._tell("messages", message, namespace, node=node)
            return
        # A whole message that nobody streamed. Only what a model says has that form; the rest is in the values.
        if kind_of(message) == "ai":
            from langchain_core.language_models._compat_bridge import message_to_events

            for part in message_to_events(message, message_id=message.id):
                self._tell("messages", part, namespace, node=node)

    def _take_lifecycle(self, data: dict[str, Any]) -> None:
        """A graph inside begins. How it ends tells its task, which has the error itself and not its bare text."""
        inside = tuple(data.get("namespace") or ())
        if not inside or data["event"] != "started":
            return
        name = self._open[inside] = data.get("graph_name") or inside[-1].partition(":")[0]
        cause = {"cause": data["cause"]} if data.get("cause") else {}
        self._tell_of_graph(inside, {"event": "started", "graph_name": name, **cause})

    def _take_task(self, namespace: Namespace, data: dict[str, Any]) -> None:
        if "result" in data:
            self._unfinished.discard(data["id"])
            self._end(data)
        else:
            self._unfinished.add(data["id"])
        self._tell("tasks", task_event(data), namespace)

    def _end(self, task: dict[str, Any]) -> None:
        """Close the graphs in which a task was at work."""
        event, error = "completed", task.get("error")
        if task.get("interrupts"):
            event, error = "interrupted", None
        elif error is not None:
            event = "failed"
        ended = [namespace for namespace in self._open if task_of(namespace) == task["id"]]
        for namespace in deepest_first(self._open):
            if any(namespace[: len(outer)] == outer for outer in ended):
                self._close(namespace, event, error)

    def _close(self, namespace: Namespace, event: str, error: Any) -> None:
        told = {"event": event, "graph_name": self._open.pop(namespace)}
        self._tell_of_graph(namespace, told if error is None else {**told, "error": error_text(error)})

    def _tell_of_graph(self, namespace: Namespace, data: dict[str, Any]) -> None:
        self._tell("lifecycle", data, namespace, key=f"lc|{joined(namespace)}|{data['event']}")

    def _ask(self, namespace: Namespace, interrupts: Any) -> None:
        for one in interrupts:
            if one.id in self._asked:
                continue
            self._asked.add(one.id)
            data = {"interrupt_id": one.id, "payload": one.value, "value": one.value}
            self._tell("input.requested", data, namespace, key=f"input|{joined(namespace)}|{one.id}")

    def _tell(self, method: str, data: Any, namespace: Namespace, *, node: str = "", key: str = "") -> None:
        known = {"namespace": namespace, "node": node, "key": key}
        origin = {"at_ms": time.time_ns() // 1_000_000} | {
            name: value for name, value in known.items() if value
        }
        self._emit(method, encode(data, normal), origin)


async def events_of(
    graph: Any, given: Any, config: dict[str, Any], options: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    """LangGraph's events of a run, for an emitter. Raises what the graph raises, and TooOld."""
    tap, errors = tap_of(), tool_errors()
    config = {**config, "callbacks": [errors]}
    with warnings.catch_warnings():
        # That it is experimental, at each run.
        warnings.filterwarnings("ignore", message=".*v3 streaming protocol.*")
        stream = await graph.astream_events(given, config, version="v3", transformers=[tap], **options)
    async with stream:
        async for event in stream:
            yield errors.read(event) if event["method"] == "tools" else event


def tap_of() -> Callable[[Namespace], Any]:
    """What makes LangGraph stream in all modes, and passes on tasks, which it keeps. Raises TooOld."""
    try:
        from langgraph.stream import StreamChannel, StreamTransformer
    except ImportError:
        raise TooOld(NEEDED) from None

    class Tap(StreamTransformer):
        required_stream_modes = MODES

        def __init__(self, scope: Namespace = ()) -> None:
            super().__init__(scope)
            self._tasks: StreamChannel[Any] = StreamChannel(TASKS)

        def init(self) -> dict[str, Any]:
            return {TASKS: self._tasks}

        def process(self, event: Any) -> bool:
            # Each graph inside has a tap of its own, and the root's sees everything.
            if event["method"] == "tasks" and not self.scope:
                self._tasks.push(event["params"])
            return True

    return Tap


def tool_errors() -> Any:
    """A callback that knows which texts of tools' errors may be shown: LangGraph tells the bare text of all."""
    from langchain_core.callbacks import BaseCallbackHandler

    class ToolErrors(BaseCallbackHandler):
        run_inline = True  # before LangGraph's own, which the graph adds behind it
        ignore_llm = ignore_chat_model = ignore_chain = ignore_retriever = ignore_custom_event = True

        def __init__(self) -> None:
            self._shown: dict[str, str] = {}

        def on_tool_error(self, error: BaseException, **_: Any) -> None:
            self._shown[str(error)] = shown_failure(error)["message"]

        def read(self, event: Any) -> Any:
            """The event of a tool, as it may be shown."""
            data = event["params"]["data"]
            if data["event"] != "tool-error":
                return event
            shown = {**data, "message": self._shown.get(data["message"], HIDDEN)}
            return {**event, "params": {**event["params"], "data": shown}}

    return ToolErrors()


def deepest_first(namespaces: Iterable[Namespace]) -> list[Namespace]:
    """The namespaces in the order in which their graphs end."""
    return sorted(namespaces, key=len, reverse=True)


def task_of(namespace: Namespace) -> str:
    """The task in which the graph of a namespace is at work."""
    return namespace[-1].partition(":")[2]


def error_text(error: Any) -> str | None:
    """The error of a task, in the words in which a run tells its own."""
    if not isinstance(error, BaseException):
        return shown_error(error)
    shown = shown_failure(error)
    return f"{shown['error']}: {shown['message']}"


def without_interrupts(data: Any) -> Any:
    """The state without what it asks, which has an event of its own."""
    if isinstance(data, dict) and INTERRUPT in data:
        return {name: value for name, value in data.items() if name != INTERRUPT}
    return data


def normal(value: Any) -> Any:
    """An object as the protocol shows it: messages have a form of their own."""
    return message_of(value) if kind_of(value) else shallow(value)


def kind_of(value: Any) -> str:
    """Who says a message, a piece of one is like the whole: `ai`, `human`, `tool`; empty for all else."""
    kind = getattr(value, "type", None)
    if isinstance(kind, str) and hasattr(value, "content") and hasattr(value, "response_metadata"):
        return kind.removesuffix("MessageChunk").lower()
    return ""


def message_of(message: Any) -> dict[str, Any]:
    """A message without what only providers know."""
    kind = kind_of(message)
    told = {"type": kind, "content": message.content, "id": message.id}
    for name in ("name", "response_metadata"):
        if value := getattr(message, name, None):
            told[name] = value
    if kind == "tool":
        told |= {"tool_call_id": message.tool_call_id, "status": message.status}
    for name in ("tool_calls", "usage_metadata"):
        if kind == "ai" and (value := getattr(message, name, None)):
            told[name] = value
    return told


def checkpoint(data: dict[str, Any]) -> dict[str, Any]:
    """The envelope of a checkpoint; its values have an event of their own."""
    metadata = data.get("metadata") or {}
    told = {
        "id": point_of(data.get("config")),
        "step": metadata.get("step"),
        "source": metadata.get("source"),
    }
    parent = point_of(data.get("parent_config"))
    return told if parent is None else {**told, "parent_id": parent}


def point_of(config: Any) -> str | None:
    """The checkpoint that a config names."""
    point: str | None = ((config or {}).get("configurable") or {}).get("checkpoint_id")
    return point


def joined(namespace: Namespace) -> str:
    """A namespace as it stands in the id of an event."""
    return "\0".join(clean(segment) for segment in namespace)
