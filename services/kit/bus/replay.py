"""What a stream has of one subject, read once: by a consumer of our own that is gone afterwards."""

import asyncio
from collections.abc import Mapping

from services.kit.bus import Msg, RequestTimeout
from services.kit.bus.nats import NatsBus

Message = tuple[Mapping[str, str], bytes]
FORGOTTEN_NS = 10_000_000_000
"""After so long without a listener the server drops a consumer that nobody deleted."""
FLOW = "100"
"""Status of a message that is none: the server asks whether we keep up."""


async def replay(bus: NatsBus, stream: str, subject: str, timeout_s: float) -> list[Message]:
    """Headers and data of the messages that the stream has on the subject now, oldest first.

    The client library's own consumers lose or double messages around reconnects; this one either has all that
    there were when it was made, or raises RequestTimeout. Raises ConnectionError.
    """
    found: list[Message] = []
    collected = asyncio.Event()
    expected = -1

    async def on_msg(msg: Msg) -> None:
        if msg.headers.get("Status") == FLOW:
            await msg.respond(b"")
            return
        found.append((msg.headers, msg.data))
        if len(found) == expected:
            collected.set()

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, on_msg)
    try:
        name, expected = await _consumer(bus, stream, subject, inbox)
        try:
            if len(found) < expected:
                await _within(collected, timeout_s, stream)
        finally:
            await bus.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", b"")
    finally:
        await subscription.unsubscribe()
    return found[:expected]


async def _consumer(bus: NatsBus, stream: str, subject: str, inbox: str) -> tuple[str, int]:
    """The name of a new consumer, and how many messages it will bring."""
    config = {
        "deliver_subject": inbox,
        "deliver_policy": "all",
        "ack_policy": "none",
        "replay_policy": "instant",
        "filter_subject": subject,
        "inactive_threshold": FORGOTTEN_NS,
        "flow_control": True,
        "idle_heartbeat": 5_000_000_000,
        "mem_storage": True,
        "num_replicas": 1,
    }
    answer = await bus.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    if "error" in answer:
        raise ConnectionError(f"{stream}: {answer['error'].get('description')}")
    return answer["name"], int(answer["num_pending"])


async def _within(collected: asyncio.Event, timeout_s: float, stream: str) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await collected.wait()
    except TimeoutError:
        raise RequestTimeout(f"{stream}: not all of it came in {timeout_s:g} s") from None
