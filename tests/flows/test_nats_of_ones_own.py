"""`cronledger up` on NATS that somebody else runs, from the command line, with the real client."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from langgraph_sdk import get_client

from tests.conftest import REPOSITORY, Make
from tests.nats import NatsNode

PASSWORD = "s3cr3t"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NatsNode]:
    """A server with a user."""
    made = NatsNode(tmp_path / "nats", f"authorization {{ user: me, password: {PASSWORD} }}").start()
    yield made
    made.kill()


async def test_runs_go_on_over_a_server_of_ones_own(node: NatsNode, make_server: Make) -> None:
    url = f"nats://me:{PASSWORD}@127.0.0.1:{node.port}"
    server = make_server(CRONLEDGER_NATS_URL=url, CRONLEDGER_NATS_PREFIX="blue")
    async with get_client(url=server.url) as client:
        parts = [part async for part in client.runs.stream(None, "counter", input={"count": 1})]
        assert {"metadata", "values"} <= {part.event for part in parts}
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http, asyncio.timeout(30):
        while (health := await http.get("/health")).status_code != 200:  # noqa: ASYNC110 - a client
            await asyncio.sleep(0.2)
        assert health.json()["services"]["nats"] == "ok"
    assert not (server.data / "nats").exists()
    server.kill()
    server.start()  # the streams are there
    async with get_client(url=server.url) as client:
        await client.runs.wait(None, "counter", input={"count": 1})
    assert server.command("replay").returncode == 0  # asks the server, over NATS
    server.stop()
    assert PASSWORD not in (server.folder / "server.log").read_text()


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        (
            {"CRONLEDGER_NATS_URL": "nats://me:wrong@127.0.0.1:{port}"},
            "it refuses the user 'me' with that password",
        ),
        (
            {"CRONLEDGER_NATS_URL": "nats://me:wrong@a", "CRONLEDGER_NATS_PREFIX": "a.b"},
            "CRONLEDGER_NATS_PREFIX=a.b: ",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    node: NatsNode, tmp_path: Path, environment: dict[str, str], text: str
) -> None:
    told = {name: value.format(port=node.port) for name, value in environment.items()}
    (tmp_path / "langgraph.json").write_text('{"graphs": {"g": "./graphs.py:g"}, "dependencies": ["."]}')
    (tmp_path / "graphs.py").touch()  # nobody comes so far that it is looked into
    config = tmp_path / "langgraph.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "services",
            "up",
            "--data",
            str(tmp_path / "data"),
            "--port",
            "0",
            "--config",
            str(config),
        ],
        cwd=REPOSITORY,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert "wrong" not in done.stderr
