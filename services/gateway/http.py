"""Calls and answers: what a route gets and gives, and how the framework is told of it."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler
from litestar.handlers import route as litestar_route

from contracts.ledger import Meta
from domain.errors import AnswerTooLarge, InvalidField
from services.gateway.parts import GatewayParts
from services.gateway.streams.response import Over, Pieces
from services.kit.ids import parse_uuid

JSON = "application/json"
AT_ONCE = 1 << 18
"""Bytes of an answer that are made before others have their turn."""
YES, NO = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})
T = TypeVar("T")
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    """What goes back: bytes, or pieces as they come.

    `over` is called once when the pieces are over, with whether the client left before.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    media_type: str = JSON
    pieces: AsyncIterator[bytes] | None = None
    over: Over | None = None


class Call:
    """One request, as much of it as a route needs."""

    __slots__ = ("_query", "data", "headers", "params", "request_id")

    def __init__(
        self,
        params: Mapping[str, Any],
        query: Mapping[str, list[str]],
        headers: Mapping[str, str],
        data: bytes,
    ) -> None:
        self.params, self._query, self.headers, self.data = params, query, headers, data
        given = headers.get("x-request-id", "")
        self.request_id = given if re.fullmatch(r"[\w.:-]{1,128}", given) else str(uuid4())

    def uuid(self, name: str) -> UUID:
        """A path parameter that must be a UUID. Raises InvalidField."""
        value = parse_uuid(str(self.params[name]))
        if value is None:
            raise InvalidField(f"{name}: Invalid {name.removesuffix('_id')} ID: must be a UUID")
        return value

    def text(self, name: str) -> str | None:
        """The last value of a query parameter; an empty one is as good as absent."""
        values = self._query.get(name)
        return values[-1] or None if values else None

    def texts(self, name: str) -> list[str]:
        """Every value of a query parameter."""
        return [value for value in self._query.get(name, []) if value]

    def names(self) -> frozenset[str]:
        """Names of the query parameters."""
        return frozenset(self._query)

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number of the query. Raises InvalidField."""
        given = self.text(name)
        if given is None:
            return default
        if not re.fullmatch(r"-?[0-9]{1,18}", given) or not low <= int(given) <= high:
            raise InvalidField(f"{name}: must be a whole number from {low} to {high}")
        return int(given)

    def flag(self, name: str) -> bool | None:
        """A yes or no of the query, None when it is absent. Raises InvalidField."""
        given = (self.text(name) or "").lower()
        if given and given not in YES | NO:
            raise InvalidField(f"{name}: must be true or false")
        return given in YES if given else None

    def body(self, kind: type[T]) -> T:
        """The body as that struct; an empty one is an empty object. Raises InvalidField."""
        decoder = _decoders.get(kind)
        if decoder is None:
            decoder = _decoders[kind] = msgspec.json.Decoder(kind)
        try:
            decoded: T = decoder.decode(self.data or b"{}")
        except msgspec.ValidationError as exc:
            raise InvalidField(readable(str(exc))) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidField("body: Invalid JSON in request body") from None
        except RecursionError:
            raise InvalidField("body: nested too deeply") from None
        return decoded

    def meta(self, parts: GatewayParts) -> Meta:
        """Who asks, and why, for the events of this request."""
        return Meta(at=parts.clock.now(), actor=USER, cause=self.request_id, corr=self.request_id)


USER = "anonymous"
"""Whoever asks, as long as nobody is authenticated."""
Handle = Callable[[GatewayParts, Call], Awaitable[Answer]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint: what it is for people, and what answers it."""

    method: str
    path: str  # with `{name}` for parameters
    summary: str
    handle: Handle
    tag: str
    body: Any = None
    query: Mapping[str, str] = {}
    status: int = 200


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer of JSON."""
    return Answer(status, _encode(value), headers or {})


async def as_list(
    parts: GatewayParts, objects: Iterable[Any], headers: Mapping[str, str] | None = None
) -> Answer:
    """An answer of many objects, made one by one. Raises AnswerTooLarge as soon as it is."""
    most_mb = parts.settings.max_answer_mb
    pieces, size, rested = list[bytes](), 0, 0
    for shown in objects:
        pieces.append(_encode(shown))
        size += len(pieces[-1]) + 1
        if size > most_mb << 20:
            raise AnswerTooLarge(
                f"limit: the answer is over {most_mb} MiB; ask for fewer with `limit`, or for less with `select`"
            )
        if size - rested > AT_ONCE:
            rested = size
            await asyncio.sleep(0)
    return Answer(200, b"[" + b",".join(pieces) + b"]", headers or {})


def nothing(status: int = 204) -> Answer:
    """An answer without a body."""
    return Answer(status, b"", {}, "")


def readable(text: str) -> str:
    """Msgspec's text with the field in front: `schedule: expected str, got int`."""
    match = re.fullmatch(r"(?s)(.*) - at `\$\.?(.*)`", text)
    said, field = (match[1], match[2]) if match else (text, "")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", said):
        inner = f"{field}.{missing[1]}" if field else missing[1]
        return f"{inner}: required field is missing"
    said = said.replace("`", "")
    return f"{field or 'body'}: {said[:1].lower()}{said[1:]}"


def handler(parts: GatewayParts, route: Route) -> HTTPRouteHandler:
    """The framework's handler of a route."""
    methods: Any = ["GET", "HEAD"] if route.method == "GET" else [route.method]
    path = re.sub(r"\{(\w+)\}", r"{\1:str}", route.path)

    @litestar_route(
        path,
        http_method=methods,
        status_code=200,
        name=f"{route.method} {route.path}",
        include_in_schema=False,
    )
    async def handle(request: Request[Any, Any, Any]) -> Response[Any]:
        data = await request.body() if route.method != "GET" else b""
        query = request.query_params.dict()
        call = Call(request.path_params, query, request.headers, data)
        request.scope["state"]["request_id"] = call.request_id
        return framed(await route.handle(parts, call), call.request_id)

    return handle


def framed(answer: Answer, request_id: str) -> Response[Any]:
    """An answer in the framework's form."""
    headers = dict(answer.headers)
    if answer.pieces is not None:
        return Pieces(
            answer.pieces,
            answer.over,
            status_code=answer.status,
            headers=headers,
            media_type=answer.media_type,
        )
    media_type = answer.media_type or JSON
    return Response(answer.body, status_code=answer.status, headers=headers, media_type=media_type)
