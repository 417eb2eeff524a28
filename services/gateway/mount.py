"""A server that is under a prefix: what comes without it is not there, save for probes."""

from typing import Any

from services.kit.asgi import refuse

PROBES = frozenset({"/ok", "/live", "/health", "/ready"})
"""Whoever watches the process asks it without knowing of the prefix."""
OWN = frozenset({b"location", b"content-location"})


class Mounted:
    """An ASGI application under a prefix such as `/agents`."""

    def __init__(self, app: Any, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The ASGI application."""
        path, prefix = scope.get("path", ""), self._prefix
        if scope["type"] == "lifespan" or path in PROBES:
            await self._app(scope, receive, send)
            return
        if path != prefix and not path.startswith(f"{prefix}/"):
            await _not_there(scope, send, prefix)
            return
        raw = scope.get("raw_path") or path.encode()
        inside = {
            **scope,
            "path": path.removeprefix(prefix) or "/",
            "raw_path": raw.removeprefix(prefix.encode()) or b"/",
        }

        async def send_outside(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [(k, self._outside(k, v)) for k, v in message["headers"]]
            await send(message)

        await self._app(inside, receive, send_outside)

    def _outside(self, name: bytes, value: bytes) -> bytes:
        is_own = name.lower() in OWN and value.startswith(b"/")
        return self._prefix.encode() + value if is_own else value


async def _not_there(scope: dict[str, Any], send: Any, prefix: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": "Not Found"})
        return
    await refuse(send, 404, "http", f"Not Found: this server is under {prefix}")
