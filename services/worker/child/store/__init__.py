"""The long-term memory: LangGraph's store of either database, the same for nodes and for `/store`."""

import importlib
import importlib.util
import os
from datetime import UTC, datetime
from typing import Any

import orjson
from langgraph.store.base import NOT_PROVIDED, BaseStore

from ..graphs import CannotLoad, last_lines, named
from ..refusals import BadQuestion, Unsupported

TTL = {"refresh_on_read": True, "default_ttl": None, "sweep_interval_minutes": 5}
"""Unless the project says otherwise: a single item may have a time to live all the same."""


class Store(BaseStore):
    """The store of all children; a subclass knows the database."""

    index_config: Any

    async def close(self) -> None:
        """Let go of the database."""
        raise NotImplementedError


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
