"""Events of the event streaming protocol: their envelopes, numbers and ids, and which of them a client wants. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from contracts.api import EventSubscription
from contracts.work import LiveEvent
from domain.errors import InvalidField
from services.gateway.streams.channel import Batch
from services.gateway.streams.cursor import Ended, Events, Gap
from services.gateway.streams.outcomes import Outcome
from services.gateway.streams.tape import OF_POSITION, Begun, TapeRun, TapeStep

CHANNELS = frozenset(
    {"values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"}
)
CUSTOM = "custom:"
OF_EVENT = 1 << 4
"""An event that was made for modes may become several; their numbers lie between those of events."""
INTERRUPT, REQUESTED = "__interrupt__", "input.requested"
Namespace = tuple[str, ...]
_encode = msgspec.json.Encoder().encode


class _Named(msgspec.Struct):
    name: str | None = None


_named = msgspec.json.Decoder(_Named).decode


class ProtocolEvent(msgspec.Struct, frozen=True):
    """An event as it is sent, and what it is chosen by."""

    seq: int
    method: str
    namespace: Namespace
    name: str  # of custom ones
    text: bytes  # JSON

    @property
    def frame(self) -> bytes:
        """As a server-sent event."""
        return b"event: %b\r\ndata: %b\r\nid: %d\r\n\r\n" % (self.method.encode(), self.text, self.seq)


class ChannelChoice(msgspec.Struct, frozen=True):
    """What a client subscribed to: channels, prefixes of namespaces, and how much deeper than these."""

    channels: frozenset[str]
    namespaces: tuple[Namespace, ...] = ()
    depth: int | None = None

    def has(self, event: ProtocolEvent) -> bool:
        """Whether the client gets it."""
        method = event.method
        channel = "input" if method.startswith("input.") else "lifecycle" if method == "gap" else method
        if channel not in self.channels and not (
            channel == "custom" and CUSTOM + event.name in self.channels
        ):
            return False
        return not self.namespaces or any(self._within(event.namespace, one) for one in self.namespaces)

    def _within(self, namespace: Namespace, prefix: Namespace) -> bool:
        deeper = len(namespace) - len(prefix)
        if deeper < 0 or (self.depth is not None and deeper > self.depth):
            return False
        return all(map(_is_same, namespace, prefix))


def choice_of(given: EventSubscription) -> ChannelChoice:
    """What a client subscribes to. Raises InvalidField."""
    if not given.channels:
        raise InvalidField("channels: must name at least one")
    for channel in given.channels:
        if channel not in CHANNELS and (not channel.startswith(CUSTOM) or channel == CUSTOM):
            known = ", ".join(sorted(CHANNELS))
            raise InvalidField(f"channels: '{channel[:100]}' is none of {known} and custom:<name>")
    namespaces = given.namespaces
    if not isinstance(namespaces, list) or not all(map(_is_namespace, namespaces)):
        namespaces = []
    return ChannelChoice(frozenset(given.channels), tuple(map(tuple, namespaces)), natural(given.depth))


def since_of(given: EventSubscription) -> int:
    """The number up to which the client has everything."""
    return natural(given.since) or 0


def _is_namespace(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(segment, str) for segment in value)


def natural(value: Any) -> int | None:
    """The value if it is a whole number from 0 on, None otherwise."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return value if is_int and value >= 0 else None


class Shape:
    """The events of a tape in the protocol's form, for one client: interrupts are told once, in whatever modes."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    def of(self, step: TapeStep) -> list[ProtocolEvent]:
        """The events of a step."""
        run, what = step
        if run.kind == "state":  # a write from outside, which is no run for anybody
            return []
        match what:
            case Begun():
                self._asked.clear()
                return [_lifecycle(run, "running", run.first, run.began_ms), *_answers(run)]
            case Events():
                return self._new(_of_batch(run, what))
            case Gap():
                return [_gap(run, what)]
            case Ended(outcome=outcome):
                return [_end(run, outcome)]

    def _new(self, events: list[ProtocolEvent]) -> list[ProtocolEvent]:
        if not any(event.method == REQUESTED for event in events):
            return events
        new = list[ProtocolEvent]()
        for event in events:
            if event.method == REQUESTED:
                if event.name in self._asked:
                    continue
                self._asked.add(event.name)
            new.append(event)
        return new


def _lifecycle(
    run: TapeRun, event: str, seq: int, at_ms: int, more: dict[str, str] | None = None
) -> ProtocolEvent:
    data = {"event": event, "graph_name": run.graph_id} | (more or {})
    return _made(seq, _key(run, f"lc||{event}"), "lifecycle", (), at_ms, _encode(data))


def _answers(run: TapeRun) -> list[ProtocolEvent]:
    """That interrupts are answered, for whoever shows them and did not answer."""
    if not run.answered:
        return []
    data = _encode({"interrupt_ids": run.answered})
    return [_made(run.first + 1, _key(run, "input||answered"), "input.answered", (), run.began_ms, data)]


def _end(run: TapeRun, outcome: Outcome) -> ProtocolEvent:
    if outcome.status in ("error", "timeout"):
        failure = outcome.failure or {"error": outcome.status, "message": ""}
        told = {"error": f"{failure['error']}: {failure['message']}"}
        return _lifecycle(run, "failed", run.last, run.ended_ms, told)
    is_whole = outcome.status == "success" and not outcome.asks
    return _lifecycle(run, "completed" if is_whole else "interrupted", run.last, run.ended_ms)


def _gap(run: TapeRun, gap: Gap) -> ProtocolEvent:
    """That events are missing; it has the number of the last of them."""
    before = run.last
    if gap.before is not None:
        before = (gap.began_at * OF_POSITION or run.first) + gap.before[1] * OF_EVENT
    seq = before - 1
    return _made(seq, f"{run.run_id}.gap.{seq}", "gap", (), run.began_ms, b"{}")


def _of_batch(run: TapeRun, step: Events) -> list[ProtocolEvent]:
    """The events of a batch; those of a whole one are made once, however many watch."""
    batch = step.batch
    if step.some is not None:
        return list(_envelopes(run, batch, step.some))
    known: list[ProtocolEvent] | None = batch.shown.get(ProtocolEvent)
    if known is None:
        known = batch.shown[ProtocolEvent] = list(_envelopes(run, batch, batch.batch.events))
    return known


def _envelopes(run: TapeRun, batch: Batch, events: Sequence[LiveEvent]) -> Iterator[ProtocolEvent]:
    at = batch.batch.began_at * OF_POSITION or run.first
    for event in events:
        seq, own = at + event.seq * OF_EVENT, f"{run.run_id}.{batch.batch.attempt}.{event.seq}"
        origin = event.origin
        if origin is None:
            for n, (method, namespace, data, name) in enumerate(_of_modes(event)):
                is_asking = method == REQUESTED
                key = _key(run, f"input|{_joined(namespace)}|{name}") if is_asking else f"{own}.{n}"
                node = "" if is_asking else name
                at_ms = batch.batch.began_ms
                yield _made(seq + n, key, method, namespace, at_ms, _encode(data), name=name, node=node)
            continue
        key = _key(run, origin.key) if origin.key else f"{own}.0"
        name = (_named(event.data).name or "") if event.event == "custom" else origin.key
        yield _made(
            seq,
            key,
            event.event,
            origin.namespace,
            origin.at_ms,
            event.data,
            name=name,
            node=origin.node,
        )


def _made(
    seq: int,
    event_id: str,
    method: str,
    namespace: Namespace,
    at_ms: int,
    data: Any,
    *,
    name: str = "",
    node: str = "",
) -> ProtocolEvent:
    text = (
        b'{"type":"event","event_id":%b,"seq":%d,"method":%b,"params":{"namespace":%b,"timestamp":%d,"data":%b%b}}'
        % (
            _encode(event_id),
            seq,
            _encode(method),
            _encode(namespace),
            at_ms,
            data,
            b',"node":%b' % _encode(node) if node else b"",
        )
    )
    return ProtocolEvent(seq, method, namespace, name, text)


def _key(run: TapeRun, rest: str) -> str:
    """The id of an event that was made of others; clients read the run from it."""
    return f"synth:{run.run_id}:{rest}"


def _is_same(segment: str, wanted: str) -> bool:
    """Whether it is the same part of a namespace; without its colon it stands for all tasks of that node."""
    return segment == wanted or (":" not in wanted and segment.partition(":")[0] == wanted)


def _joined(namespace: Namespace) -> str:
    return "\0".join(namespace)


# --- of runs that stream in modes ------------------------------------------------------------------------

Shown = tuple[str, Namespace, Any, str]
"""Method, namespace, data, and the node of an update or the id of an interrupt."""


def _of_modes(event: LiveEvent) -> Iterator[Shown]:
    """What a run streams that was not started by the protocol, as far as that has a form for it."""
    mode, *namespace = event.event.split("|")
    if mode not in ("values", "updates", "custom", "tasks"):
        return
    data, inside = msgspec.json.decode(event.data), tuple(namespace)
    if mode == "values":
        if isinstance(data, dict):
            yield from _asked(data.pop(INTERRUPT, ()), inside)
        if data != {}:
            yield "values", inside, _plain(data), ""
    elif mode == "updates" and isinstance(data, dict):
        for node, values in data.items():
            if node == INTERRUPT:
                yield from _asked(values, inside)
            else:
                shown = values if isinstance(values, dict) else {"value": values}
                yield "updates", inside, {"node": node, "values": _plain(shown)}, node
    elif mode == "custom":
        yield "custom", inside, {"payload": data}, ""
    else:
        yield "tasks", inside, data, ""


def _asked(interrupts: Any, namespace: Namespace) -> Iterator[Shown]:
    for one in interrupts or ():
        data = {"interrupt_id": one["id"], "payload": one["value"], "value": one["value"]}
        yield REQUESTED, namespace, data, one["id"]


def _plain(value: Any) -> Any:
    """The value with its messages in the protocol's form."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "additional_kwargs" in value and "type" in value and "content" in value:
        return _message(value)
    return {name: _plain(one) for name, one in value.items()}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    left_out = {"additional_kwargs", "example", "invalid_tool_calls"}
    left_out |= set() if message["type"] == "ai" else {"tool_calls", "usage_metadata"}
    return {
        name: value for name, value in message.items() if name not in left_out and value not in (None, {})
    }
