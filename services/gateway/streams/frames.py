"""Streams of a run on the wire: frames, their ids, and which of them a client wants. Pure."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, get_args

import msgspec

from contracts.api import StreamMode
from contracts.work import LiveEvent
from domain.errors import InvalidField
from services.gateway.streams.channel import BEGINNING, Mark
from services.gateway.streams.cursor import Events, Gap
from services.gateway.streams.outcomes import Outcome

MEDIA_TYPE = "text/event-stream"
"""Of streams; the framework adds the charset to every text."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "keep-alive"}
HEARTBEAT = b": heartbeat\r\n\r\n"
ALWAYS = frozenset({"metadata", "error", "feedback", "gap", "end"})
"""Events that no choice of modes leaves out."""
MODES: tuple[str, ...] = get_args(StreamMode)
TAPE_MODES = ("run_modes", "lifecycle", "state_update")
PROTOCOL_MODES = frozenset({"values", "updates", "custom", "tasks", "checkpoints"})
"""What is shown here of a run that streams by the event streaming protocol, whose messages have another form."""


class EventChoice:
    """Which events a client gets, and whether with ids."""

    def __init__(self, modes: Collection[str] = (), *, with_ids: bool = False) -> None:
        self.modes, self.with_ids = frozenset(modes), with_ids
        self._known: dict[str, bool] = {}

    @property
    def key(self) -> tuple[frozenset[str], bool]:
        """What is equal for clients that get the same frames."""
        return self.modes, self.with_ids

    def has(self, event: str) -> bool:
        """Whether the client gets events of that name."""
        known = self._known.get(event)
        if known is None:
            known = self._known[event] = self._wants(event)
        return known

    def _wants(self, event: str) -> bool:
        base = event.partition("|")[0]
        if not base:
            return False
        if not self.modes or base in ALWAYS or base in self.modes:
            return True
        if "messages" in self.modes and base.startswith("messages"):
            return True
        return "messages-tuple" in self.modes and base == "messages"


def of_events(step: Events, choice: EventChoice) -> bytes:
    """The frames of some events of a batch, in one piece; their data is JSON already."""
    batch = step.batch
    if step.some is not None:
        return _frames(batch.batch.began_ms, step.some, choice)
    if (known := batch.shown.get(choice.key)) is None:
        known = batch.shown[choice.key] = _frames(batch.batch.began_ms, batch.batch.events, choice)
    return known


def behind(step: Events, mark: Mark) -> Events | None:
    """The events of a step that are behind a place; None when there are none."""
    began, events = step.batch.batch.began_ms, step.some or step.batch.batch.events
    some = [event for event in events if (began, event.seq) > mark]
    if len(some) == len(step.batch.batch.events):
        return step
    return Events(step.batch, some) if some else None


def of_gap(gap: Gap, choice: EventChoice) -> bytes:
    """That events are missing: behind which one and before which other, by their ids; null: up to the end."""
    data = {"behind": _id(gap.behind), "before": None if gap.before is None else _id(gap.before)}
    return frame("gap", data if choice.with_ids else {})


def of_end(outcome: Outcome) -> bytes:
    """The frame that closes the stream of a run."""
    if outcome.status == "error":
        return frame("error", outcome.failure)
    return frame("end", {"status": outcome.status})


def _frames(began: int, events: Iterable[LiveEvent], choice: EventChoice) -> bytes:
    shown = [(name, e) for e in events if choice.has(name := _shown_as(e))]
    if choice.with_ids:
        return b"".join(
            [
                b"event: %b\r\ndata: %b\r\nid: %d-%d\r\n\r\n" % (_name(name), e.data, began, e.seq)
                for name, e in shown
            ]
        )
    return b"".join([b"event: %b\r\ndata: %b\r\n\r\n" % (_name(name), e.data) for name, e in shown])


def _shown_as(event: LiveEvent) -> str:
    """The name of the event here; '' of one that has no form here."""
    if event.origin is None:
        return event.event
    if event.event not in PROTOCOL_MODES:
        return ""
    return "|".join((event.event, *event.origin.namespace))


def _id(mark: Mark) -> str | None:
    return None if mark == BEGINNING else f"{mark[0]}-{mark[1]}"


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


def tape_modes_of(text: str | None) -> frozenset[str]:
    """The modes of a thread's stream, with commas between; none: all events of runs. Raises InvalidField."""
    modes = frozenset(part.strip() for part in (text or "run_modes").split(",") if part.strip())
    for mode in sorted(modes - frozenset(TAPE_MODES)):
        raise InvalidField(f"stream_modes: '{mode[:100]}' is none of {', '.join(TAPE_MODES)}")
    return modes


def tape_mark_of(text: str | None) -> Mark | None:
    """What a Last-Event-ID means on the stream of a thread; None when there is none. Raises InvalidField."""
    mark = mark_of(text)
    if mark == BEGINNING and text not in ("-", "-1", "0"):
        raise InvalidField("last-event-id: must be the id of an event, or - for all that there is")
    return mark


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
