"""Webhooks: asked for with the stock SDK, received on loopback, verified by the public library."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from langgraph_sdk.errors import UnprocessableEntityError
from standardwebhooks import Webhook

from tests.domain.test_webhook import HOSTILE
from tests.receiver import Received, Receiver

SECRETS = [f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2)]
SETTINGS = {
    "CRONLEDGER_WEBHOOK_SECRETS": " ".join(SECRETS),
    "CRONLEDGER_WEBHOOK_RETRY_S": "0.2",
    "CRONLEDGER_FIRST_RUN": "scheduled",
}


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server("hooks", **SETTINGS)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = await Receiver().start()
    yield found
    await found.stop()


def verified(got: Received) -> dict[str, Any]:
    """What it says, if its signature is good by either secret."""
    for secret in SECRETS:
        Webhook(secret).verify(got.body, got.headers)
    return got.told


async def delivery(http: httpx.AsyncClient, run_id: str, state: str, seconds: float = 30) -> dict[str, Any]:
    """The delivery of a run's end, as soon as it is in that state."""
    async with asyncio.timeout(seconds):
        while True:
            found = (await http.get(f"/runs/{run_id}/deliveries")).json()
            if found and found[0]["state"] == state:
                return dict(found[0])
            await asyncio.sleep(0.05)


async def test_a_runs_end_is_told(client: Any, http: httpx.AsyncClient, receiver: Receiver) -> None:
    thread = await client.threads.create(metadata={"a": 1})
    run = await client.runs.create(
        thread["thread_id"],
        "counter",
        input={"count": 1},
        metadata={"m": 1},
        config={"configurable": {"k": "v", "langgraph_auth_user": {"secret": "s3cret"}}},
        webhook=receiver.url("/ok/run?token=t"),
    )
    [got] = await receiver.until(lambda: receiver.of("/ok/run"))
    told = verified(got)
    assert set(told) == {
        *("run_id", "thread_id", "assistant_id", "metadata", "status", "kwargs", "multitask_strategy"),
        *("created_at", "updated_at", "langsmith_session_name", "run_started_at", "run_ended_at"),
        *("webhook_sent_at", "values"),
    }
    assert told["run_id"] == run["run_id"]
    assert told["status"] == "success"
    assert told["values"]["count"] == 2
    assert told["kwargs"]["config"]["configurable"]["k"] == "v"
    assert b"s3cret" not in got.body
    assert got.headers["authorization"] == "Bearer t0ken"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    found = await delivery(http, run["run_id"], "delivered")
    assert found["delivery_id"] == got.id
    assert (found["attempts"], found["last_status"], found["last_error"]) == (1, 200, None)
    assert (await client.runs.get(thread["thread_id"], run["run_id"]))["kwargs"]["webhook"].endswith(
        "token=t"
    )


async def test_each_kind_of_end_is_told(client: Any, receiver: Receiver) -> None:
    failed = await client.runs.create(None, "failing", input={}, webhook=receiver.url("/ok/error"))
    asked = await client.runs.create(None, "asking", input={}, webhook=receiver.url("/ok/asking"))
    thread_id = (await client.threads.create())["thread_id"]
    slow: dict[str, Any] = {"input": {"wait_s": 60}, "webhook": receiver.url("/ok/stopped")}
    stopped = await client.runs.create(thread_id, "counter", **slow)
    waiting = await client.runs.create(thread_id, "counter", **slow)
    await client.runs.cancel(thread_id, waiting["run_id"], action="rollback")
    await client.runs.cancel(thread_id, stopped["run_id"])
    await receiver.until(lambda: len(receiver.got) == 4)
    told = {found["run_id"]: found for found in map(verified, receiver.got)}
    assert told[failed["run_id"]]["status"] == "error"
    assert told[failed["run_id"]]["error"] == {"error": "ValueError", "message": "boom"}
    assert told[asked["run_id"]]["status"] == "success"
    assert told[asked["run_id"]]["values"]["__interrupt__"][0]["value"] == "may I?"
    assert told[stopped["run_id"]]["status"] == "interrupted"
    assert told[waiting["run_id"]]["status"] == "rollback"
    assert told[waiting["run_id"]]["values"] is None


async def test_a_crons_runs_are_told(client: Any, http: httpx.AsyncClient, receiver: Receiver) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    cron = await client.crons.create_for_thread(
        thread_id, "counter", schedule="* * * * * *", input={"count": 1}, webhook=receiver.url("/ok/cron")
    )
    cron_id = cron["cron_id"]
    assert cron["payload"]["webhook"] == receiver.url("/ok/cron")
    first = (await receiver.until(lambda: receiver.of("/ok/cron")))[0].told
    assert first["metadata"]["cron_id"] == first["kwargs"]["config"]["configurable"]["cron_id"] == cron_id
    await http.patch(f"/runs/crons/{cron_id}", json={"webhook": receiver.url("/ok/other")})
    await receiver.until(lambda: receiver.of("/ok/other"))
    cleared = (await http.patch(f"/runs/crons/{cron_id}", json={"webhook": None, "enabled": False})).json()
    assert cleared["payload"].get("webhook") is None
    found = (await http.get(f"/runs/crons/{cron_id}/deliveries", params={"state": "delivered"})).json()
    assert {one["cron_id"] for one in found} == {cron_id}
    assert len(found) >= 2
    assert found == sorted(found, key=lambda one: one["requested_at"], reverse=True)


@pytest.mark.parametrize(
    ("path", "attempts", "state", "status"),
    [
        ("/fail-first/2/503", 3, "delivered", 200),
        ("/fail-first/1/408", 2, "delivered", 200),
        ("/slow-body", 1, "delivered", 200),
        ("/status/204", 1, "delivered", 204),
        ("/status/400", 1, "abandoned", 400),
        ("/status/410", 1, "abandoned", 410),
        ("/loop", 1, "abandoned", None),
    ],
)
async def test_what_receivers_answer(
    client: Any,
    http: httpx.AsyncClient,
    receiver: Receiver,
    path: str,
    attempts: int,
    state: str,
    status: int,
) -> None:
    run = await client.runs.create(None, "counter", input={"count": 1}, webhook=receiver.url(path))
    found = await delivery(http, run["run_id"], state)
    assert (found["attempts"], found["last_status"]) == (attempts, status)
    assert {got.id for got in receiver.of(path)} == {found["delivery_id"]}
    assert [verified(got)["run_id"] for got in receiver.of(path)][-1] == run["run_id"]
    entries = (await http.get("/ledger", params={"stream": found["delivery_id"]})).json()
    assert entries[0]["type"] == "delivery.requested.v1"
    assert len(entries) == attempts + 1


async def test_who_is_busy_is_asked_when_it_said(
    client: Any, http: httpx.AsyncClient, receiver: Receiver
) -> None:
    run = await client.runs.create(None, "counter", input={}, webhook=receiver.url("/busy"))
    await delivery(http, run["run_id"], "delivered")
    first, second = receiver.of("/busy")
    assert first.id == second.id
    assert 1.9 < second.at_s - first.at_s < 20


async def test_a_redirect_takes_nothing_along(
    client: Any, http: httpx.AsyncClient, receiver: Receiver
) -> None:
    other = await Receiver().start()
    try:
        url = receiver.url(f"/to?url={quote(other.url('/ok/there'))}")
        run = await client.runs.create(None, "counter", input={}, webhook=url)
        await delivery(http, run["run_id"], "delivered")
        [got] = other.of("/ok/there")
        assert verified(got)["run_id"] == run["run_id"]
        assert "authorization" not in got.headers  # it was meant for the one that was named
        assert receiver.got[0].headers["authorization"] == "Bearer t0ken"
        seen = await client.runs.create(None, "counter", input={}, webhook=receiver.url("/see?url=/ok"))
        assert (await delivery(http, seen["run_id"], "abandoned"))["last_status"] == 303
    finally:
        await other.stop()


async def test_no_redirect_leads_where_no_webhook_may_go(
    client: Any, http: httpx.AsyncClient, receiver: Receiver
) -> None:
    """The same table as for creation; what names loopback is allowed here by the project."""
    hostile = [url for url, why in HOSTILE if why != "loopback" and url and not url.startswith(("/", " "))]
    # Nor what a redirect may say: a path, a scheme without a host, an empty fragment.
    hostile = [url for url in hostile if "//" in url.rstrip("/") and ":///" not in url and "\r" not in url]
    hostile = [url for url in hostile if len(url) < 2000 and not url.endswith("/#")]
    payloads = [
        {"assistant_id": "counter", "input": {}, "webhook": receiver.url(f"/to?url={quote(url, safe='')}")}
        for url in hostile
    ]
    assert len(payloads) >= 60
    runs = (await http.post("/runs/batch", json=payloads)).json()
    for run, url in zip(runs, hostile, strict=True):
        found = await delivery(http, run["run_id"], "abandoned", 60)
        assert found["attempts"] == 1, url
        assert found["last_error"], url


async def test_a_refused_url_leaves_nothing(client: Any, http: httpx.AsyncClient) -> None:
    before = (await http.get("/ledger", params={"order": "desc", "limit": 1})).json()
    for url in (
        "http://169.254.169.254/",
        "http://no-such-name.invalid/",
        "/runs",
        "http://u:p4ss@a.example/",
    ):
        with pytest.raises(UnprocessableEntityError, match="webhook") as refused:
            await client.runs.create(None, "counter", input={}, webhook=url)
        assert "p4ss" not in str(refused.value)
        with pytest.raises(UnprocessableEntityError, match="webhook"):
            await client.crons.create("counter", schedule="0 9 1 1 *", webhook=url)
    assert (await http.get("/ledger", params={"order": "desc", "limit": 1})).json() == before


async def test_once_more(client: Any, http: httpx.AsyncClient, receiver: Receiver) -> None:
    run = await client.runs.create(None, "counter", input={}, webhook=receiver.url("/status/400"))
    found = await delivery(http, run["run_id"], "abandoned")
    assert found["last_error"] == "it said 400"
    answer = await http.post(f"/deliveries/{found['delivery_id']}/redeliver")
    assert answer.status_code == 200
    assert answer.json()["delivery_id"] == found["delivery_id"]
    await receiver.until(lambda: len(receiver.got) == 2)
    assert len({got.id for got in receiver.got}) == 1
    await delivery(http, run["run_id"], "abandoned")
    assert (await http.get(f"/deliveries/{found['delivery_id']}")).json()["attempts"] == 2
    assert (await http.post(f"/deliveries/{run['run_id']}/redeliver")).status_code == 404
    everything = (await http.get("/deliveries", params={"state": "abandoned", "limit": 1})).json()
    assert everything[0]["state"] == "abandoned"


async def test_a_receiver_that_is_away_for_longer_than_the_server_lives(
    server: Any, receiver: Receiver
) -> None:
    await receiver.stop()  # its port is free now, and nobody listens
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        body = {"assistant_id": "counter", "input": {"count": 1}, "webhook": receiver.url("/ok/late")}
        run = (await http.post("/runs", json=body)).json()
        async with asyncio.timeout(30):
            while True:
                found = (await http.get(f"/runs/{run['run_id']}/deliveries")).json()
                if found and found[0]["attempts"] >= 2:
                    break
                await asyncio.sleep(0.05)
        assert found[0]["state"] == "pending"
        assert found[0]["next_attempt_at"] is not None
        assert found[0]["last_error"].startswith("ConnectError")
    await asyncio.to_thread(server.kill)
    await receiver.start()
    await asyncio.to_thread(server.start)
    [got, *more] = await receiver.until(lambda: receiver.of("/ok/late"))
    assert verified(got)["run_id"] == run["run_id"]
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        done = await delivery(http, run["run_id"], "delivered")
    assert {one.id for one in (got, *more)} == {done["delivery_id"]}


def test_on_the_command_line(server: Any) -> None:
    body = {"assistant_id": "counter", "input": {}, "webhook": "http://127.0.0.1:9/nobody?token=t"}
    run = httpx.post(f"{server.url}/runs", json=body).json()
    until = time.monotonic() + 30
    while not (found := httpx.get(f"{server.url}/runs/{run['run_id']}/deliveries").json()):
        assert time.monotonic() < until
        time.sleep(0.05)
    delivery_id = found[0]["delivery_id"]
    listed = server.command("deliveries", "list", "--state", "pending")
    assert delivery_id in listed.stdout, listed.stderr
    shown = server.command("deliveries", "show", delivery_id)
    assert f"the end of run {run['run_id']} to http://127.0.0.1:9/nobody" in shown.stdout, shown.stderr
    assert "requested" in shown.stdout
    assert server.command("deliveries", "show", run["run_id"]).returncode == 1

    def again(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services", "deliveries", "redeliver", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    asked = again(delivery_id, "--url", server.url)
    assert asked.stdout.startswith(delivery_id), asked.stderr
    told = json.loads(again(delivery_id, "--url", server.url, "--json").stdout)
    assert told["delivery_id"] == delivery_id
    assert "asked_again" in server.command("deliveries", "show", delivery_id).stdout
    for arguments, why in (
        ((run["run_id"], "--url", server.url), "Delivery not found"),
        ((delivery_id, "--url", "http://127.0.0.1:9"), "is the server running there"),
        (("nonsense",), "not a UUID"),
    ):
        refused = again(*arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert why in refused.stderr
        assert "Traceback" not in refused.stderr


async def test_of_two_senders_one_posts(server: Any, receiver: Receiver) -> None:
    body = {"assistant_id": "counter", "input": {"count": 1}, "webhook": receiver.url("/ok/beside")}
    config = server.folder / "project" / "langgraph.json"
    command = [
        sys.executable,
        "-m",
        "services",
        "sender",
        "--data",
        str(server.data),
        "--config",
        str(config),
    ]
    beside = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **SETTINGS}
    )
    try:
        assert beside.stdout is not None
        assert b"ready" in await beside.stdout.readline()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            runs = [(await http.post("/runs", json=body)).json()["run_id"] for _ in range(20)]
            for run_id in runs:
                await delivery(http, run_id, "delivered")
        assert len(receiver.got) == 20
        assert {got.told["run_id"] for got in receiver.got} == set(runs)
    finally:
        beside.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await beside.wait() == 0


async def test_a_slow_receiver_holds_up_nobody_else(http: httpx.AsyncClient, receiver: Receiver) -> None:
    other = await Receiver().start()
    try:
        slow = [
            {"assistant_id": "counter", "input": {}, "webhook": f"http://localhost:{receiver.port}/wait/5"}
            for _ in range(1000)
        ]
        assert (await http.post("/runs/batch", json=slow)).status_code == 200
        await receiver.until(lambda: len(receiver.got) >= 8, 60)
        body = {"assistant_id": "counter", "input": {}, "webhook": other.url("/ok")}
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        for _ in range(5):
            await http.post(f"/threads/{thread_id}/runs/wait", json=body)
        told = [got.told for got in await other.until(lambda: len(other.got) == 5 and other.got, 30)]
        ended, sent = (
            [datetime.fromisoformat(one[name]) for one in told]
            for name in ("run_ended_at", "webhook_sent_at")
        )
        late_ms = sorted((b - a).total_seconds() * 1000 for a, b in zip(ended, sent, strict=True))
        print("ms from the end to the attempt:", [f"{ms:.0f}" for ms in late_ms])
        assert late_ms[2] < 2000
        assert len(receiver.got) < 200  # by far not all of them
    finally:
        await other.stop()
