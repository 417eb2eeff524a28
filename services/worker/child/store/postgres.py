"""The store in the schema `graphs` of a PostgreSQL database, made by `services.worker.graphs_schema`."""

import contextlib
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from langgraph.store.base import Op, Result
from langgraph.store.postgres.aio import AsyncPostgresStore
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row

from ..checkpoints.postgres import Connections, connections, is_odd, persistent
from . import Store, index_of, ttl_of

CONNECTIONS = 2
ONLY_HERE = ("ann_index_config", "distance_type")
"""Of an index: what PostgreSQL can be told of it."""


class PostgresStore(Store, AsyncPostgresStore):
    """The store on a database."""

    conn: Any  # Connections

    def __init__(self, connections: Connections, index: Any, ttl: Any) -> None:
        AsyncPostgresStore.__init__(self, connections, index=index, ttl=ttl)  # type: ignore[arg-type]

    @classmethod
    async def opened(cls, url: str, settings: dict[str, Any]) -> "PostgresStore":
        """The store of that database. Raises CannotLoad."""
        given = settings.get("index")
        index, ttl = index_of(given), ttl_of(settings.get("ttl"))
        if index is not None:
            index |= {name: given[name] for name in ONLY_HERE if given and name in given}
        table = "store" if index is None else "store_vectors"
        store = cls(await connections(url, CONNECTIONS, f"SELECT FROM {table} LIMIT 1"), index, ttl)
        await store.start_ttl_sweeper()
        return store

    async def close(self) -> None:
        await self.stop_ttl_sweeper()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(BaseException):
                await self._task
        await self.conn.close()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Answer and do the operations, all or none; again when others' came in between. Raises Unreachable."""
        ops, batch = list(ops), super().abatch
        return await persistent(lambda: batch(ops))

    @contextlib.asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        """As LangGraph's, on connections of ours."""
        async with self.conn.connection() as connection:
            async with connection.pipeline() if pipeline else contextlib.nullcontext():
                async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
                    yield cursor

    async def aput(
        self, namespace: tuple[str, ...], key: str, value: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Keep a value. Raises ValueError for one that JSON in PostgreSQL can't hold."""
        must_fit(namespace, key, value)
        await super().aput(namespace, key, value, *args, **kwargs)

    def put(
        self, namespace: tuple[str, ...], key: str, value: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """The same, from a thread."""
        must_fit(namespace, key, value)
        super().put(namespace, key, value, *args, **kwargs)


def must_fit(namespace: tuple[str, ...], key: str, value: Any) -> None:
    """Raises ValueError for what the database can't hold, before it is in one batch with what others put."""
    for name, given in (("namespace", list(namespace)), ("key", key), ("value", value)):
        if why := unfit(given):
            raise ValueError(f"{name}: {why}")


def unfit(value: Any) -> str:
    """Why `jsonb` can't hold the value, '' when it can."""
    if isinstance(value, Mapping):
        return next((why for pair in value.items() for one in pair if (why := unfit(one))), "")
    if isinstance(value, list | tuple):
        return next((why for one in value if (why := unfit(one))), "")
    if not is_odd(value):
        return ""
    if isinstance(value, float):
        return f"{value if math.isnan(value) else 'an infinite number'} is no JSON"
    if "\0" in value:
        return "has the character NUL (\\u0000), which PostgreSQL can't hold"
    return "has half of a character (a lone surrogate), which PostgreSQL can't hold"
