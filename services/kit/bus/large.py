"""Values that are larger than one message: cut into parts, sent in order, joined again."""

import asyncio
import re
from collections.abc import Mapping

from services.kit.bus import Bus, Msg, NoResponders, RequestTimeout

MOST_BYTES = 512 * 1024
"""Of one part; a message may have 1 MB, headers included."""
PART, PARTS = "Part", "Parts"
STATUS = "Status"
NOBODY = "503"


def parts_of(data: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Headers and bytes of the messages that carry `data`, in order; a single one needs no headers."""
    if len(data) <= MOST_BYTES:
        return [({}, data)]
    pieces = [data[start : start + MOST_BYTES] for start in range(0, len(data), MOST_BYTES)]
    return [({PART: str(n), PARTS: str(len(pieces))}, piece) for n, piece in enumerate(pieces, start=1)]


class Joiner:
    """Joins the messages of one sender, which come in the order in which they were sent.

    A value of which a part was lost is dropped; the next one is joined as usual.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._of = 0

    @property
    def is_empty(self) -> bool:
        """True when no part waits for those behind it."""
        return not self._pieces

    def feed(self, headers: Mapping[str, str], data: bytes) -> bytes | None:
        """The whole value when this message completes it, None when there is more to come."""
        number, of = _number(headers.get(PART)), _number(headers.get(PARTS))
        if not number or not of:
            self._drop()
            return data
        if number == 1:
            self._pieces, self._of = [], of
        if number != len(self._pieces) + 1 or of != self._of:
            self._drop()
            return None
        self._pieces.append(data)
        if number < of:
            return None
        whole = b"".join(self._pieces)
        self._drop()
        return whole

    def _drop(self) -> None:
        self._pieces, self._of = [], 0


async def ask(bus: Bus, subject: str, data: bytes, timeout_s: float) -> bytes:
    """The answer of whoever answers with `answer`; the question itself must fit into one message.

    One responder at most may get the question: several share a queue group. Raises NoResponders at once when
    nobody listens, RequestTimeout when the answer is not complete in time, ConnectionError.
    """
    if not bus.connected:
        raise ConnectionError("not connected to NATS")
    joiner, inbox = Joiner(), bus.new_inbox()
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def on_part(msg: Msg) -> None:
        if answered.done():
            return
        if msg.headers.get(STATUS) == NOBODY:
            answered.set_exception(NoResponders(subject))
        elif (whole := joiner.feed(msg.headers, msg.data)) is not None:
            answered.set_result(whole)

    subscription = await bus.subscribe(inbox, on_part)
    try:
        await bus.publish(subject, data, reply=inbox)
        async with asyncio.timeout(timeout_s):
            return await answered
    except TimeoutError:
        raise RequestTimeout(f"{subject}: no whole answer in {timeout_s:g} s") from None
    finally:
        await subscription.unsubscribe()


async def answer(msg: Msg, data: bytes) -> None:
    """Answer a question of `ask`, whatever the size. Raises ConnectionError."""
    for headers, piece in parts_of(data):
        await msg.respond(piece, headers or None)


def _number(text: str | None) -> int:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else 0
