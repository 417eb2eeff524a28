"""The store: the long-term memory that graphs and clients share."""

from collections.abc import Sequence
from typing import Any

import msgspec

from contracts.api import StoreItemDelete, StoreItemPut, StoreItemsSearch, StoreNamespacesList
from contracts.queries import StoreDelete, StoreGet, StoreNamespaces, StorePut, StoreSearch
from domain.errors import IncompleteRequest, InvalidField
from services.gateway.http import Answer, Call, Route, as_json, nothing
from services.gateway.parts import GatewayParts
from services.gateway.queries.graphs import ask

OPERATORS = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"})
RESERVED_ROOT = "langgraph"


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag, items = "store", "/store/items"
    query = {
        "namespace": "labels, joined by dots",
        "key": "of the item",
        "refresh_ttl": "true: it lives longer by being read",
    }
    return [
        Route(method="PUT", path=items, summary="Keep a value", handle=put, tag=tag, body=StoreItemPut, status=204),
        Route(method="GET", path=items, summary="Get an item, null when there is none", handle=get, tag=tag, query=query),
        Route(method="DELETE", path=items, summary="Remove an item", handle=delete, tag=tag, body=StoreItemDelete, status=204),
        Route(method="POST", path=items + "/search", summary="Search items below a namespace", handle=find, tag=tag, body=StoreItemsSearch),
        Route(method="POST", path="/store/namespaces", summary="List namespaces", handle=namespaces, tag=tag, body=StoreNamespacesList),
    ]  # fmt: skip


async def put(parts: GatewayParts, call: Call) -> Answer:
    """PUT /store/items."""
    body = call.body(StoreItemPut)
    if not body.namespace:
        raise IncompleteRequest("namespace: must have at least one label")
    _check_labels("namespace", body.namespace)
    if body.namespace[0] == RESERVED_ROOT:
        raise InvalidField(f"namespace: '{RESERVED_ROOT}' may not be its first label")
    _check_key(body.key)
    query = StorePut(namespace=body.namespace, key=body.key, value=body.value, index=body.index, ttl=body.ttl)
    await ask(parts, query, None, field="value")
    return nothing()


async def get(parts: GatewayParts, call: Call) -> Answer:
    """GET /store/items."""
    key, namespace = call.text("key"), (call.text("namespace") or "").split(".")
    if key is None:
        raise IncompleteRequest("key: must be given")
    refresh_ttl = call.flag("refresh_ttl")
    if namespace == [""]:
        return as_json(None)  # nothing is kept outside of a namespace
    _check_labels("namespace", namespace)
    query = StoreGet(namespace=namespace, key=key, refresh_ttl=refresh_ttl)
    return as_json(await ask(parts, query, msgspec.Raw))


async def delete(parts: GatewayParts, call: Call) -> Answer:
    """DELETE /store/items: harmless when there is none."""
    body = call.body(StoreItemDelete)
    _check_key(body.key)
    if body.namespace:
        _check_labels("namespace", body.namespace)
        await ask(parts, StoreDelete(namespace=body.namespace, key=body.key), None)
    return nothing()


async def find(parts: GatewayParts, call: Call) -> Answer:
    """POST /store/items/search."""
    body = call.body(StoreItemsSearch)
    prefix = body.namespace_prefix or []
    _check_labels("namespace_prefix", prefix)
    _check_filter(body.filter or {})
    query = StoreSearch(
        namespace_prefix=prefix,
        filter=body.filter or None,
        query=body.query or None,
        limit=10 if body.limit is None else body.limit,
        offset=body.offset or 0,
        refresh_ttl=body.refresh_ttl,
    )
    return as_json({"items": await ask(parts, query, msgspec.Raw)})


async def namespaces(parts: GatewayParts, call: Call) -> Answer:
    """POST /store/namespaces."""
    body = call.body(StoreNamespacesList)
    _check_labels("prefix", body.prefix or [])
    _check_labels("suffix", body.suffix or [])
    query = StoreNamespaces(
        prefix=body.prefix or None,
        suffix=body.suffix or None,
        max_depth=body.max_depth,
        limit=100 if body.limit is None else body.limit,
        offset=body.offset or 0,
    )
    return as_json({"namespaces": await ask(parts, query, msgspec.Raw)})


def _check_labels(field: str, labels: Sequence[str]) -> None:
    for label in labels:
        if not label or "." in label:
            raise InvalidField(f"{field}: label '{label[:100]}' is empty or has a '.'")


def _check_key(key: str) -> None:
    if not key:
        raise InvalidField("key: must not be empty")


def _check_filter(wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if not isinstance(value, dict):
            continue
        unknown = [name for name in value if name.startswith("$") and name not in OPERATORS]
        if unknown:
            raise InvalidField(
                f"filter.{key[:100]}: unknown operator '{unknown[0][:100]}'; known are {', '.join(sorted(OPERATORS))}"
            )
