"""/store: the long-term memory that graphs and clients share."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Controller
from litestar.openapi import ResponseSpec
from litestar.params import Parameter

from contracts.answers.store import ItemAnswer, ItemsAnswer, NamespacesAnswer
from contracts.answers.system import Problem
from contracts.api import StoreItemDelete, StoreItemPut, StoreItemsSearch, StoreNamespacesList
from contracts.queries import StoreDelete, StoreGet, StoreNamespaces, StorePut, StoreSearch
from domain.errors import IncompleteRequest, InvalidField
from services.gateway.handlers import Parts, deletes, posts, puts, reads
from services.gateway.queries.graphs import ask

OPERATORS = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"})
RESERVED_ROOT = "langgraph"
KEYLESS = ResponseSpec(Problem, description="There is no key.", generate_examples=False)
Dotted = Annotated[str, Parameter(query="namespace", description="labels, joined by dots")]
Key = Annotated[str | None, Parameter(description="the key of the item")]
Refresh = Annotated[bool | None, Parameter(description="whether the item lives longer by being read")]


class StoreController(Controller):
    """Items with a namespace and a key."""

    path = "/store"
    tags = ["store"]

    @puts("/items", summary="Keep a value")
    async def put_item(self, parts: Parts, data: StoreItemPut) -> None:
        """In the place of the one that is there."""
        if not data.namespace:
            raise IncompleteRequest("namespace: must have at least one label")
        _check_labels("namespace", data.namespace)
        if data.namespace[0] == RESERVED_ROOT:
            raise InvalidField(f"namespace: '{RESERVED_ROOT}' may not be its first label")
        _check_key(data.key)
        if not isinstance(data.value, dict):
            raise InvalidField("value: must be an object")
        await ask(parts, StorePut(**msgspec.structs.asdict(data)), None, field="value")

    @reads("/items", summary="Get an item", responses={400: KEYLESS})
    async def get_item(
        self, parts: Parts, key: Key = None, dotted: Dotted = "", refresh_ttl: Refresh = None
    ) -> ItemAnswer | None:
        """Null when there is none."""
        if key is None:
            raise IncompleteRequest("key: must be given")
        if not dotted:
            return None  # nothing is kept outside of a namespace
        namespace = dotted.split(".")
        _check_labels("namespace", namespace)
        query = StoreGet(namespace=namespace, key=key, refresh_ttl=refresh_ttl)
        found: ItemAnswer | None = await ask(parts, query, msgspec.Raw)
        return found

    @deletes("/items", summary="Remove an item")
    async def delete_item(self, parts: Parts, data: StoreItemDelete) -> None:
        """Harmless when there is none."""
        _check_key(data.key)
        if data.namespace:
            _check_labels("namespace", data.namespace)
            await ask(parts, StoreDelete(namespace=data.namespace, key=data.key), None)

    @posts("/items/search", summary="Search items below a namespace")
    async def search_items(self, parts: Parts, data: StoreItemsSearch) -> ItemsAnswer:
        """Those that pass the filter; by meaning where the project has an index."""
        prefix = data.namespace_prefix or []
        _check_labels("namespace_prefix", prefix)
        _check_filter(data.filter or {})
        query = StoreSearch(
            namespace_prefix=prefix,
            filter=data.filter or None,
            query=data.query or None,
            limit=10 if data.limit is None else data.limit,
            offset=data.offset or 0,
            refresh_ttl=data.refresh_ttl,
        )
        return ItemsAnswer(await ask(parts, query, msgspec.Raw))

    @posts("/namespaces", summary="List namespaces")
    async def list_namespaces(self, parts: Parts, data: StoreNamespacesList) -> NamespacesAnswer:
        """Those that begin and end so; `*` stands for any label."""
        _check_labels("prefix", data.prefix or [])
        _check_labels("suffix", data.suffix or [])
        query = StoreNamespaces(
            prefix=data.prefix or None,
            suffix=data.suffix or None,
            max_depth=data.max_depth,
            limit=100 if data.limit is None else data.limit,
            offset=data.offset or 0,
        )
        return NamespacesAnswer(await ask(parts, query, msgspec.Raw))


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
