"""The log for a process beside the owner of an SQLite ledger: reads the file, sends its appends."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from contracts.codec import EventCodec
from services.kit.eventlog import BadTransaction, EventLog, LeaseRow, LogUnavailable, WrongExpectedVersion
from services.kit.eventlog.log import LogWriter
from services.kit.eventlog.sqlite import SqliteRecorder
from services.kit.eventlog.works import AppendAsked, CursorMoved, LeaseAsked, Work
from services.kit.lifecycle import Part

Request = Callable[[bytes], Awaitable[bytes]]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of it. A position of 0 is a conflict, told in `conflicts` in the same order."""

    positions: list[int] = []
    conflicts: list[tuple[str, int]] = []
    lease: LeaseRow | None = None
    error: str = ""
    bad: str = ""


_ASKED = msgspec.msgpack.Decoder(Work)
_ANSWER = msgspec.msgpack.Decoder(Answer)


class RemoteLog(LogWriter):
    """An EventLog that is owned by another process, and a part. `request` carries bytes there and back."""

    parts: Sequence[Part] = ()

    def __init__(self, path: Path, codec: EventCodec, request: Request) -> None:
        super().__init__(SqliteRecorder(path), codec)
        self._request = request
        self.started = False

    async def start(self) -> None:
        """Nothing is held open."""
        self.started = True

    async def stop(self) -> None:
        self.started = False
        self.close_readers()

    async def _do(self, work: Work) -> Any:
        answer = await self._ask(work)
        if isinstance(work, AppendAsked):
            conflicts = iter(answer.conflicts)
            return [position or _conflict(*next(conflicts)) for position in answer.positions]
        return answer.lease

    async def _ask(self, asked: Work) -> Answer:
        try:
            data = await self._request(msgspec.msgpack.encode(asked))
            answer = _ANSWER.decode(data)
        except (OSError, TimeoutError, msgspec.DecodeError) as exc:
            raise LogUnavailable(f"the owner of the ledger did not answer: {exc}") from exc
        if answer.bad:
            raise BadTransaction(answer.bad)
        if answer.error:
            raise LogUnavailable(answer.error)
        return answer


def serve_remote(log: EventLog) -> Request:
    """The owner's side: bytes of a request to bytes of its answer."""

    async def serve(data: bytes) -> bytes:
        try:
            answer = await _answer(log, _ASKED.decode(data))
        except BadTransaction as exc:
            answer = Answer(bad=str(exc))
        except (LogUnavailable, msgspec.DecodeError) as exc:
            answer = Answer(error=str(exc))
        return msgspec.msgpack.encode(answer)

    return serve


async def _answer(log: EventLog, asked: Work) -> Answer:
    if isinstance(asked, LeaseAsked):
        return Answer(lease=await log.renew_lease(asked.name, asked.holder, asked.ttl_s))
    if isinstance(asked, CursorMoved):
        await log.move_cursor(asked.name, asked.position)
        return Answer()
    outcomes = await log.append_stored(asked.txs)
    refused = [o for o in outcomes if isinstance(o, WrongExpectedVersion)]
    return Answer(
        positions=[0 if isinstance(o, WrongExpectedVersion) else o for o in outcomes],
        conflicts=[(str(o.stream_id), o.expected) for o in refused],
    )


def _conflict(stream_id: str, expected: int) -> WrongExpectedVersion:
    return WrongExpectedVersion(UUID(stream_id), expected)
