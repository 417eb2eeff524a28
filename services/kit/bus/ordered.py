"""Publishing in order, each message once: the stream itself remembers how far it is."""

import base64
import json
from collections.abc import Sequence
from uuid import uuid4

from services.kit.bus import Outgoing
from services.kit.bus.nats import NatsBus

MOST = 100
"""Messages in one atomic batch: one sync of the disk for all of them."""
WRONG_SEQUENCE, NO_MESSAGE = 10071, 10037


class OrderedPublisher:
    """Publishes batches behind the stream's newest message; a second publisher is refused by the stream."""

    def __init__(self, bus: NatsBus, stream: str, subjects: str, header: str = "Ledger-Position") -> None:
        self._bus = bus
        self._stream = stream
        self._subjects = subjects
        self._header = header
        self._sequence = 0

    async def resync(self) -> tuple[int, int]:
        """Position and sequence of the stream's newest message, zeros when it is empty. Raises ConnectionError."""
        # The sequence first: whoever publishes between the two questions makes our next batch a refused one.
        # Taken over at the end: what is known of one without the other would let a stale batch through.
        sequence, messages = await self._newest()
        answer = await self._bus.api(
            f"STREAM.MSG.GET.{self._bus.js_stream(self._stream)}",
            {"last_by_subj": self._bus.subject(self._subjects)},
        )
        error = answer.get("error")
        if error is not None:
            # A server that has just come back may not find yet what its stream has.
            if error.get("err_code") == NO_MESSAGE and not messages:
                self._sequence = sequence
                return 0, sequence
            raise ConnectionError(f"{self._stream}: {error.get('description')}")
        message = answer["message"]
        self._sequence = int(message["seq"])  # of the very message whose position we go on from
        return int(_headers(message.get("hdrs", "")).get(self._header, 0)), self._sequence

    async def publish(self, batch: Sequence[Outgoing]) -> bool:
        """Publish all of it; False = somebody else published meanwhile: `resync`, then go on from there.

        Raises ConnectionError when the stream refuses it, RequestTimeout when it does not answer: how much of it
        was stored is not known then, `resync` tells. An id for each message would add nothing: what the
        expected sequence lets through is new, and a batch with a known id would be refused as a whole.
        """
        for start in range(0, len(batch), MOST):
            if not await self._publish(batch[start : start + MOST]):
                return False
        return True

    async def _publish(self, batch: Sequence[Outgoing]) -> bool:
        last = len(batch)
        batch_id = uuid4().hex
        for number, message in enumerate(batch, start=1):
            headers = {**message.headers, self._header: str(message.position)}
            if number == 1:
                headers["Nats-Expected-Last-Sequence"] = str(self._sequence)
            if last > 1:
                headers |= {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
            if number < last:
                await self._bus.publish(message.subject, message.data, headers)
                continue
            if last > 1:
                headers["Nats-Batch-Commit"] = "1"
            answer = await self._bus.request_msg(message.subject, message.data, 5.0, headers)
            return self._accepted(json.loads(answer.data))
        return True

    def _accepted(self, answer: dict[str, object]) -> bool:
        error = answer.get("error")
        if isinstance(error, dict):
            if error.get("err_code") == WRONG_SEQUENCE:
                return False
            raise ConnectionError(f"{self._stream} refuses: {error.get('description')}")
        self._sequence = int(str(answer["seq"]))
        return True

    async def _newest(self) -> tuple[int, int]:
        """The last sequence, and how many messages there are."""
        info = await self._bus.api(f"STREAM.INFO.{self._bus.js_stream(self._stream)}")
        if "error" in info:
            raise ConnectionError(f"{self._stream}: {info['error'].get('description')}")
        return int(info["state"]["last_seq"]), int(info["state"]["messages"])


def _headers(encoded: str) -> dict[str, str]:
    lines = base64.b64decode(encoded).decode().split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
