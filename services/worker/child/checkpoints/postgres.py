"""The checkpoints in the schema `graphs` of a PostgreSQL database, made by `services.worker.graphs_schema`.

Each operation is one implicit transaction on a connection that nobody else has meanwhile, so that none waits for a lock
of this process.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncConnection, AsyncCursor, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from ..graphs import CannotLoad
from . import LATE, Claim, Fenced, Place, Saver, Unreachable

CONNECTIONS = 4
PATIENCE_S = 10.0
"""How long an operation asks for the database again and again before it is told that there is none."""
AGAIN_S = 0.2
BLOCKED_MS = 5000
"""How long a claim waits for a write that is under way; then the connection of that write is ended."""
LOST = "CL001"
FENCE: ContextVar[Claim] = ContextVar("cronledger_fence", default=None)
"""The claim that the write under way must have."""
T = TypeVar("T")


class Connections:
    """Up to `size` connections to the database, opened when they are needed and none is free.

    Not psycopg's pool: its attempts come further and further apart while the server is away, and whoever waits for it
    is not told why.
    """

    def __init__(self, url: str, size: int = 4) -> None:
        self._url, self._free = url, asyncio.Semaphore(size)
        self._idle: list[AsyncConnection[DictRow]] = []
        self._closed = False

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        """One in autocommit, for this caller alone. Raises psycopg.Error."""
        async with self._free:
            connection = self._idle.pop() if self._idle else await self._opened()
            try:
                yield connection
            finally:
                await self._given_back(connection)

    async def close(self) -> None:
        """Close those that are free, and those in use when they are given back."""
        self._closed = True
        await self._drop()

    async def _opened(self) -> AsyncConnection[DictRow]:
        return await AsyncConnection.connect(
            self._url, autocommit=True, prepare_threshold=0, row_factory=dict_row
        )

    async def _given_back(self, connection: AsyncConnection[DictRow]) -> None:
        if connection.closed:
            await self._drop()  # what ended one has most likely ended all
        elif self._closed or connection.info.transaction_status != TransactionStatus.IDLE:
            await connection.close()
        else:
            self._idle.append(connection)

    async def _drop(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()


async def connections(url: str, size: int, must: str) -> Connections:
    """Connections on which that query can be asked. Raises CannotLoad."""
    # It warns of each write that was refused; whoever wrote is told.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    made = Connections(url, size)
    try:
        async with made.connection() as connection:
            await connection.execute(must.encode())
    except psycopg.OperationalError as exc:
        raise CannotLoad(f"the database of the graphs: {first_line(exc)}") from None
    except psycopg.Error as exc:
        await made.close()
        raise CannotLoad(f"the database of the graphs: {first_line(exc)}; run `cronledger migrate`") from None
    return made


def first_line(exc: BaseException) -> str:
    """What is wrong; the other lines say where in which statement."""
    return (str(exc).splitlines() or [type(exc).__name__])[0]


async def persistent(work: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S) -> T:
    """Do it, and once more when its connection was lost: twice must be harmless. Raises Unreachable."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    while True:
        try:
            return await work()
        except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
            if not is_lost(exc):
                raise
            if loop.time() > until:
                raise Unreachable(f"the database of the graphs does not answer: {first_line(exc)}") from None
        await asyncio.sleep(AGAIN_S)


def is_lost(exc: psycopg.Error) -> bool:
    """Whether it was the connection, or a deadlock, and not what was asked."""
    # Behind an aborted pipeline there is an error of its own, perhaps that the claim is lost.
    if isinstance(exc, errors.QueryCanceled | errors.LockNotAvailable | errors.PipelineAborted):
        return False
    # Class 57P: the server ends; 53300: too many connections; 40: the whole may be tried again.
    state = exc.sqlstate or ""
    return not state or state.startswith(("57P", "40", "08", "53"))


class PostgresSaver(Saver, AsyncPostgresSaver):
    """The saver on a database."""

    conn: Any  # Connections
    patience_s = PATIENCE_S

    def __init__(self, connections: Connections) -> None:
        AsyncPostgresSaver.__init__(self, connections)  # type: ignore[arg-type]
        self.remember()

    @classmethod
    async def opened(cls, url: str) -> "PostgresSaver":
        """The saver of that database. Raises CannotLoad when it can't be used."""
        saver = cls(await connections(url, CONNECTIONS, "SELECT FROM cronledger_claims LIMIT 1"))
        newest = await saver._one("SELECT max(v) FROM checkpoint_migrations")
        if newest < len(cls.MIGRATIONS) - 1:
            await saver.close()
            raise CannotLoad(
                f"the database of the graphs is of version {newest} of langgraph-checkpoint-postgres, and the"
                f" project's is {len(cls.MIGRATIONS) - 1}: run `cronledger migrate` with a newer one"
            )
        return saver

    async def close(self) -> None:
        await self.conn.close()

    # --- what a database does -----------------------------------------------------------------------

    async def written(self, claim: Claim, write: Callable[[], Awaitable[T]]) -> T:
        FENCE.set(claim)  # in this task alone
        try:
            return await self._persistent(write)
        except errors.PipelineAborted:
            # Of a pipeline the first error may be lost: asked by itself.
            if claim is not None:
                await self._one("SELECT cronledger_fence(%s, %s)", *claim)
            raise

    async def taken(self, thread_id: str, token: int) -> None:
        await self._changed("SELECT cronledger_claim(%s, %s, %s)", thread_id, token, BLOCKED_MS)

    async def is_used(self, thread_id: str, run_id: str) -> bool:
        return bool(await self._changed("SELECT cronledger_begin(%s, %s)", thread_id, run_id))

    async def newest_run(self, thread_id: str) -> Any:
        query = """SELECT metadata->>'run_id' FROM checkpoints
            WHERE thread_id = %s AND checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1"""
        return await self._persistent(lambda: self._one(query, thread_id))

    async def undo(self, thread_id: str, run_id: str, token: int) -> None:
        query = "SELECT cronledger_rollback(%s, %s, %s, %s)"
        await self._changed(query, thread_id, run_id, token, BLOCKED_MS)

    async def forget(self, thread_id: str, token: int, *, fence: bool) -> None:
        query = "SELECT cronledger_forget(%s, %s, %s, %s)"
        await self._changed(query, thread_id, token, fence, BLOCKED_MS)

    async def copy(self, thread_id: str, to_thread_id: str) -> None:
        await self._changed("SELECT cronledger_copy(%s, %s)", thread_id, to_thread_id)

    async def keep(self, run_id: str, at: Place, claim: Claim) -> None:
        thread_id, namespace, checkpoint_id = at
        query, token = "SELECT cronledger_keep(%s, %s, %s, %s, %s)", claim and claim[1]
        await self._changed(query, thread_id, run_id, namespace, checkpoint_id, token)

    async def aget_tuple(self, config: Any) -> Any:
        """The checkpoint of the config. Raises Unreachable."""
        get = super().aget_tuple
        return await self._persistent(lambda: get(config))

    # --- how ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        """As LangGraph's, without its lock: a pool hands no connection out twice."""
        claim = FENCE.get() if pipeline else None
        try:
            async with (
                self.conn.connection() as conn,
                conn.pipeline() if pipeline else contextlib.nullcontext(),
            ):
                async with conn.cursor(binary=True, row_factory=dict_row) as cursor:
                    if claim is not None:
                        await cursor.execute("SELECT cronledger_fence(%s, %s)", claim)
                    yield cursor
        except psycopg.Error as exc:
            if exc.sqlstate == LOST:
                raise Fenced(LATE) from None
            raise

    async def _changed(self, query: str, *parameters: Any) -> Any:
        """The answer of a function that changes something; it goes on when we are cancelled."""
        return await self.shielded(self._persistent(lambda: self._one(query, *parameters)))

    async def _persistent(self, work: Callable[[], Awaitable[T]]) -> T:
        return await persistent(work, self.patience_s)

    async def _one(self, query: str, *parameters: Any) -> Any:
        """The first column of the first row, None without one. Raises Fenced."""
        async with self._cursor() as cursor:
            await cursor.execute(query, parameters)
            row = await cursor.fetchone()
        return None if row is None else next(iter(row.values()))

    # --- values that JSON in PostgreSQL can't hold ----------------------------------------------------

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """Save a checkpoint; plain values that `jsonb` refuses (NUL, NaN) go where the large ones are."""
        values = checkpoint["channel_values"]
        if odd := {name: Odd(value) for name, value in values.items() if is_odd(value)}:
            checkpoint = {**checkpoint, "channel_values": {**values, **odd}}
        return await super().aput(config, checkpoint, metadata, new_versions)

    def _dump_blobs(self, thread_id: str, checkpoint_ns: str, values: Any, versions: Any) -> Any:
        plain = {name: value.value if isinstance(value, Odd) else value for name, value in values.items()}
        return super()._dump_blobs(thread_id, checkpoint_ns, plain, versions)


class Odd:
    """A plain value that is to be stored as others are."""

    def __init__(self, value: Any) -> None:
        self.value = value


def is_odd(value: Any) -> bool:
    """Whether it is a text or a number that `jsonb` refuses."""
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))
    if not isinstance(value, str):
        return False
    return "\0" in value or any("\ud800" <= char <= "\udfff" for char in value)
