"""The wire form of streams: frames, their ids, and which of them a client wants. Pure."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, get_args

import msgspec

from contracts.api import StreamMode
from contracts.work import LiveBatch, LiveEvent
from domain.errors import InvalidField

MEDIA_TYPE = "text/event-stream"
"""Of streams; the framework adds the charset to every text."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "keep-alive"}
HEARTBEAT = b": heartbeat\r\n\r\n"
ALWAYS = frozenset({"metadata", "error", "feedback", "end"})
"""Events that no choice of modes leaves out."""
MODES: tuple[str, ...] = get_args(StreamMode)
Mark = tuple[int, int]
"""The id of an event as what it means: when its attempt began (ms), and its number."""
BEGINNING: Mark = (-1, 0)


class EventChoice:
    """Which events a client gets, and whether with ids."""

    def __init__(self, modes: Collection[str] = (), *, with_ids: bool = False) -> None:
        self.modes, self.with_ids = frozenset(modes), with_ids
        self._known: dict[str, bool] = {}

    def has(self, event: str) -> bool:
        """Whether the client gets events of that name."""
        known = self._known.get(event)
        if known is None:
            known = self._known[event] = self._wants(event)
        return known

    def _wants(self, event: str) -> bool:
        base = event.partition("|")[0]
        if not self.modes or base in ALWAYS or base in self.modes:
            return True
        if "messages" in self.modes and base.startswith("messages"):
            return True
        return "messages-tuple" in self.modes and base == "messages"


def frames(batch: LiveBatch, events: Iterable[LiveEvent], choice: EventChoice) -> bytes:
    """The frames of some events of a batch, in one piece; their data is JSON already."""
    chosen = [event for event in events if choice.has(event.event)] if choice.modes else events
    if choice.with_ids:
        began = batch.began_ms
        return b"".join(
            [
                b"event: %b\r\ndata: %b\r\nid: %d-%d\r\n\r\n" % (_name(e.event), e.data, began, e.seq)
                for e in chosen
            ]
        )
    return b"".join([b"event: %b\r\ndata: %b\r\n\r\n" % (_name(e.event), e.data) for e in chosen])


def frame(event: str, data: Any) -> bytes:
    """A frame without an id."""
    return b"event: %b\r\ndata: %b\r\n\r\n" % (_name(event), msgspec.json.encode(data))


def mark_of(text: str | None) -> Mark | None:
    """What a Last-Event-ID means; None when there is none. One that names no event of ours: from the first on."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", text)
    return BEGINNING if match is None else (int(match[1]), int(match[2]))


def modes_of(values: Sequence[str]) -> list[str]:
    """The modes of a query: repeated, as JSON array, with commas, or one; none = all. Raises InvalidField."""
    modes: list[str] = []
    for value in values:
        modes += _listed(value)
    for mode in modes:
        if mode not in MODES:
            raise InvalidField(f"stream_mode: '{mode[:100]}' is none of {', '.join(MODES)}")
    return list(dict.fromkeys(modes))


def _listed(value: str) -> list[str]:
    text = value.strip()
    if not text.startswith(("[", '"')):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        decoded = msgspec.json.decode(text, type=list[str] | str)
    except msgspec.MsgspecError:
        raise InvalidField("stream_mode: must be a mode, or a JSON array of modes") from None
    return [decoded] if isinstance(decoded, str) else decoded


def _name(event: str) -> bytes:
    """The name on its line: a node of a graph may be called anything."""
    if "\n" in event or "\r" in event:
        event = re.sub(r"[\r\n]+", " ", event)
    return event.encode()
