"""Many who listen, some who hardly do, and a bus that stands still: memory stays within bounds, others are not late."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

pytestmark = pytest.mark.long
MANY = 500
WORDS = 27
HELLO = {"messages": [{"role": "user", "content": "hello", "id": "h-1"}]}
LARGE: dict[str, Any] = {"text": "x" * 5_000_000, "steps": 25}
GATEWAY_MB = 150
"""What the process of the server may take more at most, whatever listens: windows, a batch in hand of each client, and
what sockets hold."""
LATE_S = 3.0
PROBE = """
import http.client, sys, time
host, port = sys.argv[1].split(":")
slowest = 0.0
try:
    while True:
        began = time.monotonic()
        one = http.client.HTTPConnection(host, int(port), timeout=60)
        one.request("GET", "/info")
        assert one.getresponse().status == 200
        one.close()
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.1)
except KeyboardInterrupt:
    print(slowest)
"""
"""Somebody else, in a process of its own: this one is busy with its many connections."""


class Watched:
    """A server whose memory is measured."""

    def __init__(self, server: Any) -> None:
        self.url, self.pid = str(server.url), int(server.process.pid)
        self.http = httpx.AsyncClient(
            base_url=self.url, timeout=120, limits=httpx.Limits(max_connections=None)
        )

    @asynccontextmanager
    async def within(self, megabytes: int) -> AsyncIterator[None]:
        """Fail when the server's process takes more than so much meanwhile, or somebody else waits long."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # the peak begins anew
        before = peak_mb(self.pid)
        arguments = (sys.executable, "-c", PROBE, self.url.removeprefix("http://"))
        probe = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        try:
            yield
        finally:
            probe.send_signal(signal.SIGINT)
            slowest, _ = await probe.communicate()
        took = peak_mb(self.pid) - before
        print(f"{took:.0f} MB, others waited {float(slowest):.2f} s at most")
        assert took < megabytes
        assert float(slowest) < LATE_S

    async def start(self, graph: str, given: Any, **more: Any) -> str:
        """A run on a new thread: its path."""
        thread = (await self.http.post("/threads", json={})).json()["thread_id"]
        body = {"assistant_id": graph, "input": given, **more}
        answer = await self.http.post(f"/threads/{thread}/runs", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.headers["content-location"])


def peak_mb(pid: int) -> float:
    """The most memory that the process had since it was last asked to count anew."""
    told = Path(f"/proc/{pid}/status").read_text()
    return int(told.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server("streaming")


@pytest.fixture
async def watched(server: Any) -> AsyncIterator[Watched]:
    made = Watched(server)
    yield made
    await made.http.aclose()


async def count(http: httpx.AsyncClient, path: str, needle: bytes, **kwargs: Any) -> int:
    """How often it stands in an answer."""
    found = 0
    async with http.stream(kwargs.pop("method", "GET"), path, **kwargs) as answer:
        async for piece in answer.aiter_bytes():
            found += piece.count(needle)
    return found


async def test_many_clients_on_one_run(watched: Watched) -> None:
    async with watched.within(GATEWAY_MB):
        path = await watched.start("slow", HELLO, stream_mode=["messages-tuple"], stream_resumable=True)
        headers = {"Last-Event-ID": "-"}
        counts = (
            count(watched.http, path + "/stream", b"event: messages", headers=headers) for _ in range(MANY)
        )
        assert set(await asyncio.gather(*counts)) == {WORDS}


async def test_one_client_on_many_runs(watched: Watched) -> None:
    threads = [str(uuid4()) for _ in range(MANY)]
    opened = asyncio.Semaphore(0)

    async def told(thread: str) -> None:
        body = {"channels": ["lifecycle"]}
        async with watched.http.stream("POST", f"/threads/{thread}/stream/events", json=body) as answer:
            opened.release()
            async for line in answer.aiter_lines():
                if '"completed"' in line:
                    return

    async with watched.within(GATEWAY_MB), asyncio.TaskGroup() as group:
        for thread in threads:
            group.create_task(told(thread))
        for _ in threads:
            await opened.acquire()
        for thread in threads:
            params = {"assistant_id": "large", "input": {"steps": 1}}
            body = {"id": 1, "method": "run.start", "params": params}
            answer = await watched.http.post(f"/threads/{thread}/commands", json=body)
            assert answer.json()["type"] == "success", answer.text


async def test_clients_that_hardly_read(watched: Watched) -> None:
    """They hold a batch each, and the run does not wait for them."""
    async with watched.within(GATEWAY_MB):
        path = await watched.start("large", LARGE, stream_mode=["values"], stream_resumable=True)
        host, port = watched.url.removeprefix("http://").split(":")
        slow = []
        for _ in range(5):
            one = socket.create_connection((host, int(port)))
            one.sendall(f"GET {path}/stream HTTP/1.1\r\nhost: x\r\nlast-event-id: -\r\n\r\n".encode())
            slow.append(one)
        counts = count(watched.http, path + "/stream", b"event: values", headers={"Last-Event-ID": "-"})
        reading = asyncio.create_task(counts)
        while not reading.done():
            await asyncio.sleep(0.2)
            for one in slow:
                assert one.recv(1)
        for one in slow:
            one.close()
        # The stream keeps a part of so much, and says so.
        assert 1 <= await reading <= LARGE["steps"] + 1
        done = await watched.http.get(path)
        assert done.json()["status"] == "success"


def nats_of(pid: int) -> int:
    """The process of the server's own nats-server."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in map(int, children):
        if "nats" in Path(f"/proc/{child}/cmdline").read_text():
            return child
        try:
            return nats_of(child)
        except LookupError:
            continue
    raise LookupError("no nats-server")


async def test_a_bus_that_stands_still_slows_the_graph_down(watched: Watched) -> None:
    nats = nats_of(watched.pid)
    path = await watched.start("large", {**LARGE, "steps": 60}, stream_mode=["values"], stream_resumable=True)
    reading = asyncio.create_task(
        count(watched.http, path + "/stream", b"event: ", headers={"Last-Event-ID": "-"})
    )
    await asyncio.sleep(0.3)
    async with watched.within(GATEWAY_MB):
        os.kill(nats, signal.SIGSTOP)
        try:
            await asyncio.sleep(5)
            assert (await watched.http.get(path)).json()["status"] == "running"
        finally:
            os.kill(nats, signal.SIGCONT)
        assert await asyncio.wait_for(reading, 60) > 2
    assert (await watched.http.get(path)).json()["status"] == "success"
