"""The log on SQLite: one process owns the file and writes, any may read."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.codec import EventCodec
from contracts.ledger import StoredAppend, StoredTransaction, Transaction
from services.kit.eventlog import LeaseRow, LogUnavailable, WrongExpectedVersion
from services.kit.eventlog.reading import SQL, SqliteReader
from services.kit.eventlog.recorder import open_writer
from services.kit.eventlog.writer import GroupWriter

Outcome = int | WrongExpectedVersion


class SqliteLog(SqliteReader):
    """An EventLog in a file. `start` before the first append, `close` after the last."""

    def __init__(self, path: Path, codec: EventCodec) -> None:
        super().__init__(path, codec)
        self._writer: GroupWriter | None = None
        self._callbacks: list[Callable[[int], None]] = []
        self._last = 0

    async def start(self) -> None:
        """Open the file, making it when it is not there. Raises ForeignLedger."""
        if self._writer is None:
            connection = open_writer(self._path)
            self._last = connection.execute(SQL["head"]).fetchone()[0]
            self._writer = GroupWriter(connection, self._committed)

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()
        self.close_readers()

    async def append(self, tx: Transaction) -> int:
        [outcome] = await self.append_stored([self._codec.stored(tx)])
        if isinstance(outcome, WrongExpectedVersion):
            raise outcome
        return outcome

    async def append_many(self, txs: Sequence[Transaction]) -> list[Outcome]:
        return await self.append_stored([self._codec.stored(tx) for tx in txs])

    async def append_stored(self, txs: Sequence[StoredTransaction]) -> list[Outcome]:
        def work(db: sqlite3.Connection) -> list[Outcome]:
            outcomes = [_store(db, tx) for tx in txs]
            self._last = max([self._last, *(o for o in outcomes if isinstance(o, int))])
            return outcomes

        outcomes: list[Outcome] = await self._owner().do(work)
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

        held: bool = await self._owner().do(work)
        return next((row for row in self.leases(name) if row.name == name), None) if held else None

    async def move_cursor(self, name: str, position: int) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute(SQL["move_cursor"], (name, position))

        await self._owner().do(work)

    def _owner(self) -> GroupWriter:
        if self._writer is None:
            raise LogUnavailable("the log is not open for writing")
        return self._writer

    def _committed(self) -> None:
        for callback in tuple(self._callbacks):
            callback(self._last)


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
