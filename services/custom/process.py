"""The process of the project's own application: started, watched, started again when it has died."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.kit.http import AppSource
from services.kit.lifecycle import Part, Supervised
from services.kit.logs import Log
from services.kit.mendable import Mendable
from services.kit.project import Project
from services.kit.settings import for_users

CHILD = Path(__file__).with_name("child.py")
LOOPBACK = Path(__file__).parents[1] / "worker" / "child" / "loopback.py"
"""What lets clients of the SDK reach this server, in graph processes as well."""
START_S = 60.0
STOP_S = 4.0
LOOK_S = 0.2
MOST_PAUSE_S = 30.0
STEADY_S = 60.0
"""After so long it is taken to be well, and its next death is its first."""
BACKLOG = 512
log_ = Log("custom")


class CustomAppFailed(Mendable):
    """The application can't be loaded or started; the text is for its author."""


class AppRoute(msgspec.Struct, frozen=True):
    """A path of the application as a pattern, and the methods that it takes there; None: any."""

    pattern: str
    methods: list[str] | None = None


class Announced(msgspec.Struct, frozen=True):
    """What the process says when it has come up, or that it can't; `routes` None: it does not know them."""

    error: str = ""
    routes: list[AppRoute] | None = None
    openapi: dict[str, Any] | None = None


class CustomApp:
    """A part: whatever becomes of the application, the server is well; a notice tells of it.

    It listens on a port of this machine that stays the same, whichever process serves there.
    """

    name, failing = "custom.app", ""

    def __init__(self, project: Project, python: Path, url: Callable[[], str]) -> None:
        self._project, self._python, self._url = project, python, url
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._loop = Supervised("custom.app.loop", self._watch)
        self._deaths, self._since_s = 0, 0.0
        self.parts: Sequence[Part] = (self._loop,)
        self.announced = Announced()
        self.port = 0
        self.notice = ""

    @property
    def started(self) -> bool:
        """True while it is watched."""
        return self._loop.started

    @property
    def is_up(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start it. Raises CustomAppFailed."""
        if self.started:
            return
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port = self._socket.getsockname()[1]
        try:
            await self._begin()
        except BaseException:
            await self.stop()
            raise
        await self._loop.start()

    async def stop(self) -> None:
        """End it, gently at first; safe twice and unstarted."""
        await self._loop.stop()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            until_s = time.monotonic() + STOP_S
            while process.poll() is None and time.monotonic() < until_s:  # noqa: ASYNC110 - as for graph processes
                await asyncio.sleep(0.02)
        self._kill()
        taken, self._socket = self._socket, None
        if taken is not None:
            taken.close()

    async def _watch(self) -> None:
        if self.is_up:
            await asyncio.sleep(LOOK_S)
            if self.is_up and time.monotonic() - self._since_s > STEADY_S:
                self._deaths = 0
            return
        code = None if self._process is None else self._process.returncode
        self._kill()
        self._deaths += 1
        self.notice = self.notice or f"the project's application has ended with {code}"
        log_.warning("custom.app_died", code=code, deaths=self._deaths)
        await asyncio.sleep(min(MOST_PAUSE_S, 0.2 * 2 ** (self._deaths - 1)))
        try:
            await self._begin()
        except CustomAppFailed as exc:
            self.notice = str(exc)
            log_.warning("custom.app_not_started", error=exc)

    async def _begin(self) -> None:
        assert self._socket is not None
        told, telling = os.pipe()
        try:
            self._process = self._spawn(self._socket.fileno(), telling)
        except OSError as exc:
            os.close(told)
            raise CustomAppFailed(f"http.app: {self._python} can't be run: {exc.strerror}") from None
        finally:
            os.close(telling)
        text = await self._heard(told)
        try:
            announced = msgspec.json.decode(text, type=Announced)
        except msgspec.DecodeError:
            announced = Announced(error="its process ended, or told nothing in time")
        if announced.error:
            self._kill()
            raise CustomAppFailed(f"{self._project.file}: http.app: {announced.error}")
        self.announced, self.notice, self._since_s = announced, "", time.monotonic()

    async def _heard(self, told: int) -> bytes:
        """All that comes from the pipe, until it is closed."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        with os.fdopen(told, "rb", 0) as pipe:
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
            try:
                async with asyncio.timeout(START_S):
                    return await reader.read(-1)
            except TimeoutError:
                return b""
            finally:
                transport.close()

    def _spawn(self, listens: int, telling: int) -> subprocess.Popen[bytes]:
        project, source = self._project, self._project.http.app
        assert isinstance(source, AppSource)
        spec = {
            "listens": listens,
            "told": telling,
            "loopback": str(LOOPBACK),
            "roots": [str(root) for root in project.roots],
            "path": str(source.path) if source.path else "",
            "module": source.module,
            "variable": source.variable,
        }
        told = project.env | {"CRONLEDGER_URL": self._url()}
        # A session of its own, as for graph processes, and the death signal belongs to the thread that forks.
        return subprocess.Popen(
            [str(self._python), "-P", str(CHILD), msgspec.json.encode(spec).decode()],
            cwd=project.folder,
            env=for_users(os.environ) | told,
            pass_fds=(listens, telling),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
        )

    def _kill(self) -> None:
        """End the process and what it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
