"""Probes tell the truth: of a start that waits, a part that fails, an edge that is away, a loop that hangs."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from services.gateway.server import GatewayServer
from services.kit.lifecycle import Step, Whole
from services.kit.probes import Probes
from tests.conftest import REPOSITORY
from tests.nats import NatsNode, free_port
from tests.postgres import Postgres


async def nothing() -> None:
    pass


async def test_a_part_that_fails_is_told_and_not_ready_is_not_dead() -> None:
    part, whole = Step("roof", nothing), Whole("house")
    server = GatewayServer(Probes([whole]), "127.0.0.1", 0, "health")
    whole.parts += [server, part]
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as http:
        early = await http.get("/ready")
        assert (early.status_code, early.json()["services"]["roof"]) == (503, "not started")
        await whole.start()
        assert (await http.get("/ready")).json() == {
            "status": "healthy",
            "services": {"house": "ok", "health": "ok", "roof": "ok"},
        }
        part.failing = "it rains in"
        for path in ("/ready", "/health"):
            assert (await http.get(path)).status_code == 503
            assert (await http.get(path)).json()["services"]["roof"] == "it rains in"
        assert ((await http.get("/live")).status_code, (await http.get("/else")).status_code) == (200, 404)
        await whole.stop()
        with pytest.raises(httpx.ConnectError):
            await http.get("/live")


def test_a_loop_that_hangs_gives_no_answer() -> None:
    loop, server = asyncio.new_event_loop(), GatewayServer(Probes([]), "127.0.0.1", 0, "health")
    thread, hanging = threading.Thread(target=loop.run_forever), threading.Event()
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=0.5) as http:
        assert http.get("/live").status_code == 200
        loop.call_soon_threadsafe(hanging.wait)
        with pytest.raises(httpx.TimeoutException):
            http.get("/live")
        hanging.set()
        assert http.get("/live", timeout=10).status_code == 200
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


class Alone:
    """Processes on a PostgreSQL database and one nats-server, each with a health port."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.nats = folder, NatsNode(folder / "nats").start()
        self._environment = {
            **os.environ,
            "CRONLEDGER_DATABASE_URL": postgres.url_of(postgres.database()),
            "CRONLEDGER_NATS_URL": self.nats.url,
            "CRONLEDGER_LOG_LEVEL": "error",
        }
        self._running: list[subprocess.Popen[bytes]] = []
        self.run("migrate")

    def begin(self, service: str) -> tuple[subprocess.Popen[bytes], int]:
        port = free_port()
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                self._command(service, "--data", str(self.folder)),
                cwd=REPOSITORY,
                env={**self._environment, "CRONLEDGER_HEALTH_PORT": str(port)},
                stdout=log,
                stderr=log,
            )
        self._running.append(process)
        return process, port

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*arguments),
            cwd=REPOSITORY,
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def close(self) -> None:
        for process in self._running:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.nats.kill()

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "services", *arguments]


@pytest.fixture
def alone(tmp_path: Path, postgres: Postgres) -> Iterator[Alone]:
    processes = Alone(tmp_path, postgres)
    yield processes
    processes.close()


def probe(port: int, path: str) -> tuple[int, dict[str, str]]:
    """Status and parts; 0 when there is no answer."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=2)
    except httpx.TransportError:
        return 0, {}
    return answer.status_code, answer.json().get("services", {})


def wait_until(true: Callable[[], bool], within_s: float = 40) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_process_tells_of_its_start_its_edges_and_its_end(alone: Alone) -> None:
    relay, port = alone.begin("relay")
    wait_until(lambda: probe(port, "/ready")[1].get("views.shown") == "not started")
    assert probe(port, "/live")[0] == 200  # it waits for read models: no reason to start it again

    _, projector_port = alone.begin("projector")
    wait_until(lambda: probe(port, "/ready")[0] == 200)
    wait_until(lambda: probe(projector_port, "/ready")[0] == 200)
    asked = alone.run("health", CRONLEDGER_HEALTH_PORT=str(port))
    assert (asked.returncode, asked.stdout) == (0, "healthy\n")

    alone.nats.kill()
    wait_until(lambda: probe(port, "/ready")[0] == 503)
    assert probe(port, "/live")[0] == 200
    told = alone.run("health", CRONLEDGER_HEALTH_PORT=str(port))
    assert (told.returncode, "relay" in told.stderr or "bus" in told.stderr) == (1, True), told.stderr
    assert alone.run("health", "--live", CRONLEDGER_HEALTH_PORT=str(port)).returncode == 0
    alone.nats.start()
    wait_until(lambda: probe(port, "/ready")[0] == 200)

    relay.send_signal(signal.SIGSTOP)
    assert probe(port, "/live")[0] == 0
    assert "no answer" in alone.run("health", "--live", CRONLEDGER_HEALTH_PORT=str(port)).stderr
    relay.send_signal(signal.SIGCONT)
    wait_until(lambda: probe(port, "/ready")[0] == 200)
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(30) == 0
    assert probe(port, "/live")[0] == 0


def test_a_port_that_is_taken_is_told_with_the_setting_that_names_it(alone: Alone) -> None:
    told = alone.run("relay", CRONLEDGER_HEALTH_PORT=str(alone.nats.port))
    assert (told.returncode, "CRONLEDGER_HEALTH_PORT" in told.stderr) == (1, True), told.stderr
    assert "not set" in alone.run("health").stderr
