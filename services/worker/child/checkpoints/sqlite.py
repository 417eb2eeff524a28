"""The checkpoints in an SQLite file.

Each transaction is one call of the connection's thread: a node may block the loop at any step of it, and whoever then
held the database open for writing would hold up every other process for as long.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import aiosqlite
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from . import LATE, Claim, Fenced, Place, Saver

BUSY_S = 30.0
ANYBODY = -1
SYNCED = "FULL"
"""How a transaction is committed: on the disk when it returns. SQLite's default."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS cronledger_claims (thread_id TEXT PRIMARY KEY, token INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cronledger_touched (
    thread_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id)
);
CREATE TABLE IF NOT EXISTS cronledger_kept (
    run_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    idx INTEGER NOT NULL,
    channel TEXT NOT NULL,
    type TEXT,
    value BLOB,
    task_path TEXT NOT NULL,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
"""
FENCE = "".join(
    f"""CREATE TEMP TRIGGER IF NOT EXISTS fence_{table} BEFORE INSERT ON main.{table}
    WHEN cronledger_token(NEW.thread_id) NOT IN ({ANYBODY}, coalesce(
        (SELECT token FROM main.cronledger_claims WHERE thread_id = NEW.thread_id), 0))
    BEGIN SELECT RAISE(ABORT, '{LATE}'); END;
    """
    for table in ("checkpoints", "writes")
)
"""Asked by SQLite when it has the write lock: a check before the wait for it would be too early."""
CLAIM_IT = """INSERT INTO cronledger_claims (thread_id, token) VALUES (?, ?)
    ON CONFLICT (thread_id) DO UPDATE SET token = excluded.token WHERE token <= excluded.token"""
WRITES = "thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, value, task_path"
T = TypeVar("T")


class Whole(sqlite3.Connection):
    """A connection whose transactions do not outlive the call that began them.

    Single statements are committed by themselves (`isolation_level=None`), and so are LangGraph's many in one.
    """

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or WholeCursor)


class WholeCursor(sqlite3.Cursor):
    """A cursor of a Whole."""

    def executemany(self, sql: str, parameters: Any, /) -> "WholeCursor":
        if self.connection.in_transaction:
            return super().executemany(sql, parameters)
        with whole_transaction(self.connection):
            return super().executemany(sql, parameters)


@contextlib.contextmanager
def whole_transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. IMMEDIATE: what is read in it is what is written upon."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def alone(path: str) -> Iterator[None]:
    """Set up a database while no other child of the host does: migrations of two at once would collide."""
    descriptor = os.open(path + ".setup", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class SqliteSaver(Saver, AsyncSqliteSaver):
    """The saver on a file."""

    path = ""

    def __init__(self, conn: aiosqlite.Connection) -> None:
        AsyncSqliteSaver.__init__(self, conn)
        self.remember()
        # One write at a time, because the trigger asks for the claim of the one that is under way.
        self._writing = asyncio.Lock()
        self._writer: Claim = None

    @classmethod
    async def opened(cls, path: str) -> "SqliteSaver":
        """The saver of that database file, which it makes when there is none."""
        saver = cls(await aiosqlite.connect(path, timeout=BUSY_S, isolation_level=None, factory=Whole))
        saver.path = path
        with alone(path):
            await saver.setup()
            await saver.conn.executescript(SCHEMA)
        await saver.conn.create_function("cronledger_token", 1, saver._token)
        await saver.conn.executescript(FENCE)
        return saver

    async def close(self) -> None:
        """Leave the file in good order: whoever closes it last leaves one file."""
        with alone(self.path):  # of two that close at the same time none would be the last
            await self.conn.close()

    async def written(self, claim: Claim, write: Callable[[], Awaitable[T]]) -> T:
        async with self._writing:
            self._writer = claim
            try:
                return await write()
            except sqlite3.Error as exc:
                if LATE in str(exc):
                    raise Fenced(LATE) from None
                raise

    async def taken(self, thread_id: str, token: int) -> None:
        # Not synced: a failure of power ends whoever might come late, too; and the next checkpoint syncs it.
        await self._changed(lambda db: _claim(db, thread_id, token), synchronous="NORMAL")

    async def is_used(self, thread_id: str, run_id: str) -> bool:
        ids = {"thread": thread_id, "run": run_id}
        query = """SELECT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = :thread),
            EXISTS (SELECT 1 FROM cronledger_touched WHERE thread_id = :thread AND run_id <> :run)"""
        async with self.lock, self.conn.execute(query, ids) as cursor:
            [(used, kept)] = await cursor.fetchall()

        def change(db: sqlite3.Connection) -> None:
            for table in ("cronledger_touched", "cronledger_kept"):
                db.execute(f"DELETE FROM {table} WHERE thread_id = :thread AND run_id <> :run", ids)

        if kept:
            await self._changed(change)
        return bool(used)

    async def newest_run(self, thread_id: str) -> Any:
        query = """SELECT json_extract(CAST(metadata AS TEXT), '$.run_id') FROM checkpoints
            WHERE thread_id = ? AND checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1"""
        async with self.lock, self.conn.execute(query, (thread_id,)) as cursor:
            row = await cursor.fetchone()
            return None if row is None else row[0]

    async def undo(self, thread_id: str, run_id: str, token: int) -> None:
        ids = {"thread": thread_id, "run": run_id}

        def change(db: sqlite3.Connection) -> None:
            _claim(db, thread_id, token)
            db.execute(
                """DELETE FROM writes WHERE thread_id = :thread AND (
                    (checkpoint_ns, checkpoint_id) IN (
                        SELECT checkpoint_ns, checkpoint_id FROM checkpoints
                        WHERE thread_id = :thread AND json_extract(CAST(metadata AS TEXT), '$.run_id') = :run)
                    OR (checkpoint_ns, checkpoint_id) IN (
                        SELECT checkpoint_ns, checkpoint_id FROM cronledger_touched
                        WHERE thread_id = :thread AND run_id = :run))""",
                ids,
            )
            db.execute(
                """DELETE FROM checkpoints WHERE thread_id = :thread
                AND json_extract(CAST(metadata AS TEXT), '$.run_id') = :run""",
                ids,
            )
            db.execute(
                f"""INSERT INTO writes ({WRITES}) SELECT {WRITES} FROM cronledger_kept
                WHERE thread_id = :thread AND run_id = :run""",
                ids,
            )
            for table in ("cronledger_touched", "cronledger_kept"):
                db.execute(f"DELETE FROM {table} WHERE thread_id = :thread AND run_id = :run", ids)

        await self._changed(change)

    async def forget(self, thread_id: str, token: int, *, fence: bool) -> None:
        tables = ("checkpoints", "writes", "cronledger_touched", "cronledger_kept", "cronledger_claims")

        def change(db: sqlite3.Connection) -> None:
            later = "SELECT 1 FROM cronledger_claims WHERE thread_id = ? AND token > ?"
            if db.execute(later, (thread_id, token)).fetchone() is not None:
                return
            for table in tables:
                db.execute(f"DELETE FROM {table} WHERE thread_id = ?", (thread_id,))
            if fence:
                _claim(db, thread_id, token)

        await self._changed(change)

    async def copy(self, thread_id: str, to_thread_id: str) -> None:
        ids = {"thread": thread_id, "copy": to_thread_id}

        def change(db: sqlite3.Connection) -> None:
            db.execute(
                """INSERT OR IGNORE INTO checkpoints
                    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
                SELECT :copy, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint,
                    CASE WHEN json_extract(CAST(metadata AS TEXT), '$.thread_id') IS NULL THEN metadata
                    ELSE CAST(json_set(CAST(metadata AS TEXT), '$.thread_id', :copy) AS BLOB) END
                FROM checkpoints WHERE thread_id = :thread""",
                ids,
            )
            db.execute(
                f"""INSERT OR IGNORE INTO writes ({WRITES})
                SELECT :copy, {WRITES.partition(", ")[2]} FROM writes WHERE thread_id = :thread""",
                ids,
            )

        await self._changed(change)

    async def keep(self, run_id: str, at: Place, claim: Claim) -> None:
        query = """SELECT json_extract(CAST(metadata AS TEXT), '$.run_id') FROM checkpoints
            WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"""
        async with self.lock, self.conn.execute(query, at) as cursor:
            row = await cursor.fetchone()
        if row is None or row[0] == run_id:
            return  # LangGraph may save a task's writes before the checkpoint that they belong to

        def change(db: sqlite3.Connection) -> None:
            if claim is not None:
                _still_ours(db, *claim)
            _keep_once(db, run_id, at)

        await self._changed(change)

    # --- how ----------------------------------------------------------------------------------------

    def _token(self, thread_id: str) -> int:
        """The token that the write under way has for the thread; ANYBODY's when it has claimed another or none."""
        return self._writer[1] if self._writer is not None and self._writer[0] == thread_id else ANYBODY

    async def _changed(self, change: Callable[[sqlite3.Connection], None], synchronous: str = SYNCED) -> None:
        """Carry out a change of several statements, as nobody's: one that must have the thread claims it first."""

        def whole() -> None:
            db = self.conn._conn
            db.execute(f"PRAGMA synchronous={synchronous}")
            try:
                with whole_transaction(db):
                    change(db)
            finally:
                db.execute(f"PRAGMA synchronous={SYNCED}")

        async def changed() -> None:
            async with self._writing, self.lock:
                self._writer = None
                # Not public, and the only way to its thread for more than one statement.
                await self.conn._execute(whole)  # type: ignore[no-untyped-call]

        # The thread goes on when we are cancelled: so must whatever keeps others from it.
        await self.shielded(changed())


def _claim(db: sqlite3.Connection, thread_id: str, token: int) -> None:
    if db.execute(CLAIM_IT, (thread_id, token)).rowcount == 0:
        raise Fenced(LATE)


def _still_ours(db: sqlite3.Connection, thread_id: str, token: int) -> None:
    query = "SELECT 1 FROM cronledger_claims WHERE thread_id = ? AND token = ?"
    if db.execute(query, (thread_id, token)).fetchone() is None:
        raise Fenced(LATE)


def _keep_once(db: sqlite3.Connection, run_id: str, at: tuple[str, str, str]) -> None:
    cursor = db.execute(
        """INSERT OR IGNORE INTO cronledger_touched (run_id, thread_id, checkpoint_ns, checkpoint_id)
        VALUES (?, ?, ?, ?)""",
        (run_id, *at),
    )
    if cursor.rowcount == 0:
        return  # an earlier attempt came first: what is there now is partly its own
    db.execute(
        f"""INSERT INTO cronledger_kept (run_id, {WRITES}) SELECT ?, {WRITES} FROM writes
        WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?""",
        (run_id, *at),
    )
