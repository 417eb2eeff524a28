"""How handlers are declared here: defaults of the framework's decorators, what is injected, answers of many objects."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import HttpMethod, Response, delete, patch, post, put, route
from litestar.params import Dependency, Parameter

from domain.errors import AnswerTooLarge
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts

T = TypeVar("T")
JSON = "application/json"
AT_ONCE = 1 << 18
"""Bytes of an answer that are made before others have their turn."""
Parts = Annotated[GatewayParts, Dependency(skip_validation=True)]
"""What the process wired."""
By = Annotated[Caller, Dependency(skip_validation=True)]
"""Who asks."""
Limit = Annotated[int, Parameter(ge=1, le=1000, description="at most so many")]
Offset = Annotated[int, Parameter(ge=0, le=1 << 53, description="how many to pass over")]

reads = partial(route, http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200)
"""`@reads(path, ...)`: GET, and HEAD with it."""
posts = partial(post, status_code=200)
patches = partial(patch, status_code=200)
puts = partial(put, status_code=204)
deletes = partial(delete, status_code=204)
_encode = msgspec.json.Encoder().encode


async def many(
    parts: GatewayParts, objects: Iterable[T], headers: Mapping[str, str] | None = None
) -> Response[list[T]]:
    """An answer of many objects, made and encoded piece by piece. Raises AnswerTooLarge as soon as it is."""
    most_mb, coming = parts.settings.max_answer_mb, iter(objects)
    pieces, size = list[bytes](), 0
    while taken := await parts.read(lambda: _some(coming)):
        pieces += taken
        size += sum(map(len, taken)) + len(taken)
        if size > most_mb << 20:
            raise AnswerTooLarge(
                f"limit: the answer is over {most_mb} MiB; ask for fewer with `limit`, or for less with `select`"
            )
        if size > AT_ONCE:
            await asyncio.sleep(0)
    return encoded(b"[" + b",".join(pieces) + b"]", headers)


def _some(objects: Iterator[Any]) -> list[bytes]:
    """The next ones as JSON, until they are enough for one go; none when there are no more."""
    taken, size = list[bytes](), 0
    for shown in objects:
        taken.append(_encode(shown))
        size += len(taken[-1])
        if size > AT_ONCE:
            break
    return taken


def nothing(status: int = 204, headers: Mapping[str, str] | None = None) -> Response[Any]:
    """An answer without a body."""
    return Response(b"", status_code=status, headers=dict(headers or {}))


def encoded(body: bytes, headers: Mapping[str, str] | None = None) -> Response[Any]:
    """An answer whose JSON is there already."""
    return Response(body, media_type=JSON, headers=dict(headers or {}))


__all__ = [
    "By",
    "Limit",
    "Offset",
    "Parts",
    "deletes",
    "encoded",
    "many",
    "patches",
    "posts",
    "puts",
    "reads",
]
