"""A response that comes in pieces, and that knows whether its client stayed to the end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

Over = Callable[[bool], None]


class Pieces(Response[bytes]):
    """The framework's form of it. `over` is called once, with whether the client left before the end."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        over: Over | None,
        *,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        super().__init__(b"", headers=dict(headers), media_type=media_type)
        self._pieces, self._over = pieces, over

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        return _Sending(
            self._pieces,
            self._over,
            status_code=self.status_code or 200,
            headers=self.headers,
            media_type=self.media_type,
        )


class _Sending(ASGIResponse):
    """Sends the pieces as they come, and watches the client meanwhile."""

    _should_set_content_length = False

    def __init__(self, pieces: AsyncIterator[bytes], over: Over | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pieces, self._over = pieces, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_left = False
        try:
            await self.start_response(send)
            if scope.get("method") == "HEAD":
                await _send(send, b"", more=False)
            else:
                has_left = await self._send_while_there(receive, send)
        finally:
            if self._over is not None:
                self._over(has_left)

    async def _send_while_there(self, receive: Receive, send: Send) -> bool:
        """Send everything; True when the client went away before. Raises what the pieces raise."""
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            has_left = not sending.done()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if not has_left:
            sending.result()
        return has_left

    async def _send_all(self, send: Send) -> None:
        async for piece in self._pieces:
            await _send(send, piece, more=True)
        await _send(send, b"", more=False)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
