"""What LangGraph streams, as events of the modes that were asked for."""

from collections.abc import Callable
from typing import Any

from .plain import encode, shown_error, visible, visible_config
from .states import checkpoint_of, interrupts_shown

INTERRUPT = "__interrupt__"
Namespace = tuple[str, ...]
Emit = Callable[[str, bytes], None]


class Emitter:
    """Turns the parts of one run's stream into events: a name, and data as JSON."""

    def __init__(self, modes: list[str], emit: Emit) -> None:
        self._modes, self._emit = frozenset(modes), emit
        self._messages = Messages("messages-tuple" in self._modes, emit)
        self._mappers = {
            "values": interrupted,
            "updates": interrupted,
            "tasks": task_event,
            "checkpoints": checkpoint_event,
            "debug": debug_event,
        }

    @property
    def wants_events(self) -> bool:
        return "events" in self._modes

    def native(self) -> list[str]:
        """The modes to ask LangGraph for; `updates` always, because interrupts come with it."""
        renamed = {"messages" if mode == "messages-tuple" else mode for mode in self._modes}
        return sorted((renamed | {"updates"}) - {"events"})

    def take(self, namespace: Namespace, mode: str, data: Any) -> None:
        """One part of the stream."""
        if mode == "messages":
            self._messages.take(namespace, *data)
        elif mode in self._modes:
            mapper = self._mappers.get(mode)
            self._emit(named(mode, namespace), encode(mapper(data) if mapper else data))
        elif mode == "updates" and isinstance(data, dict) and INTERRUPT in data:
            self._take_interrupt(namespace, data)

    def _take_interrupt(self, namespace: Namespace, data: dict[str, Any]) -> None:
        """An interrupt reaches whoever listens, as `values` when nobody asked for `updates`."""
        if data[INTERRUPT] and "values" in self._modes:
            return  # LangGraph adds it to the values itself; not so a breakpoint, which asks nothing
        self._emit(named("values", namespace), encode(interrupted(data)))

    def take_event(self, event: dict[str, Any]) -> None:
        """One event of LangChain's own kind."""
        if "langsmith:hidden" in (event.get("tags") or ()):
            return
        shown = {**event, "metadata": visible(event.get("metadata"))}
        self._emit("events", encode(shown))


class Messages:
    """Messages while they are written: as chunks (`messages-tuple`), or each as a whole so far (`messages`)."""

    def __init__(self, as_tuples: bool, emit: Emit) -> None:
        self._as_tuples, self._emit = as_tuples, emit
        self._known: dict[str | None, Any] = {}
        self._metadata: tuple[Any, bytes] = (None, b"")

    def take(self, namespace: Namespace, message: Any, metadata: dict[str, Any]) -> None:
        """A chunk, or a whole message that nobody streamed."""
        if self._as_tuples:
            data = b"[" + encode(message) + b"," + self._encoded(metadata) + b"]"
            self._emit(named("messages", namespace), data)
        else:
            self._take_whole(message, metadata)

    def _take_whole(self, message: Any, metadata: dict[str, Any]) -> None:
        from langchain_core.messages import BaseMessageChunk, message_chunk_to_message

        known = self._known.get(message.id)
        if known is None:
            shown = b'{"metadata":' + self._encoded(metadata) + b"}"
            self._emit("messages/metadata", b"{" + encode(message.id) + b":" + shown + b"}")
        if not isinstance(message, BaseMessageChunk):
            self._known[message.id] = message
            self._emit("messages/complete", b"[" + encode(message) + b"]")
            return
        whole = known + message if isinstance(known, BaseMessageChunk) else message
        self._known[message.id] = whole
        self._emit("messages/partial", b"[" + encode(message_chunk_to_message(whole)) + b"]")

    def _encoded(self, metadata: dict[str, Any]) -> bytes:
        """The metadata as JSON; the chunks of a message share one, and mostly come one after the other."""
        if self._metadata[0] is not metadata:
            self._metadata = (metadata, encode(visible(metadata)))
        return self._metadata[1]


def named(event: str, namespace: Namespace) -> str:
    """The event's name with the path of the graph inside that it comes from."""
    return "|".join((event, *namespace)) if namespace else event


def interrupted(data: Any) -> Any:
    """The data with its interrupts as they are shown."""
    if isinstance(data, dict) and INTERRUPT in data:
        return {**data, INTERRUPT: interrupts_shown(data[INTERRUPT])}
    return data


def task_event(data: dict[str, Any]) -> dict[str, Any]:
    """A task that starts, or its result."""
    if "metadata" in data:
        data = {**data, "metadata": visible(data["metadata"])}
    if data.get("error") is not None:
        data = {**data, "error": shown_error(data["error"])}
    return data


def checkpoint_event(data: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint."""
    return {
        **data,
        "config": visible_config(data.get("config")),
        "parent_config": visible_config(data.get("parent_config")),
        "metadata": visible(data.get("metadata")),
        "tasks": [
            {**task_event(task), "state": visible_config(task.get("state"))}
            for task in data.get("tasks") or ()
        ],
    }


def debug_event(data: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint, a task or a task's result, wrapped."""
    payload = data["payload"]
    if data["type"] != "checkpoint":
        return {**data, "payload": task_event(payload)}
    payload = {
        **checkpoint_event(payload),
        "checkpoint": checkpoint_of(payload.get("config")),
        "parent_checkpoint": checkpoint_of(payload.get("parent_config")),
    }
    return {**data, "payload": payload}
