"""The images: their steps are run in folders that begin empty, and what comes of it is run as it would be."""

import importlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from services.kit.bus.embedded import find_binary
from services.worker.child.__main__ import NEEDED
from tests.conftest import REPOSITORY
from tests.images import KNOWN, Image, build, instructions
from tests.nats import free_port
from tests.postgres import Postgres

DEPLOY = REPOSITORY / "deploy"
DOCKERFILES = (DEPLOY / "Dockerfile", DEPLOY / "sample" / "Dockerfile")
SERVER = "cronledger:0.1.0"
WRITABLE = ("/tmp", "/data")
FILLED = re.compile(r"\$\{(\w+)(?::[-?]([^${}]*))?\}")
"""Of the compose file: a variable, and what stands for it when it is not set."""


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_instruction_is_one_that_is_run_here(path: Path) -> None:
    words = [word for word, _ in instructions(path.read_text())]
    assert set(words) <= {*KNOWN, "WORKDIR"}
    assert words.count("FROM") == 2


def test_an_interpreter_for_graphs_gets_all_that_the_child_asks_for() -> None:
    lines = (DEPLOY / "graph-requirements.txt").read_text().splitlines()
    assert set(NEEDED.values()) <= set(lines)
    assert {"langgraph-checkpoint-postgres", "psycopg[binary]"} <= set(lines)
    for module in NEEDED:
        importlib.import_module(module)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, Image]:
    """The server's, and that of the sample project."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount the folders of an image")
    folder = tmp_path_factory.mktemp("images")
    server = build(DOCKERFILES[0], REPOSITORY, {}, folder / "server")
    return server, build(DOCKERFILES[1], DEPLOY / "sample", {SERVER: server}, folder / "agents")


class Container:
    """A process in an image whose files can't be written."""

    def __init__(
        self, image: Image, *arguments: str, writable: Sequence[str] = WRITABLE, **environment: str
    ) -> None:
        self.health_port = free_port()
        given = {"CRONLEDGER_HEALTH_PORT": str(self.health_port), "CRONLEDGER_LOG_LEVEL": "warning"}
        command = image.command(arguments, writable=writable, **{**given, **environment})
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ready(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{self.health_port}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        self._process.kill()
        raise AssertionError(self._process.communicate()[0])

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        said, _ = self._process.communicate(timeout=30)
        assert self._process.returncode == 0, said


def said(image: Image, *arguments: str, **environment: str) -> str:
    command = image.command(arguments, writable=WRITABLE, **environment)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def greeted(url: str) -> str:
    body = {"assistant_id": "greeter", "input": {"name": "Ada"}}
    return str(httpx.post(f"{url}/runs/wait", json=body, timeout=60).json()["greetings"])


@pytest.mark.long
def test_the_image_has_the_server_and_nothing_that_can_be_written(images: tuple[Image, Image]) -> None:
    server, _ = images
    assert said(server, "cronledger", "--version") == "cronledger 0.1.0\n"
    assert said(server, "id", "-u") == "10001\n"
    assert "Read-only" in said(server, "sh", "-c", "touch /opt/cronledger/x")
    assert "No such file" in said(server, "ls", "/src")
    assert "No module named pip" in said(server, "python", "-m", "pip")
    assert "CRONLEDGER_DATABASE_URL is not set" in said(server, "cronledger", "migrate")


@pytest.mark.long
def test_a_project_on_top_is_served_by_one_process(images: tuple[Image, Image]) -> None:
    port = free_port()
    with Container(images[1], "cronledger", "up", CRONLEDGER_PORT=str(port)) as container:
        container.ready()
        assert "Good day, Ada" in greeted(f"http://127.0.0.1:{port}")
        health = said(images[1], "cronledger", "health", CRONLEDGER_HEALTH_PORT=str(container.health_port))
        assert health == "healthy\n"
        container.stop()


@pytest.fixture
def composed(tmp_path: Path, postgres: Postgres) -> Iterator[dict[str, dict[str, Any]]]:
    """Our services of the compose file, with its PostgreSQL and its NATS at addresses of this machine."""
    given = {"POSTGRES_PASSWORD": "s3cret", "NATS_PASSWORD": "s3cret", "NATS_NAME": "nats"}
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE cronledger SUPERUSER LOGIN PASSWORD 's3cret'")
        connection.execute("CREATE DATABASE cronledger OWNER cronledger")
    port, monitor = free_port(), free_port()
    config = (DEPLOY / "compose" / "nats.conf").read_text().replace("/data", str(tmp_path / "js"))
    (tmp_path / "conf").write_text(config.replace("4222", str(port)).replace("8222", str(monitor)))
    nats = subprocess.Popen(
        [find_binary(), "--config", tmp_path / "conf"], env=os.environ | given, stderr=subprocess.DEVNULL
    )
    text = (DEPLOY / "compose" / "compose.yaml").read_text()
    while (filled := FILLED.sub(lambda match: given.get(match[1], match[2]), text)) != text:
        text = filled
    text = text.replace("@postgres:5432", f"@127.0.0.1:{postgres.port}")
    services = yaml.safe_load(text.replace("@nats:4222", f"@127.0.0.1:{port}"))["services"]
    services = {name: one for name, one in services.items() if "tmpfs" in one}
    for one in services.values():
        one["environment"] = {name: value or "" for name, value in one["environment"].items()}
    yield services
    nats.kill()
    nats.wait()


@pytest.mark.long
def test_each_service_runs_as_composed(
    images: tuple[Image, Image], composed: dict[str, dict[str, Any]]
) -> None:
    agents, port = images[1], free_port()
    assert "up to date" in said(agents, "cronledger", "migrate", **composed.pop("migrate")["environment"])
    assert len(composed) == 6
    with ExitStack() as stack:
        containers = [
            stack.enter_context(
                Container(
                    agents,
                    "cronledger",
                    *one["command"],
                    writable=one["tmpfs"],
                    **one["environment"],
                    CRONLEDGER_PORT=str(port),
                )
            )
            for one in composed.values()
        ]
        for container in containers:
            container.ready()
        assert "Good day, Ada" in greeted(f"http://127.0.0.1:{port}")
        for container in reversed(containers):
            container.stop()
