"""The HTTP server inside the running event loop."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn

from services.kit.lifecycle import Part, ended
from services.kit.mendable import Mendable
from services.kit.settings import local_url

GRACE_S = 3
"""How long a request may still take when the server stops."""
TICK_S = 1.0
UNFINISHED = "ASGI callable returned without completing response."


def _is_news(record: logging.LogRecord) -> bool:
    """Whether somebody should read it: what we cut off we tell of ourselves."""
    return record.msg != UNFINISHED


logging.getLogger("uvicorn.error").addFilter(_is_news)


class AddressTaken(Mendable):
    """Nothing can listen where it should."""


class GatewayServer:
    """Serves an ASGI application: a part. `port` is known after `start`."""

    failing = ""
    parts: Sequence[Part] = ()

    def __init__(
        self, app: Any, host: str, port: int, name: str = "gateway", chosen_by: str = "--host and --port"
    ) -> None:
        self._app, self._host, self.name, self._chosen_by = app, host, name, chosen_by
        self.port = port
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """Where processes of this machine reach it; known after `bind`."""
        return local_url(self._host, self.port)

    @property
    def started(self) -> bool:
        """True while it listens."""
        return self._server is not None and self._server.started and self._is_serving

    @property
    def _is_serving(self) -> bool:
        return self._task is not None and not self._task.done()

    async def bind(self) -> None:
        """Take the address, before there is anything to serve. Raises AddressTaken."""
        if self._socket is not None:
            return
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        taken = socket.socket(family)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((self._host, self.port))
        except OSError as exc:
            taken.close()
            raise AddressTaken(
                f"{self._host}:{self.port}: {exc.strerror}; choose others by {self._chosen_by}"
            ) from None
        taken.setblocking(False)
        self._socket, self.port = taken, taken.getsockname()[1]

    def release(self) -> None:
        """Let go of the address; safe twice and without one."""
        taken, self._socket = self._socket, None
        if taken is not None:
            taken.close()

    async def start(self) -> None:
        """Listen. Raises AddressTaken."""
        if self._task is not None:
            return
        await self.bind()
        assert self._socket is not None
        config = uvicorn.Config(
            self._app,
            host=self._host,
            port=self.port,
            http="httptools",
            ws="websockets-sansio",
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started and self._is_serving:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.005)
        if not self.started:
            raise AddressTaken(f"{self._host}:{self.port}: no server came up there")

    async def stop(self) -> None:
        """Answer what is under way, for a few seconds, and end; safe twice and unstarted."""
        task, self._task = self._task, None
        if task is None or self._server is None:
            return
        self._server.exit()
        await asyncio.wait({task}, timeout=GRACE_S + 1)
        await ended(task)
        self.release()


class _Server(uvicorn.Server):
    """Signals are the affair of whoever owns the process, and an idle one is not woken ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._asked = asyncio.Event()

    def exit(self) -> None:
        """Let it end."""
        self.should_exit = True
        self._asked.set()

    async def main_loop(self) -> None:
        """Until it is to end; each second a tick, which is what sets the Date header."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._asked.wait()

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()
