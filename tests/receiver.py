"""A receiver of webhooks on loopback, with all that receivers do: answer, refuse, hang, redirect, be away."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

Reply = tuple[int, dict[str, str], bytes]


class Received(msgspec.Struct, frozen=True):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """Answers by the first part of the path, and keeps what came.

    /ok, /status/503, /fail-first/2/503 (fails twice, then is content), /busy (429 with Retry-After, once),
    /wait/5 (seconds), /hang, /slow-body, /to?url=... (307), /see?url=... (303), /loop.
    """

    def __init__(self) -> None:
        self.got: list[Received] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> "Receiver":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def of(self, path: str) -> list[Received]:
        return [one for one in self.got if one.path.startswith(path)]

    async def until(self, is_done: Callable[[], Any], seconds: float = 30) -> Any:
        async with asyncio.timeout(seconds):
            while not (found := is_done()):  # noqa: ASYNC110 - nothing else tells it
                await asyncio.sleep(0.02)
            return found

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, value in (line.split(":", 1) for line in head[1:] if line)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            path = head[0].split(" ")[1]
            self.got.append(Received(path, headers, body, time.time()))
            await self._answer(path, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(path)
        verb, *rest = parts.path.strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        status, headers = 200, dict[str, str]()
        if verb == "status":
            status = int(rest[0])
        elif verb == "fail-first" and len(self.of(path)) <= int(rest[0]):
            status = int(rest[1])
        elif verb == "busy" and len(self.of(path)) == 1:
            status, headers = 429, {"Retry-After": "2"}
        elif verb == "wait":
            await asyncio.sleep(float(rest[0]))
        elif verb == "hang":
            await asyncio.sleep(3600)
        elif verb in ("to", "see"):
            status, headers = 307 if verb == "to" else 303, {"Location": query["url"]}
        elif verb == "loop":
            status, headers = 308, {"Location": self.url("/loop")}
        slow = verb == "slow-body"
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
        lines += ["Connection: close", f"Content-Length: {1 << 20 if slow else 0}", "", ""]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        if slow:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.5)
