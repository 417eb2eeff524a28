"""A whole server whose parts are hurt: health names them, and a part that can't be kept ends the process."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.conftest import Make, Server


def until(true: Callable[[], bool], most_s: float = 30.0) -> None:
    end = time.monotonic() + most_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def nats_of(server: Server) -> list[int]:
    """Process ids of the server's own nats-server."""
    assert server.process is not None
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [number for number in numbers if is_nats(Path(f"/proc/{number}"), server.process.pid)]


def is_nats(process: Path, parent: int) -> bool:
    try:
        theirs = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        return theirs == parent and b"nats-server" in (process / "cmdline").read_bytes()
    except OSError:
        return False  # it has just ended


def test_health_is_of_every_part(server: Server) -> None:
    answer = httpx.get(f"{server.url}/health")
    assert answer.status_code == 200, answer.text
    names = set(answer.json()["services"])
    assert names >= {"folder", "nats", "bus", "bus.streams", "log", "log.writer", "log.owner", "projector"}
    assert names >= {"projector.thread", "projector.door", "views", "relay", "scheduler", "worker", "gateway"}
    assert names >= {
        "worker.children",
        "webhooks",
        "webhooks.sender",
        "webhooks.attempts",
        "gateway.shared",
        "gateway.ends",
        "gateway.live",
        "gateway.background",
    }


def test_nats_that_dies_is_named_and_comes_back_and_at_the_fourth_time_ends_the_process(
    server: Server,
) -> None:
    told: list[set[str]] = []

    def looked() -> bool:
        """Whether all is well; what is not is kept."""
        services = httpx.get(f"{server.url}/health", timeout=10).json()["services"]
        told.append({name for name, state in services.items() if state != "ok"})
        return not told[-1]

    process = server.process
    assert process is not None
    for _ in range(3):
        [pid] = nats_of(server)
        os.kill(pid, signal.SIGKILL)
        # On a busy machine it may be back before anybody looks.
        until(lambda pid=pid: not looked() or nats_of(server) not in ([], [pid]), 10)  # type: ignore[misc]
        until(lambda: looked() and len(nats_of(server)) == 1)
    assert any({"nats", "bus"} & names for names in told)
    [pid] = nats_of(server)
    os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=30) == 70
    log = (server.folder / "server.log").read_text()
    assert "cronledger: nats has ended: nats-server died 4 times in a minute" in log


def test_stream_that_never_ends_does_not_keep_the_server(make_server: Make) -> None:
    server = make_server()
    with httpx.Client(base_url=server.url, timeout=30) as client:
        thread_id = client.post("/threads", json={}).json()["thread_id"]
        body = {"assistant_id": "counter", "input": {"wait_s": 300}}
        with client.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as stream:
            assert next(stream.iter_lines()).startswith("event: metadata")
            process, began = server.process, time.monotonic()
            assert process is not None
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
            assert time.monotonic() - began < 20


def test_server_goes_on_when_nats_has_lost_its_folder(make_server: Make) -> None:
    server = make_server()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        thread_id = client.post("/threads", json={}).json()["thread_id"]
        body = {"assistant_id": "counter", "input": {}}
        for count in (1, 2):
            answer = client.post(f"/threads/{thread_id}/runs/wait", json=body)
            assert answer.json()["count"] == count, answer.text
            [pid] = nats_of(server)
            os.kill(pid, signal.SIGSTOP)  # so that it writes nothing meanwhile
            shutil.rmtree(server.data / "nats" / "js")
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: nats_of(server) not in ([], [pid]))  # type: ignore[misc]
        until(lambda: client.get("/health").status_code == 200)
        assert client.post(f"/threads/{thread_id}/runs/wait", json=body).json()["count"] == 3
