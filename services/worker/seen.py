"""What listeners have seen of a run's earlier attempts: as much as its next attempt has to set right."""

import time
from uuid import UUID

import msgspec

from contracts.subjects import RUNEV, run_events_subject
from contracts.work import LiveBatch, LiveEvent, Origin
from services.kit.bus.nats import NatsBus
from services.kit.bus.pages import Pages

BEGINNING = b'"message-start"'
Namespace = tuple[str, ...]
_batch_of = msgspec.json.Decoder(LiveBatch).decode
_encode = msgspec.json.Encoder().encode


class _Started(msgspec.Struct):
    event: str = ""
    id: str | None = None


_started = msgspec.json.Decoder(_Started).decode


class Seen:
    """The last state that was streamed in modes, and messages of the protocol that began and never got into a state."""

    def __init__(self) -> None:
        self.values: bytes | None = None
        self._states: dict[Namespace, bytes] = {}
        self._begun: dict[Namespace, list[str]] = {}

    def take(self, event: LiveEvent) -> None:
        """Note an event that was streamed."""
        data, origin = bytes(event.data), event.origin
        if event.event == "values" and origin is None:
            self.values = data
        elif event.event == "values" and origin is not None:
            self._states[origin.namespace] = data
            self._begun.pop(origin.namespace, None)
        elif event.event == "messages" and origin is not None and BEGINNING in data[:100]:
            message_id = _started(data).id
            if message_id is not None:
                self._begun.setdefault(origin.namespace, []).append(message_id)

    def corrections(self) -> list[tuple[bytes, Origin]]:
        """States as they never were, with the messages that a lost attempt had begun; data, and where they belong.

        Clients keep what was streamed of a message until a state has it and the next one has it no more. So they
        would show its beginning for ever, beside the message that the next attempt writes.
        """
        now_ms, told = time.time_ns() // 1_000_000, []
        for namespace, begun in self._begun.items():
            state = msgspec.json.decode(self._states.get(namespace, b"{}"))
            messages = state.get("messages", []) if isinstance(state, dict) else None
            if isinstance(messages, list):
                stubs = [{"type": "ai", "content": "", "id": message_id} for message_id in begun]
                told.append((_encode({**state, "messages": [*messages, *stubs]}), Origin(now_ms, namespace)))
        self._begun.clear()
        return told


async def seen_of(bus: NatsBus, run_id: UUID) -> Seen:
    """What the attempts of a run have streamed, as far as the bus has it."""
    seen = Seen()
    try:
        async for value in Pages(bus, RUNEV.name, run_events_subject(run_id)).rest():
            for event in _batch_of(value.data).events:
                seen.take(event)
    except (ConnectionError, TimeoutError):
        pass
    return seen
