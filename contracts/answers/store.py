"""Items of the store, as clients see them."""

import msgspec

from contracts.api import Json, Namespace


class ItemAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A value that is kept. Instants are ISO 8601 with an offset."""

    namespace: Namespace
    key: str
    value: Json
    created_at: str
    updated_at: str


class FoundItem(ItemAnswer, frozen=True, kw_only=True):
    """An item that was searched for."""

    score: float | None = None


class ItemsAnswer(msgspec.Struct, frozen=True):
    """Items below a namespace."""

    items: list[FoundItem]


class NamespacesAnswer(msgspec.Struct, frozen=True):
    """Namespaces that have items, each as its labels."""

    namespaces: list[Namespace]
