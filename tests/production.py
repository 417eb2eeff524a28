"""The production shape for tests: PostgreSQL, a cluster of three nats-servers, each service its own processes."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

from tests.conftest import CONFIG, GRAPHS, REPOSITORY
from tests.postgres import Postgres

SERVICES = {"projector": 2, "relay": 2, "scheduler": 2, "worker": 3, "gateway": 2}


class Production:
    """Started by the command line, as the README says; each process can be killed and started again."""

    def __init__(
        self, folder: Path, postgres: Postgres, nats_url: str, services_url: str = "", **environment: str
    ) -> None:
        """`services_url` is where the services reach the server, `{database}` in it: another way, say."""
        self.folder, self.database = folder, postgres.database()
        self.database_url = postgres.url_of(self.database)
        self._environment = {
            "CRONLEDGER_DATABASE_URL": services_url.format(database=self.database) or self.database_url,
            "CRONLEDGER_NATS_URL": nats_url,
            "CRONLEDGER_SECONDS": "first",
            "CRONLEDGER_LOG_LEVEL": "warning",
            "CRONLEDGER_LEASE_S": "5",
            **environment,
        }
        self.names = [f"{service}{n}" for service, many in SERVICES.items() for n in range(many)]
        self.urls: dict[str, str] = {}
        self.projects: dict[str, str] = {}
        """Of workers that have another project than the others: `given` its pool, too."""
        self.given: dict[str, dict[str, str]] = {}
        self._running: dict[str, subprocess.Popen[str]] = {}
        (folder / "project").mkdir(parents=True)
        (folder / "project" / "graphs.py").write_text(dedent(GRAPHS))
        (folder / "project" / "langgraph.json").write_text(dedent(CONFIG))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the command line with the same settings."""
        return subprocess.run(
            [sys.executable, "-m", "services", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def begin(self, *names: str) -> None:
        """Start these; `wait` says when they are ready."""
        for name in names:
            service = name.rstrip("0123456789")
            command = [sys.executable, "-m", "tests.faults.skewed", str(self.clock_of(name))]
            command += [service, "--data", str(self.folder / name)]
            if service == "worker":
                project = self.folder / self.projects.get(name, "project")
                command += ["--config", str(project / "langgraph.json")]
            if service == "gateway":
                command += ["--port", self.urls.get(name, "0").rsplit(":", 1)[-1]]
            with (self.folder / f"{name}.log").open("a") as log:
                self._running[name] = subprocess.Popen(
                    command,
                    cwd=REPOSITORY,
                    env={**os.environ, **self._environment, **self.given.get(name, {})},
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )

    def wait(self, *names: str) -> None:
        """Return when these are ready."""
        for name in names:
            process = self._running[name]
            assert process.stdout is not None
            said = process.stdout.readline()
            assert "is ready" in said, (name, (self.folder / f"{name}.log").read_text()[-3000:])
            if name.startswith("gateway"):
                self.urls[name] = said.rsplit(" ", 1)[1].strip()

    def clock_of(self, name: str) -> Path:
        """The file that says by how many seconds its wall clock is ahead."""
        return self.folder / f"{name}.clock"

    def is_running(self, name: str) -> bool:
        """Whether it was started and has not ended, by itself or by us."""
        return name in self._running and self._running[name].poll() is None

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send it to the process and its graph children."""
        os.killpg(self._running[name].pid, number)

    def kill(self, name: str) -> None:
        """SIGKILL of the process and of its graph children."""
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def end(self, name: str, within_s: float) -> None:
        """SIGTERM, and SIGKILL when it has not ended by then: what it needs to end in order may be away."""
        process = self._running[name]
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            pass
        self.kill(name)

    def stop(self, name: str) -> int:
        """SIGTERM; its exit code."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
        return code

    def close(self) -> None:
        """Stop all, the gateways first."""
        for name in reversed(list(self._running)):
            self.stop(name)
