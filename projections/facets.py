"""What a JSON object has in it, as rows that an index serves: one for each value at its place.

`{"user": "a", "tags": [1, {"x": 2}]}` has the facets `user = a`, `tags is a list`, `tags[] = 1`, `tags[] is an
object` and `tags[].x = 2`. An object contains another as PostgreSQL's `@>` has it only if it has all of its
facets, so a search looks at the rows behind one facet and checks those.
"""

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from projections.rows import Rows, Table

BYTES = 16
"""Of a digest. So long that two values never share one: what has all facets of plain values is a match."""
MOST = 64
"""Facets of one object; a larger one has the one that tells of it, and is looked at by every search."""
LARGE = bytes(BYTES)
KEPT_CHARS = 2000
"""Of a text whose facets are kept; thousands of large ones would fill the memory."""
_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


def facet_table(name: str) -> Table:
    """The facets of a table's rows: the digest, then the id of the row that has it."""
    return Table(name, {"facet": "bytes"}, "facet", rowless=True)


def keep(rows: Rows, table: str, owner: bytes, before: str | None, after: str | None) -> None:
    """Let the owner have the facets of its new JSON (None = none) in place of its former. Harmless twice."""
    if before == after:
        return
    old, new = facets(before), facets(after)
    for facet in old - new:
        rows.delete(table, facet + owner)
    for facet in new - old:
        rows.put(table, {"facet": facet + owner})


def facets(stored: str | None) -> frozenset[bytes]:
    """The digests of a JSON object's facets; of one that has too many only LARGE."""
    return _found(stored) if stored is None or len(stored) > KEPT_CHARS else kept(stored)


def _found(stored: str | None) -> frozenset[bytes]:
    found = set() if stored is None else _few(_decode(stored))
    return frozenset((LARGE,)) if found is None else frozenset(map(_digest, found))


kept = lru_cache(maxsize=4096)(_found)
"""The same, kept for a while: what a row had is asked for when it changes, and many rows have the same."""


def needed(value: dict[str, Any]) -> tuple[frozenset[bytes], bool]:
    """The facets that an object must have to contain this one, and whether that is enough.

    It is not when something stands in an element of a list: `[{"a": 1, "b": 2}]` wants both in one. What has
    too many facets itself is only in objects that have too many.
    """
    found = _few(value)
    if found is None:
        return frozenset((LARGE,)), False
    return frozenset(map(_digest, found)), not any("[{" in facet or "[[" in facet for facet in found)


def _few(value: dict[str, Any]) -> set[str] | None:
    """The facets of an object, None when they are too many."""
    found: set[str] = set()
    for facet in _facets(value):
        found.add(facet)
        if len(found) > MOST:
            return None
    return found


def _facets(value: dict[str, Any]) -> Iterator[str]:
    # A stack, no recursion: the depth is the client's, and one that is too deep must not stop the projector.
    todo: list[tuple[str, Any]] = [(_below("", name), inner) for name, inner in value.items()]
    while todo:
        place, inner = todo.pop()
        if isinstance(inner, dict):
            yield place + "{"
            todo += [(_below(place, name), value) for name, value in inner.items()]
        elif isinstance(inner, list):
            yield place + "["
            todo += [(place + "[", value) for value in inner]
        else:
            yield place + "=" + _scalar(inner)


def _below(place: str, name: str) -> str:
    return place + _encode(name).decode()


def _scalar(value: Any) -> str:
    """Numbers by value: 1 and 1.0 are one; a boolean is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else _encode(value).decode()


def _digest(facet: str) -> bytes:
    return blake2b(facet.encode(), digest_size=BYTES).digest()
