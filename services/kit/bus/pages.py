"""What a stream has on one subject, oldest first, a page at a time: nothing is held here, and nothing on the server."""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from services.kit.bus import Msg, RequestTimeout
from services.kit.bus.large import Joiner
from services.kit.bus.nats import NatsBus

PAGE_BYTES = 1 << 20
"""Of one page, as far as messages allow: a single one that is larger comes all the same."""
PAGE_MESSAGES = 1_000
PAGE_S = 5.0
STATUS, SEQUENCE, BEFORE, AT = "Status", "Nats-Sequence", "Nats-Last-Sequence", "Nats-Time-Stamp"
END, EMPTY = "204", "404"
"""Status of the message behind the last of a page, and of the answer when there is no message any more."""


class Value(msgspec.Struct, frozen=True):
    """A value that was published, of one message or several; `begins` is the sequence of its first one."""

    begins: int
    data: bytes
    at: str  # when the stream took the last one, ISO 8601


class Pages:
    """A reader of one subject of a stream, behind the message of a sequence.

    Asked for by batches of direct gets (ADR-31 of NATS, server 2.11 and newer): unlike a consumer they cost the
    server nothing while the reader is slow, and lose nothing around a reconnect.
    """

    def __init__(self, bus: NatsBus, stream: str, subject: str, behind: int = 0) -> None:
        self._bus, self._stream, self._subject = bus, stream, subject
        self._behind, self._begins, self._joiner = behind, 0, Joiner()

    def rewind(self, behind: int) -> None:
        """Go on behind the message of that sequence."""
        self._behind, self._joiner = behind, Joiner()

    async def next(self) -> list[Value] | None:
        """The values that the next page completes; None when the stream has no more now.

        Raises ConnectionError, TimeoutError: then the same page is to be asked for again.
        """
        messages = await self._page()
        if not messages:
            return None
        values = []
        for msg in messages:
            sequence = int(msg.headers[SEQUENCE])
            if self._joiner.is_empty:
                self._begins = sequence
            whole = self._joiner.feed(msg.headers, msg.data)
            self._behind = sequence
            if whole is not None:
                values.append(Value(self._begins, whole, msg.headers[AT]))
        return values

    async def rest(self) -> AsyncIterator[Value]:
        """Every value that the stream has now, a page in memory at a time. Raises ConnectionError, TimeoutError."""
        while (values := await self.next()) is not None:
            for value in values:
                yield value

    async def _page(self) -> list[Msg]:
        if not self._bus.connected:
            raise ConnectionError("not connected to NATS")
        found: list[Msg] = []
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def on_msg(msg: Msg) -> None:
            status = msg.headers.get(STATUS)
            if status is None:
                found.append(msg)
            elif not done.done():
                done.set_result(status)

        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, on_msg)
        try:
            await self._bus.publish(
                f"$JS.API.DIRECT.GET.{self._bus.js_stream(self._stream)}", self._question(), reply=inbox
            )
            async with asyncio.timeout(PAGE_S):
                status = await done
        except TimeoutError:
            raise RequestTimeout(f"{self._stream}: no page in {PAGE_S:g} s") from None
        finally:
            await subscription.unsubscribe()
        if status == EMPTY:
            return []
        whole = _whole(found)
        if status != END or not whole:
            raise ConnectionError(f"{self._stream}: no page: status {status}, {len(found)} messages")
        return whole

    def _question(self) -> bytes:
        return msgspec.json.encode(
            {
                "seq": self._behind + 1,
                "next_by_subj": self._bus.subject(self._subject),
                "batch": PAGE_MESSAGES,
                "max_bytes": PAGE_BYTES,
            }
        )


def _whole(messages: list[Msg]) -> list[Msg]:
    """The messages up to the first that did not come: each names the one before it, the first of a page none."""
    last = 0
    for n, msg in enumerate(messages):
        if int(msg.headers[BEFORE]) != last:
            return messages[:n]
        last = int(msg.headers[SEQUENCE])
    return messages
