"""The HTTP server inside the running event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn

from services.kit.lifecycle import Part, ended

GRACE_S = 3
"""How long a request may still take when the server stops."""
TICK_S = 1.0


class GatewayServer:
    """Serves an ASGI application: a part. `port` is known after `start`."""

    name, failing = "gateway", ""
    parts: Sequence[Part] = ()

    def __init__(self, app: Any, host: str, port: int) -> None:
        self._app, self._host = app, host
        self.port = port
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    @property
    def started(self) -> bool:
        """True while it listens."""
        return self._server is not None and self._server.started and self._is_serving

    @property
    def _is_serving(self) -> bool:
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        if self._task is not None:
            return
        config = uvicorn.Config(
            self._app,
            host=self._host,
            port=self.port,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
        )
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self._host, self.port))
        except OSError:
            listening.close()
            raise
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        self._socket = listening
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and self._is_serving:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.005)
        if not self.started:
            raise OSError(f"no server came up on port {self.port}")

    async def stop(self) -> None:
        """Answer what is under way, for a few seconds, and end; safe twice and unstarted."""
        task, self._task = self._task, None
        if task is None or self._server is None:
            return
        self._server.exit()
        await asyncio.wait({task}, timeout=GRACE_S + 1)
        await ended(task)
        if self._socket is not None:
            self._socket.close()


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
