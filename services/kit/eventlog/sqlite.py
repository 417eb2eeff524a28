"""The log on SQLite: one process owns the file and writes, any may read."""

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from contracts.codec import EventCodec
from contracts.ledger import StoredAppend, StoredTransaction, Transaction
from services.kit.eventlog import BadTransaction, LeaseRow, WrongExpectedVersion
from services.kit.eventlog.reading import SQL, SqliteReader
from services.kit.eventlog.recorder import open_writer
from services.kit.eventlog.writer import GroupWriter
from services.kit.lifecycle import Part
from services.kit.reads import read

Outcome = int | WrongExpectedVersion


MOST_BYTES = 512 << 20
"""Of one event or large value; SQLite refuses 1e9, and would take the whole batch with it."""


class SqliteLog(SqliteReader):
    """An EventLog in a file, and a part: `start` before the first append, `stop` after the last."""

    name, failing = "log", ""

    def __init__(self, path: Path, codec: EventCodec) -> None:
        super().__init__(path, codec)
        self._writer = GroupWriter(partial(open_writer, path), self._committed)
        self.parts: Sequence[Part] = (self._writer,)
        self._callbacks: list[Callable[[int], None]] = []

    @property
    def started(self) -> bool:
        """True while it takes appends."""
        return self._writer.started

    async def start(self) -> None:
        """Open the file, making it when it is not there. Raises ForeignLedger."""
        await self._writer.start()

    async def stop(self) -> None:
        """Write what is queued, and close: readers first, because only a writer may leave one file behind."""
        self.close_readers()
        await self._writer.stop()
        self.close_readers()

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

        def work(db: sqlite3.Connection) -> list[Outcome]:
            return [_store(db, tx) for tx in txs]

        outcomes: list[Outcome] = await self._writer.do(work)
        return outcomes

    def on_commit(self, callback: Callable[[int], None]) -> Callable[[], None]:
        self._callbacks.append(callback)

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop

    async def renew_lease(self, name: str, holder: str, ttl_s: float) -> LeaseRow | None:
        now = self.clock().timestamp()

        def work(db: sqlite3.Connection) -> bool:
            if ttl_s <= 0:
                db.execute(SQL["drop_lease"], (name, holder))
                return False
            cursor = db.execute(SQL["take_lease"], (name, holder, now + ttl_s, now))
            return cursor.rowcount == 1

        held: bool = await self._writer.do(work)
        rows = await read(self, lambda: self.leases(name)) if held else []
        return next((row for row in rows if row.name == name), None)

    async def move_cursor(self, name: str, position: int) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute(SQL["move_cursor"], (name, position))

        await self._writer.do(work)

    def _committed(self, results: list[Any]) -> None:
        stored = [
            o for outcomes in results if isinstance(outcomes, list) for o in outcomes if isinstance(o, int)
        ]
        for callback in tuple(self._callbacks) if stored else ():
            callback(max(stored))


def _store(db: sqlite3.Connection, tx: StoredTransaction) -> Outcome:
    """Look first, then write: a transaction that does not fit leaves no trace in the batch."""
    conflict = _conflict(db, tx)
    if conflict is not None:
        return conflict
    position = 0
    for append in tx.appends:
        position = _insert(db, append) or position
    for blob in tx.blobs:
        db.execute(SQL["keep_blob"], (blob.sha256, blob.data))
    return position


def _conflict(db: sqlite3.Connection, tx: StoredTransaction) -> WrongExpectedVersion | None:
    wanted = [(append.stream_id, append.expected_version) for append in tx.appends]
    wanted += [(expect.stream_id, expect.version) for expect in tx.expects]
    for stream_id, version in wanted:
        if db.execute(SQL["version"], (stream_id.bytes,)).fetchone()[0] != version:
            return WrongExpectedVersion(stream_id, version)
    return None


def _insert(db: sqlite3.Connection, append: StoredAppend) -> int:
    position = 0
    for version, (topic, state) in enumerate(append.events, start=append.expected_version + 1):
        row = (append.stream_id.bytes, version, topic, state)
        position = db.execute(SQL["append"], row).lastrowid or 0
    return position


def _refuse_bad(tx: StoredTransaction) -> None:
    """Before it is queued: in the batch it would be found by the database, after others."""
    streams = [append.stream_id for append in tx.appends]
    if len(set(streams)) < len(streams):
        raise BadTransaction(f"a stream stands twice in one transaction: {streams}")
    sizes = [len(state) for append in tx.appends for _, state in append.events]
    if max([0, *sizes, *(len(blob.data) for blob in tx.blobs)]) > MOST_BYTES:
        raise BadTransaction(f"a value of over {MOST_BYTES} bytes can't be stored")
