"""What is in front of the server: requests of the project's own application are passed on to its process."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from services.custom.process import CustomApp
from services.kit.asgi import refuse
from services.kit.lifecycle import Part

FIRST = ("/ok", "/live", "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/asyncapi.json")
"""Paths of the server that nothing of the project's comes before."""
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
OF_HANDSHAKE = re.compile(rb"sec-websocket-.*|host|connection|upgrade")
CONNECT_S = 5.0
AWAY = "the project's application (http.app) is not running; it is started again"
Scope = dict[str, Any]


class Router:
    """Which requests are the project's."""

    def __init__(self, custom: CustomApp, ours: Iterable[str]) -> None:
        self._custom = custom
        self._ours = [re.compile(pattern) for pattern in ours]
        self._made: tuple[Any, list[tuple[re.Pattern[str], frozenset[str] | None]]] = (None, [])

    def is_theirs(self, scope: Scope) -> bool:
        """Whether the application takes it. One that does not tell its routes takes what nobody else does."""
        path: str = scope["path"]
        if any(path == first or path.startswith(f"{first}/") for first in FIRST):
            return False
        routes = self._custom.announced.routes
        if routes is None:
            return not any(pattern.match(path) for pattern in self._ours)
        if self._made[0] is not routes:
            made = [
                (re.compile(route.pattern), None if route.methods is None else frozenset(route.methods))
                for route in routes
            ]
            self._made = (routes, made)
        method = scope.get("method")
        return any(
            pattern.match(path) and (methods is None or method is None or method in methods)
            for pattern, methods in self._made[1]
        )


class Proxy:
    """The server with the project's application before it: an ASGI application, and a part for its connections."""

    name, failing = "custom.proxy", ""
    parts: tuple[Part, ...] = ()

    def __init__(self, app: Any, custom: CustomApp, ours: Iterable[str]) -> None:
        self._app, self._custom, self._router = app, custom, Router(custom, ours)
        self._client: httpx.AsyncClient | None = None

    @property
    def started(self) -> bool:
        """True while it can pass requests on."""
        return self._client is not None

    async def start(self) -> None:
        """Make ready; twice is harmless."""
        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(None, connect=CONNECT_S), limits=limits, trust_env=False
            )

    async def stop(self) -> None:
        """Close the connections; safe unstarted."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """The ASGI application."""
        if scope["type"] not in ("http", "websocket") or not self._router.is_theirs(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._websocket(scope, receive, send)

    # --- HTTP ---------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Any, send: Any) -> None:
        if self._client is None or not self._custom.is_up:
            await refuse(send, 503, "custom_app_away", AWAY)
            return
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        body = _Body(receive, has_body)
        request = self._client.build_request(
            scope["method"],
            self._url(scope),
            headers=_passed(scope),
            content=body.pieces() if has_body else None,
        )
        passing = asyncio.create_task(self._pass(self._client, request, send))
        leaving = asyncio.create_task(body.left())
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (passing, leaving):
                if not task.done():
                    task.cancel()
            results = await asyncio.gather(passing, leaving, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _pass(self, client: httpx.AsyncClient, request: httpx.Request, send: Any) -> None:
        try:
            answer = await client.send(request, stream=True)
        except httpx.TransportError:
            await refuse(send, 503, "custom_app_away", AWAY)
            return
        try:
            headers = [(k.lower(), v) for k, v in answer.headers.raw if k.lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            async for piece in answer.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except httpx.TransportError:
            return  # it died in the middle: the connection is cut, as it would have been without us
        finally:
            await answer.aclose()

    def _url(self, scope: Scope, scheme: str = "http") -> str:
        path = scope.get("raw_path") or scope["path"].encode()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        return f"{scheme}://127.0.0.1:{self._custom.port}" + str(path + query, "latin-1")

    # --- WebSocket ----------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Any, send: Any) -> None:
        await receive()  # websocket.connect
        if not self._custom.is_up:
            await send({"type": "websocket.close", "code": 1013, "reason": "not running"})
            return
        headers = [
            (k.decode("latin-1"), v.decode("latin-1"))
            for k, v in _passed(scope)
            if not OF_HANDSHAKE.fullmatch(k)
        ]
        try:
            theirs = await connect(
                self._url(scope, "ws"),
                additional_headers=headers,
                subprotocols=[Subprotocol(one) for one in scope.get("subprotocols", ())] or None,
                compression=None,
                max_size=None,
                open_timeout=None,
                ping_interval=None,
                proxy=None,
            )
        except (OSError, InvalidHandshake, TimeoutError) as exc:
            reason = (
                f"answered {exc.response.status_code}" if isinstance(exc, InvalidStatus) else "not running"
            )
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
            return
        async with theirs:
            await send({"type": "websocket.accept", "subprotocol": theirs.subprotocol, "headers": []})
            tasks = {
                asyncio.create_task(_to_them(receive, theirs)),
                asyncio.create_task(_from_them(theirs, send)),
            }
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


class _Body:
    """The body of a request as it comes, and whether its client has left."""

    def __init__(self, receive: Any, has_body: bool) -> None:
        self._receive = receive
        self._read = asyncio.Event()
        if not has_body:
            self._read.set()

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            more = True
            while more:
                message: Scope = await self._receive()
                if message["type"] == "http.disconnect":
                    raise httpx.WriteError("the client went away")
                more = message.get("more_body", False)
                yield message.get("body", b"")
        finally:
            self._read.set()

    async def left(self) -> None:
        """Return when the client has gone; what comes before is the body's."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _to_them(receive: Any, theirs: ClientConnection) -> None:
    while True:
        message: Scope = await receive()
        if message["type"] == "websocket.disconnect":
            await theirs.close(message.get("code") or 1000, message.get("reason") or "")
            return
        text = message.get("text")
        try:
            await theirs.send(message["bytes"] if text is None else text)
        except ConnectionClosed:
            return


async def _from_them(theirs: ClientConnection, send: Any) -> None:
    try:
        async for data in theirs:
            kind = "text" if isinstance(data, str) else "bytes"
            await send({"type": "websocket.send", kind: data})
    except ConnectionClosed:
        pass
    code, reason = theirs.close_code or 1006, theirs.close_reason or ""
    await send({"type": "websocket.close", "code": 1011 if code == 1006 else code, "reason": reason})


def _passed(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers for the application, with who asks and by what address."""
    headers = [
        (k, v) for k, v in scope["headers"] if k not in HOP_BY_HOP and not k.startswith(b"x-forwarded-")
    ]
    client = scope.get("client")
    if client:
        headers.append((b"x-forwarded-for", str(client[0]).encode()))
    scheme = scope.get("scheme", "http").replace("ws", "http")
    headers.append((b"x-forwarded-proto", scheme.encode()))
    return headers
