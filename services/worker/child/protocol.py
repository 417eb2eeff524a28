"""What LangGraph streams, as events of the event streaming protocol: all channels, and graphs inside at any depth.

The root's own lifecycle is not told here: whoever shows the events knows when the run has begun and how it ended.
"""

import time
import warnings
from collections.abc import AsyncGenerator, Callable
from typing import Any

from .emitter import INTERRUPT, Namespace, task_event
from .plain import HIDDEN, clean, encode, shallow, shown_error

MODES = ("checkpoints", "custom", "messages", "tasks", "tools", "updates", "values")
NEEDED = "event_streaming: the project's langgraph has no event streaming; 1.2.22 or newer is needed"
EVENTS = {"started": "started", "completed": "completed", "failed": "failed"}
"""How LangGraph calls what becomes of a graph inside; all others have been interrupted."""
Emit = Callable[[str, bytes, dict[str, Any]], None]


class TooOld(RuntimeError):
    """LangGraph does not have the protocol; the text is for whoever asked for it."""


class ProtocolEmitter:
    """Turns the events of one run into the protocol's: a method, data as JSON, and where it comes from."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._asked: set[str] = set()
        self._open: dict[Namespace, str] = {}  # graphs inside that are at work, and their names

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
                self._tell("tools", tool_event(data), namespace)
            case "lifecycle":
                self._take_lifecycle(namespace, data)
            case "checkpoints":
                point = checkpoint(data)
                self._tell(
                    "checkpoints", point, namespace, key=f"checkpoint|{joined(namespace)}|{point['id']}"
                )
            case "tasks":
                self._tell("tasks", task_event(data), namespace)
            case "custom":
                self._tell("custom", {"payload": data}, namespace)
            case _:  # of a transformer of the project's own
                name = method.removeprefix("custom:")
                self._tell("custom", {"name": name, "payload": data}, namespace)

    def close(self, event: str) -> None:
        """Tell of graphs inside that are still at work what became of them, the deepest first."""
        for namespace in sorted(self._open, key=len, reverse=True):
            self._tell_of_graph(namespace, {"event": event, "graph_name": self._open[namespace]})
        self._open.clear()

    def _take_updates(self, namespace: Namespace, data: Any) -> None:
        for node, values in (data if isinstance(data, dict) else {}).items():
            if node == INTERRUPT:
                self._ask(namespace, values)
            else:
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
        if getattr(message, "type", "") == "ai":
            from langchain_core.language_models._compat_bridge import message_to_events

            for part in message_to_events(message, message_id=message.id):
                self._tell("messages", part, namespace, node=node)

    def _take_lifecycle(self, namespace: Namespace, data: dict[str, Any]) -> None:
        inside = tuple(data.get("namespace") or namespace)
        if not inside:
            return
        event = EVENTS.get(data["event"], "interrupted")
        name = data.get("graph_name") or self._open.get(inside) or inside[-1].partition(":")[0]
        told = {"event": event, "graph_name": name}
        if data.get("cause"):
            told["cause"] = data["cause"]
        if data.get("error"):
            told["error"] = shown_error(data["error"])
        if event == "started":
            self._open[inside] = name
        elif self._open.pop(inside, None) is None:
            return  # it was told already
        self._tell_of_graph(inside, told)

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
    graph: Any, given: Any, config: dict[str, Any], options: dict[str, Any], emitter: ProtocolEmitter
) -> AsyncGenerator[Any, None]:
    """LangGraph's events of a run, which the caller hands to the emitter; tasks go there by themselves.

    Raises what the graph raises, and TooOld.
    """
    with warnings.catch_warnings():
        # That it is experimental, at each run.
        warnings.filterwarnings("ignore", message=".*v3 streaming protocol.*")
        stream = await graph.astream_events(
            given, config, version="v3", transformers=[tap_of(emitter)], **options
        )
    async with stream:
        async for event in stream:
            yield event


def tap_of(emitter: ProtocolEmitter) -> Callable[[Namespace], Any]:
    """What makes LangGraph stream in all modes, and takes tasks, which nobody else lets through. Raises TooOld."""
    try:
        from langgraph.stream import StreamTransformer
    except ImportError:
        raise TooOld(NEEDED) from None

    class Tap(StreamTransformer):
        required_stream_modes = MODES

        def init(self) -> dict[str, Any]:
            return {}

        def process(self, event: Any) -> bool:
            # Each graph inside has a tap of its own, and the root's sees everything.
            if event["method"] == "tasks" and not self.scope:
                emitter.take(event)
            return True

    return Tap


def without_interrupts(data: Any) -> Any:
    """The state without what it asks, which has an event of its own."""
    if isinstance(data, dict) and INTERRUPT in data:
        return {name: value for name, value in data.items() if name != INTERRUPT}
    return data


def normal(value: Any) -> Any:
    """An object as the protocol shows it: messages have a form of their own."""
    kind = getattr(value, "type", None)
    if isinstance(kind, str) and hasattr(value, "content") and hasattr(value, "response_metadata"):
        return message_of(value)
    return shallow(value)


def message_of(message: Any) -> dict[str, Any]:
    """A message without what only providers know."""
    told = {"type": message.type, "content": message.content, "id": message.id}
    for name in ("name", "response_metadata"):
        if value := getattr(message, name, None):
            told[name] = value
    if message.type == "tool":
        told |= {"tool_call_id": message.tool_call_id, "status": message.status}
    for name in ("tool_calls", "usage_metadata"):
        if message.type == "ai" and (value := getattr(message, name, None)):
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


def tool_event(data: dict[str, Any]) -> dict[str, Any]:
    """What a tool does; why it failed is text of an exception nobody knows any more, and may hold secrets."""
    return {**data, "message": HIDDEN} if data.get("event") == "tool-error" else data


def joined(namespace: Namespace) -> str:
    """A namespace as it stands in the id of an event."""
    return "\0".join(clean(segment) for segment in namespace)
