"""The log over a recorder, whichever database it is on."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from eventsourcing.persistence import Notification

from contracts.codec import EventCodec
from contracts.ledger import Recorded, StoredTransaction, Transaction
from services.kit.eventlog import BadTransaction, LeaseRow, WrongExpectedVersion
from services.kit.eventlog.recorder import Committing, Outcome, Reading
from services.kit.eventlog.works import AppendAsked, CursorMoved, LeaseAsked, Work
from services.kit.eventlog.writer import GroupWriter
from services.kit.lifecycle import Part

MOST_BYTES = 512 << 20
"""Of one event or large value: SQLite refuses 1e9 bytes and PostgreSQL 1 GiB, the whole batch with it."""


class LogReader:
    """What the EventLog Protocol asks of reading."""

    def __init__(self, recorder: Reading, codec: EventCodec) -> None:
        self._recorder, self._codec = recorder, codec

    @property
    def is_near(self) -> bool:
        """As the recorder says."""
        return self._recorder.is_near

    def stream(self, stream_id: UUID, after_version: int = 0) -> list[Recorded]:
        return self._decoded(self._recorder.select_events(stream_id, gt=after_version))

    def newest(self, stream_ids: Iterable[UUID]) -> dict[UUID, Recorded]:
        found = self._decoded(self._recorder.select_newest(stream_ids))
        return {recorded.stream_id: recorded for recorded in found}

    def read(self, after: int, limit: int, until: int | None = None) -> list[Recorded]:
        return self._decoded(self.read_raw(after, limit, until))

    def read_topics(self, prefix: str, after: int, until: int, limit: int) -> list[Recorded]:
        return self._decoded(self._recorder.select_topics(prefix, after, until, limit))

    def read_raw(self, after: int, limit: int, until: int | None = None) -> list[Notification]:
        return list(self._recorder.select_notifications(after, limit, until, inclusive_of_start=False))

    def at_positions(self, positions: Sequence[int]) -> list[Recorded]:
        return self._decoded(self._recorder.select_positions(positions))

    def head(self) -> int:
        return self._recorder.max_notification_id() or 0

    def blob(self, sha256: str) -> bytes | None:
        return self._recorder.select_blob(sha256)

    def leases(self, prefix: str) -> list[LeaseRow]:
        return self._recorder.select_leases(prefix)

    def cursor(self, name: str) -> int:
        return self._recorder.select_cursor(name)

    def clock(self) -> datetime:
        return self._recorder.clock()

    def close_readers(self) -> None:
        """Close every connection; the next read opens a new one."""
        self._recorder.close_readers()

    def _decoded(self, stored: Sequence[Notification]) -> list[Recorded]:
        return list(map(self._codec.to_domain_event, stored))


class LogWriter(LogReader):
    """What it asks of writing, over `_do`, which carries out a piece of work."""

    name, failing = "log", ""

    def __init__(self, recorder: Reading, codec: EventCodec) -> None:
        super().__init__(recorder, codec)
        self._callbacks: list[Callable[[int], None]] = []

    async def _do(self, work: Work) -> Any:
        raise NotImplementedError

    async def append(self, tx: Transaction) -> int:
        [outcome] = await self.append_stored([self._codec.stored(tx)])
        if isinstance(outcome, WrongExpectedVersion):
            raise outcome
        return outcome

    async def append_many(self, txs: Sequence[Transaction]) -> list[Outcome]:
        return await self.append_stored([self._codec.stored(tx) for tx in txs])

    async def append_stored(self, txs: Sequence[StoredTransaction]) -> list[Outcome]:
        for tx in txs:
            _refuse_bad(tx)
        outcomes: list[Outcome] = await self._do(AppendAsked(txs))
        return outcomes

    async def renew_lease(self, name: str, holder: str, ttl_s: float) -> LeaseRow | None:
        held: LeaseRow | None = await self._do(LeaseAsked(name, holder, ttl_s))
        return held

    async def move_cursor(self, name: str, position: int) -> None:
        await self._do(CursorMoved(name, position))

    def on_commit(self, callback: Callable[[int], None]) -> Callable[[], None]:
        self._callbacks.append(callback)

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop

    def nudged(self, position: int) -> None:
        """Tell those who wait that there is a new position. Call it in the event loop."""
        for callback in tuple(self._callbacks):
            callback(position)


class Recorder(Committing, Reading, Protocol):
    """A database that reads and writes."""


class RecordedLog(LogWriter):
    """An EventLog in a database, and a part: `start` before the first append, `stop` after the last."""

    def __init__(self, recorder: Recorder, codec: EventCodec) -> None:
        super().__init__(recorder, codec)
        self._writer = GroupWriter(recorder, self._committed)
        self.parts: Sequence[Part] = (self._writer,)

    @property
    def started(self) -> bool:
        """True while it takes appends."""
        return self._writer.started

    async def start(self) -> None:
        """Open it. Raises ForeignLedger and what edges raise."""
        await self._writer.start()

    async def stop(self) -> None:
        """Write what is queued, and close: readers first, because only a writer may leave one file behind."""
        self.close_readers()
        await self._writer.stop()
        self.close_readers()

    async def _do(self, work: Work) -> Any:
        return await self._writer.do(work)

    def _committed(self, results: list[Any]) -> None:
        appended = [outcomes for outcomes in results if isinstance(outcomes, list)]
        if stored := [o for outcomes in appended for o in outcomes if isinstance(o, int)]:
            self.nudged(max(stored))


def _refuse_bad(tx: StoredTransaction) -> None:
    """Before it is queued: in the batch it would be found by the database, after others."""
    streams = [append.stream_id for append in tx.appends]
    if len(set(streams)) < len(streams):
        raise BadTransaction(f"a stream stands twice in one transaction: {streams}")
    sizes = [len(state) for append in tx.appends for _, state in append.events]
    if max([0, *sizes, *(len(blob.data) for blob in tx.blobs)]) > MOST_BYTES:
        raise BadTransaction(f"a value of over {MOST_BYTES} bytes can't be stored")
