"""The log for a process beside the owner of an SQLite ledger: reads the file, sends its appends."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from contracts.codec import EventCodec
from contracts.ledger import StoredTransaction, Transaction
from services.kit.eventlog import BadTransaction, EventLog, LeaseRow, LogUnavailable, WrongExpectedVersion
from services.kit.eventlog.reading import SqliteReader
from services.kit.lifecycle import Part

Request = Callable[[bytes], Awaitable[bytes]]
Outcome = int | WrongExpectedVersion


class AppendAsked(msgspec.Struct, frozen=True, tag="append"):
    """Store these."""

    txs: list[StoredTransaction]


class LeaseAsked(msgspec.Struct, frozen=True, tag="lease"):
    """Take, renew or release (`ttl_s` <= 0) a lease."""

    name: str
    holder: str
    ttl_s: float


class CursorMoved(msgspec.Struct, frozen=True, tag="cursor"):
    """Keep how far a follower has come."""

    name: str
    position: int


Asked = AppendAsked | LeaseAsked | CursorMoved


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of it. A position of 0 is a conflict, told in `conflicts` in the same order."""

    positions: list[int] = []
    conflicts: list[tuple[str, int]] = []
    lease: LeaseRow | None = None
    error: str = ""
    bad: str = ""


_ASKED = msgspec.msgpack.Decoder(Asked)
_ANSWER = msgspec.msgpack.Decoder(Answer)


class RemoteLog(SqliteReader):
    """An EventLog that is owned by another process, and a part. `request` carries bytes there and back."""

    name, failing = "log", ""
    parts: Sequence[Part] = ()

    def __init__(self, path: Path, codec: EventCodec, request: Request) -> None:
        super().__init__(path, codec)
        self._request = request
        self.started = False
        self._callbacks: list[Callable[[int], None]] = []

    async def start(self) -> None:
        """Nothing is held open."""
        self.started = True

    async def stop(self) -> None:
        self.started = False
        self.close_readers()

    async def append(self, tx: Transaction) -> int:
        [outcome] = await self.append_stored([self._codec.stored(tx)])
        if isinstance(outcome, WrongExpectedVersion):
            raise outcome
        return outcome

    async def append_many(self, txs: Sequence[Transaction]) -> list[Outcome]:
        return await self.append_stored([self._codec.stored(tx) for tx in txs])

    async def append_stored(self, txs: Sequence[StoredTransaction]) -> list[Outcome]:
        answer = await self._ask(AppendAsked(list(txs)))
        conflicts = iter(answer.conflicts)
        return [position or _conflict(*next(conflicts)) for position in answer.positions]

    async def renew_lease(self, name: str, holder: str, ttl_s: float) -> LeaseRow | None:
        return (await self._ask(LeaseAsked(name, holder, ttl_s))).lease

    async def move_cursor(self, name: str, position: int) -> None:
        await self._ask(CursorMoved(name, position))

    def on_commit(self, callback: Callable[[int], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback) if callback in self._callbacks else None

    def nudged(self, position: int) -> None:
        """Tell those who wait that the owner has a new position. Call it in the event loop."""
        for callback in tuple(self._callbacks):
            callback(position)

    async def _ask(self, asked: Asked) -> Answer:
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


async def _answer(log: EventLog, asked: Asked) -> Answer:
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
