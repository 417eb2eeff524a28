"""The long-term memory: LangGraph's SQLite store, the same for nodes and for `/store`."""

import asyncio
import contextlib
import importlib
import importlib.util
import math
import operator
import os
import sqlite3
from array import array
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import aiosqlite
import orjson
from langgraph.store.base import NOT_PROVIDED, GetOp, Op, PutOp, Result, SearchOp
from langgraph.store.sqlite.aio import AsyncSqliteStore

from .checkpoints import BUSY_S, alone, whole_transaction
from .graphs import CannotLoad, last_lines, named
from .refusals import BadQuestion, Unsupported

TTL = {"refresh_on_read": True, "default_ttl": None, "sweep_interval_minutes": 5}
"""Unless the project says otherwise: a single item may have a time to live all the same."""
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


class Store(AsyncSqliteStore):
    """The store of all children of a host, in one file."""

    path = ""

    @classmethod
    async def opened(cls, settings: dict[str, Any]) -> "Store":
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


# --- settings ---------------------------------------------------------------------------------------


def ttl_of(settings: dict[str, Any] | None) -> Any:
    """LangGraph's TTL settings. Raises CannotLoad."""
    unknown = set(settings or {}) - set(TTL)
    if unknown:
        raise CannotLoad(f"store.ttl: unknown: {', '.join(sorted(unknown))}")
    return {**TTL, **(settings or {})}


def index_of(settings: dict[str, Any] | None) -> Any:
    """LangGraph's settings of a vector index; None without one. Raises CannotLoad."""
    if not settings:
        return None
    dims, embed, fields = settings.get("dims"), settings.get("embed"), settings.get("fields") or ["$"]
    if not isinstance(dims, int) or isinstance(dims, bool) or dims < 1:
        raise CannotLoad("store.index.dims: must be a positive integer")
    if not isinstance(embed, str) or ":" not in embed:
        raise CannotLoad("store.index.embed: must be 'file.py:name', 'module:name' or 'provider:model'")
    found = embedding(embed)
    # LangGraph documents `fields`; its SQLite store reads `text_fields`.
    return {"dims": dims, "embed": found, "fields": fields, "text_fields": fields}


def embedding(place: str) -> Any:
    """The project's embedding function or Embeddings, or those of a provider. Raises CannotLoad."""
    left, _, name = place.rpartition(":")
    try:
        if "/" in left or left.endswith(".py"):
            return named({"path": os.path.abspath(left), "variable": name})
        if name.isidentifier() and importlib.util.find_spec(left) is not None:
            return named({"module": left, "variable": name})
        return provided(place)
    except CannotLoad as exc:
        raise CannotLoad(f"store.index.embed: '{place}' {exc}") from None
    except BaseException as exc:
        raise CannotLoad(f"store.index.embed: '{place}' can't be loaded: {last_lines(exc)}") from exc


def provided(place: str) -> Any:
    """The embeddings of a provider's model, by LangChain. Raises CannotLoad."""
    try:
        embeddings = importlib.import_module("langchain.embeddings")
    except ImportError:
        raise CannotLoad(
            "is no file or module of the project, and a provider's model needs the package 'langchain'"
        ) from None
    return embeddings.init_embeddings(place)


# --- questions --------------------------------------------------------------------------------------


async def put(store: Store, ask: dict[str, Any]) -> None:
    """Keep a value."""
    ttl = ask.get("ttl")
    try:
        await store.aput(
            tuple(ask["namespace"]),
            ask["key"],
            ask["value"],
            index=ask.get("index"),
            ttl=NOT_PROVIDED if ttl is None else ttl,
        )
    except ValueError as exc:
        raise BadQuestion(str(exc)) from exc
    except TypeError:
        # By the name of the field, if it was the value that can't be written, and not somebody's embedding.
        try:
            orjson.dumps(ask["value"])
        except TypeError as exc:
            raise BadQuestion(f"value: {exc}") from exc
        raise


async def get(store: Store, ask: dict[str, Any]) -> dict[str, Any] | None:
    """An item, or None."""
    item = await store.aget(tuple(ask["namespace"]), ask["key"], refresh_ttl=ask.get("refresh_ttl"))
    return None if item is None else shown(item)


async def delete(store: Store, ask: dict[str, Any]) -> None:
    """Remove an item."""
    await store.adelete(tuple(ask["namespace"]), ask["key"])


async def search(store: Store, ask: dict[str, Any]) -> list[dict[str, Any]]:
    """The items under a prefix, by nearness when there is a query."""
    if ask.get("query") and store.index_config is None:
        raise Unsupported("query: the store has no index; langgraph.json sets it up under store.index")
    try:
        items = await store.asearch(
            tuple(ask["namespace_prefix"]),
            query=ask.get("query"),
            filter=ask.get("filter"),
            limit=ask.get("limit", 10),
            offset=ask.get("offset", 0),
            refresh_ttl=ask.get("refresh_ttl"),
        )
    except ValueError as exc:
        raise BadQuestion(f"filter: {exc}") from exc
    return [{**shown(item), "score": item.score} for item in items]


async def namespaces(store: Store, ask: dict[str, Any]) -> list[list[str]]:
    """The namespaces that fit."""
    found = await store.alist_namespaces(
        prefix=tuple(ask["prefix"]) if ask.get("prefix") else None,
        suffix=tuple(ask["suffix"]) if ask.get("suffix") else None,
        max_depth=ask.get("max_depth"),
        limit=ask.get("limit", 100),
        offset=ask.get("offset", 0),
    )
    return [list(namespace) for namespace in found]


def shown(item: Any) -> dict[str, Any]:
    """An item as `/store` tells of it."""
    return {
        "namespace": list(item.namespace),
        "key": item.key,
        "value": item.value,
        "created_at": in_utc(item.created_at),
        "updated_at": in_utc(item.updated_at),
    }


def in_utc(instant: datetime) -> datetime:
    """The instant with its zone: SQLite keeps UTC, and says nothing of it."""
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
