"""The checkpoints in the schema `graphs` of a PostgreSQL database, made by `services.worker.graphs_schema`.

Each operation is one implicit transaction of a connection of its own: no lock of this process is held meanwhile, and
what a pool hands out it hands out once.
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
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

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
Pool = AsyncConnectionPool[AsyncConnection[DictRow]]
T = TypeVar("T")


async def pool_of(url: str, name: str, size: int = CONNECTIONS) -> Pool:
    """Connections to that database. Raises CannotLoad."""
    # The pool tells nobody why it has no connection: asked once without it.
    try:
        await (await AsyncConnection.connect(url)).close()
    except psycopg.Error as exc:
        raise CannotLoad(f"the database of the graphs: {first_line(exc)}") from None
    # It warns of each write that was refused; whoever wrote is told.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool: Pool = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=size,
        open=False,
        name=name,
        kwargs=settings,
        timeout=PATIENCE_S,
        reconnect_timeout=1.0,
    )
    await pool.open()
    return pool


def first_line(exc: BaseException) -> str:
    """What is wrong; the other lines say where in which statement."""
    return (str(exc).splitlines() or [type(exc).__name__])[0]


async def persistent(url: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do it, and once more when its connection was lost: twice must be harmless. Raises Unreachable."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_S
    while True:
        try:
            return await work()
        except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
            if not is_lost(exc):
                raise
            if loop.time() > until:
                raise Unreachable(await why(url, exc)) from None
        await asyncio.sleep(AGAIN_S)


def is_lost(exc: psycopg.Error) -> bool:
    """Whether it was the connection, or a deadlock, and not what was asked."""
    if isinstance(exc, errors.QueryCanceled | errors.LockNotAvailable):
        return False
    # Class 57P: the server ends; 53300: too many connections; 40: the whole may be tried again.
    state = exc.sqlstate or ""
    return not state or state.startswith(("57P", "40", "08", "53"))


async def why(url: str, exc: BaseException) -> str:
    """What is wrong with the database, asked of itself when only a pool has spoken."""
    if isinstance(exc, PoolTimeout):
        try:
            await (await AsyncConnection.connect(url)).close()
        except psycopg.Error as told:
            exc = told
    return f"the database of the graphs does not answer: {first_line(exc)}"


class PostgresSaver(Saver, AsyncPostgresSaver):
    """The saver on a database."""

    conn: Pool

    def __init__(self, pool: Pool, url: str) -> None:
        AsyncPostgresSaver.__init__(self, pool)
        self.remember()
        self._url = url

    @classmethod
    async def opened(cls, url: str) -> "PostgresSaver":
        """The saver of that database. Raises CannotLoad when it can't be used."""
        pool = await pool_of(url, "checkpoints")
        saver = cls(pool, url)
        try:
            newest = await saver._one("SELECT max(v) FROM checkpoint_migrations")
        except psycopg.Error as exc:
            await pool.close()
            raise CannotLoad(
                f"the database of the graphs: {first_line(exc)}; run `cronledger migrate`"
            ) from None
        if newest is None or newest < len(cls.MIGRATIONS) - 1:
            await pool.close()
            raise CannotLoad(
                f"the database of the graphs is at version {newest} of langgraph-checkpoint-postgres, and the"
                f" project's has {len(cls.MIGRATIONS) - 1}: run `cronledger migrate` with a newer one"
            )
        return saver

    async def close(self) -> None:
        await self.conn.close()

    # --- what a database does -----------------------------------------------------------------------

    async def written(self, claim: Claim, write: Callable[[], Awaitable[T]]) -> T:
        FENCE.set(claim)  # in this task alone
        try:
            return await persistent(self._url, write)
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
        return await persistent(self._url, lambda: self._one(query, thread_id))

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
        return await persistent(self._url, lambda: get(config))

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
        return await self.shielded(persistent(self._url, lambda: self._one(query, *parameters)))

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
