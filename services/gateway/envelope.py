"""What every request and answer has around it: an id that can be followed, and a query as clients mean it."""

import asyncio
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID, uuid4

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from contracts.ledger import Meta
from domain.errors import InvalidField
from services.gateway.parts import GatewayParts
from services.kit.asgi import refuse
from services.kit.ids import parse_uuid

REQUEST_ID = re.compile(r"[\w.:-]{1,128}")
FLAGS = frozenset(
    {
        "cancel_on_disconnect",
        "delete_threads",
        "force",
        "ignore_state",
        "recurse",
        "refresh_ttl",
        "subgraphs",
        "values",
        "wait",
        "xray",
    }
)
HYPHENATED = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
YES_NO = {"yes": "true", "no": "false"}
IDS = frozenset({"thread_id", "run_id", "cron_id", "delivery_id"})
"""Path parameters that are UUIDs; an assistant can be named by its graph too."""
UNWELCOME = "Origin: this page may not call the server"
ANONYMOUS = "anonymous"
"""Whoever asks, as long as nobody is authenticated."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks: on the events that the request leads to, and on what is made for them."""

    request_id: str
    user_id: str = ANONYMOUS
    configurable: dict[str, str] = {}  # headers that the project wants in the config of runs

    def meta(self, parts: GatewayParts) -> Meta:
        """Who asks, and why, for the events of this request."""
        return Meta(at=parts.clock.now(), actor=self.user_id, cause=self.request_id, corr=self.request_id)


def caller(request: Request[Any, Any, Any], parts: Any) -> Caller:
    """Who asks: a dependency of the handlers.

    It rests on `parts` so that these come first: two that rest on nothing are made side by side, in a group of
    tasks that costs a tenth of a request.
    """
    request_id: str = request.scope["state"]["request_id"]
    chosen = parts.http.configurable_headers
    if not chosen.includes:
        return Caller(request_id)
    headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in request.scope["headers"]}
    return Caller(request_id, configurable={k: v for k, v in headers.items() if chosen.has(k)})


def is_welcome(connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    """Whether the page that asks, if it is one, may call the server."""
    origin, allowed = connection.headers.get("origin"), connection.app.cors_config
    return origin is None or allowed is None or allowed.is_origin_allowed(origin)


class RequestEnvelope:
    """Gives each request its id, which the answer carries too, and an end, and brings the query into one form.

    An empty value of a query is as good as absent, and a flag may be `yes`: clients send both.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        text = given.decode("latin-1")
        request_id = text if REQUEST_ID.fullmatch(text) else str(uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["query_string"]:
            scope["query_string"] = plain(scope["query_string"])

        is_answered = False

        async def send_with_id(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # A server that stops waits for no request for long; its own answer would be a 500.
            if is_answered:
                raise
            await refuse(send_with_id, 503, "unavailable", "This server is stopping; try again.")


def plain(query: bytes) -> bytes:
    """The query without empty values, flags as true or false."""
    pairs = parse_qsl(query.decode("latin-1"))
    return urlencode([(name, _meant(name, value)) for name, value in pairs]).encode()


async def canonical_ids(request: Request[Any, Any, Any]) -> None:
    """Refuse an id in the path that is no UUID in its hyphenated form, before the framework takes another one for it.

    A coroutine and no guard: the framework calls functions in a thread, and copies the handler for each guard.
    """
    for name, value in request.path_params.items():
        if name in IDS and not HYPHENATED.fullmatch(value):
            uuid_of(name, value)


def uuid_of(field: str, text: str) -> UUID:
    """The id that a client names. Raises InvalidField."""
    value = parse_uuid(text)
    if value is None:
        raise InvalidField(f"{field}: Invalid {field.removesuffix('_id')} ID: must be a UUID")
    return value


def _meant(name: str, value: str) -> str:
    return YES_NO.get(value.lower(), value) if name in FLAGS else value
