"""The store in an SQLite file."""

import asyncio
import contextlib
import math
import operator
import sqlite3
from array import array
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import aiosqlite
from langgraph.store.base import GetOp, Op, PutOp, Result, SearchOp
from langgraph.store.sqlite.aio import AsyncSqliteStore

from ..checkpoints.sqlite import BUSY_S, alone, whole_transaction
from . import Store, index_of, ttl_of

TRIES = 20


class VectorsInPython(sqlite3.Connection):
    """For a Python whose sqlite3 loads no extensions: the one function that LangGraph wants of sqlite-vec.

    Slower, and the same answers: the store looks at every vector below a prefix in either case.
    """

    def enable_load_extension(self, enable: bool, /) -> None:
        return

    def load_extension(self, name: str, /, *, entrypoint: str | None = None) -> None:
        self.create_function("vec_distance_cosine", 2, cosine_distance, deterministic=True)


def cosine_distance(left: bytes, right: bytes) -> float | None:
    """From 0 (same direction) to 2 (opposite) for two vectors of 32-bit floats; None when one is zero."""
    a, b = array("f", left), array("f", right)
    lengths = math.hypot(*a) * math.hypot(*b)
    return 1.0 - sum(map(operator.mul, a, b)) / lengths if lengths else None


CONNECTION = sqlite3.Connection if hasattr(sqlite3.Connection, "enable_load_extension") else VectorsInPython


class Statements(list[tuple[str, Any]]):
    """A cursor that only notes what it is to do."""

    async def execute(self, query: str, params: Any = ()) -> None:
        """Note the statement."""
        self.append((query, params))


class SqliteStore(Store, AsyncSqliteStore):
    """The store of all children of a host, in one file."""

    path = ""

    @classmethod
    async def opened(cls, settings: dict[str, Any]) -> "SqliteStore":
        """The store of that file. Raises CannotLoad."""
        path = settings["path"]
        connection = await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_S, factory=CONNECTION)
        store = cls(connection, index=index_of(settings.get("index")), ttl=ttl_of(settings.get("ttl")))
        store.path = path
        with alone(path):
            await connection.execute("PRAGMA journal_mode=WAL")
            await store.setup()
        await store.start_ttl_sweeper()
        return store

    async def close(self) -> None:
        """Leave the file in good order: whoever closes it last leaves one file."""
        with alone(self.path):
            await self.conn.close()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Answer and do the operations: first those that read, then those that write.

        Apart, because SQLite lets no transaction write that has read what another process then changed.
        """
        ops = list(ops)
        results: list[Result] = [None] * len(ops)
        for kinds in ((GetOp,), (SearchOp,), (PutOp,), ()):
            mine = [i for i, op in enumerate(ops) if _is_of(op, kinds)]
            if mine:
                for i, result in zip(mine, await self._tried([ops[i] for i in mine]), strict=True):
                    results[i] = result
        return results

    @contextlib.asynccontextmanager
    async def _cursor(self, *, transaction: bool = True) -> AsyncIterator[aiosqlite.Cursor]:
        # No transaction over several steps of the loop, whatever LangGraph asks for: while a node blocks the loop,
        # it would hold the store of every other process.
        async with super()._cursor(transaction=False) as cursor:
            yield cursor

    async def _batch_put_ops(self, put_ops: Sequence[tuple[int, PutOp]], cur: aiosqlite.Cursor) -> None:
        gathered = Statements()
        await super()._batch_put_ops(put_ops, gathered)  # type: ignore[arg-type]

        def whole() -> None:
            with whole_transaction(self.conn._conn):
                for statement in gathered:
                    self.conn._conn.execute(*statement)

        # Not public, and the only way to its thread for more than one statement.
        await self.conn._execute(whole)  # type: ignore[no-untyped-call]

    async def _tried(self, ops: list[Op]) -> list[Result]:
        for _ in range(TRIES):
            try:
                return await super().abatch(ops)
            except (sqlite3.OperationalError, ValueError) as exc:
                if "database is locked" not in str(exc):
                    raise
                await asyncio.sleep(0.01)
        return await super().abatch(ops)


def _is_of(op: Op, kinds: tuple[type, ...]) -> bool:
    return isinstance(op, kinds) if kinds else not isinstance(op, GetOp | SearchOp | PutOp)
