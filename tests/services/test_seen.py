"""What a run's next attempt sets right of what was streamed before it."""

import json
from typing import Any
from uuid import UUID

import msgspec
import pytest

from contracts.subjects import run_events_subject
from contracts.work import LiveEvent, Origin
from services.kit.bus.nats import NatsBus
from services.worker.feed import Feed, FeedSource
from services.worker.seen import Seen, seen_of
from tests.services.live_bench import BEGAN, emitted, stored


def event(seq: int, method: str, data: Any, *namespace: str) -> LiveEvent:
    return LiveEvent(seq, method, msgspec.Raw(json.dumps(data).encode()), Origin(1, namespace))


def started(seq: int, message_id: str, *namespace: str) -> LiveEvent:
    return event(seq, "messages", {"event": "message-start", "role": "ai", "id": message_id}, *namespace)


def told(seen: Seen) -> dict[tuple[str, ...], Any]:
    return {origin.namespace: json.loads(data) for data, origin in seen.corrections()}


def test_messages_that_no_state_has_are_taken_back() -> None:
    seen = Seen()
    human = {"type": "human", "content": "hello", "id": "h"}
    seen.take(event(1, "values", {"messages": [human], "more": 1}))
    seen.take(started(2, "a"))
    seen.take(event(3, "messages", {"event": "content-block-delta", "delta": {"text": '"message-start"'}}))
    seen.take(started(4, "inside", "node:1"))
    stub = {"type": "ai", "content": "", "id": "a"}
    assert told(seen) == {
        (): {"messages": [human, stub], "more": 1},
        ("node:1",): {"messages": [{"type": "ai", "content": "", "id": "inside"}]},
    }
    assert told(seen) == {}


@pytest.mark.parametrize("state", [{"messages": []}, {"messages": [{"id": "a"}]}])
def test_a_state_settles_what_was_begun(state: Any) -> None:
    seen = Seen()
    seen.take(started(1, "a"))
    seen.take(event(2, "values", state))
    assert told(seen) == {}


@pytest.mark.parametrize("state", [[1], "text", {"messages": "none of ours"}])
def test_states_of_another_form_are_left_alone(state: Any) -> None:
    seen = Seen()
    seen.take(event(1, "values", state))
    seen.take(started(2, "a"))
    assert told(seen) == {}


async def test_the_next_attempt_begins_with_it(bus: NatsBus) -> None:
    """On another worker too, which finds it in the stream."""
    run_id = UUID(int=7)
    first = Feed(bus, FeedSource(run_id=run_id, attempt=1, began_ms=BEGAN))
    first.emit(
        msgspec.structs.replace(emitted(run_id, 1, "messages"), data=started(1, "a").data, origin=Origin(1))
    )
    await first.flushed()
    await stored(bus, run_id, 2)
    seen = await seen_of(bus, run_id)
    sent: list[bytes] = []

    async def hear(msg: Any) -> None:
        sent.append(msg.data)

    await bus.subscribe(run_events_subject(run_id), hear)
    second = Feed(bus, FeedSource(run_id=run_id, attempt=2, began_ms=BEGAN + 1, seen=seen))
    await second.flushed()
    await bus.client.flush()
    events = [one for data in sent for one in json.loads(data)["events"]]
    assert [one["event"] for one in events] == ["metadata", "values"]
    assert events[1]["data"]["messages"] == [{"type": "ai", "content": "", "id": "a"}]
