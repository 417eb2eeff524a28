"""Where real projects and clients met the server: ids used again, checkpoints that are not there, odd bodies."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import NotFoundError

NEVER = "0 0 1 1 *"


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server()


async def topics(http: httpx.AsyncClient, **query: str) -> list[str]:
    entries = (await http.get("/ledger", params={**query, "limit": 1000})).json()
    return [entry["type"] for entry in entries]


# --- ids have several lives ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["create", "do_nothing", "run"])
async def test_the_id_of_a_deleted_thread_begins_anew(client: Any, http: httpx.AsyncClient, how: str) -> None:
    thread_id = str(uuid4())
    await client.threads.create(thread_id=thread_id, metadata={"life": 1})
    await client.runs.wait(thread_id, "counter", input={})
    former = await client.runs.list(thread_id)
    await client.threads.delete(thread_id)
    if how == "run":
        values: Any = await client.runs.wait(thread_id, "counter", input={}, if_not_exists="create")
    else:
        options: Any = {"if_exists": "do_nothing"} if how == "do_nothing" else {}
        made = await client.threads.create(thread_id=thread_id, **options)
        assert (made["metadata"], made["values"], made["status"]) == ({}, None, "idle")
        assert (await client.threads.get_state(thread_id))["values"] == {}
        assert await client.runs.list(thread_id) == []
        values = await client.runs.wait(thread_id, "counter", input={})
    assert values["count"] == 1  # nothing of the former life's state
    assert len(await client.threads.get_history(thread_id, limit=100)) == 3
    assert [run["run_id"] for run in await client.runs.list(thread_id)] != [former[0]["run_id"]]
    with pytest.raises(NotFoundError):
        await client.runs.get(thread_id, former[0]["run_id"])
    told = await topics(http, thread=thread_id)
    assert told.count("thread.created.v1") == 2
    assert told.count("run.succeeded.v1") == 2


async def test_a_thread_whose_runs_still_stop_has_to_wait(client: Any, http: httpx.AsyncClient) -> None:
    thread_id = str(uuid4())
    await client.threads.create(thread_id=thread_id)
    run = await client.runs.create(thread_id, "counter", input={"wait_s": 60})
    while (await client.runs.get(thread_id, run["run_id"]))["status"] != "running":  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    await client.threads.delete(thread_id)
    async with asyncio.timeout(20):
        while (answer := await http.post("/threads", json={"thread_id": thread_id})).status_code != 200:
            assert answer.status_code == 409
            assert "have not stopped" in answer.json()["detail"]
            await asyncio.sleep(0.05)
    values: Any = await client.runs.wait(thread_id, "counter", input={})
    assert values["count"] == 1
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_the_id_of_a_deleted_assistant_begins_anew(client: Any, http: httpx.AsyncClient) -> None:
    assistant_id = str(uuid4())
    await client.assistants.create("counter", assistant_id=assistant_id, name="first")
    await client.assistants.update(assistant_id, name="second")
    await client.assistants.delete(assistant_id)
    made = await client.assistants.create("failing", assistant_id=assistant_id, name="third")
    assert (made["version"], made["name"]) == (1, "third")
    assert [v["name"] for v in await client.assistants.get_versions(assistant_id)] == ["third"]
    with pytest.raises(NotFoundError):
        await client.assistants.set_latest(assistant_id, 2)
    told = await topics(http, stream=assistant_id)
    assert told.count("assistant.created.v1") == 2


# --- checkpoints that are not there -------------------------------------------------------------------


async def test_an_unknown_checkpoint_is_refused_and_nothing_is_written(
    client: Any, http: httpx.AsyncClient
) -> None:
    ours, others = await client.threads.create(), await client.threads.create()
    for thread in (ours, others):
        await client.runs.wait(thread["thread_id"], "counter", input={})
    thread_id = ours["thread_id"]
    theirs = (await client.threads.get_state(others["thread_id"]))["checkpoint"]["checkpoint_id"]
    before = await topics(http, thread=thread_id)
    run = {"assistant_id": "counter", "input": {}}
    for unknown in (str(uuid4()), theirs, "x"):
        for named in (
            {"checkpoint_id": unknown},
            {"checkpoint": {"checkpoint_id": unknown}},
            {"checkpoint": {"checkpoint_map": {"": unknown}}},
            {"config": {"configurable": {"checkpoint_id": unknown}}},
        ):
            for path in ("/runs", "/runs/wait", "/runs/stream"):
                answer = await http.post(f"/threads/{thread_id}{path}", json=run | named)
                assert (answer.status_code, "checkpoint" in answer.json()["detail"]) == (404, True)
            cron = {**run, **named, "schedule": NEVER}
            if "config" in named:
                answer = await http.post(f"/threads/{thread_id}/runs/crons", json=cron)
                assert answer.status_code == 404
        for named in ({"checkpoint_id": unknown}, {"checkpoint": {"checkpoint_id": unknown}}):
            answer = await http.post(f"/threads/{thread_id}/state", json={"values": {"count": 1}, **named})
            assert answer.status_code == 404
    assert await topics(http, thread=thread_id) == before
    ours_at = (await client.threads.get_state(thread_id))["checkpoint"]["checkpoint_id"]
    values: Any = await client.runs.wait(thread_id, "counter", input={}, checkpoint_id=ours_at)
    assert values["count"] == 2


# --- bodies -------------------------------------------------------------------------------------------


async def test_a_command_wins_over_an_input(client: Any) -> None:
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "asking", input={})
    values: Any = await client.runs.wait(thread["thread_id"], "asking", input={}, command={"resume": "yes"})
    assert values["asked"] == {"answer": "yes"}


async def test_what_the_body_tells_is_refused_before_anything_is_looked_up(http: httpx.AsyncClient) -> None:
    nobody, nowhere = str(uuid4()), str(uuid4())
    for wrong, field in (
        ({"end_time": "2020-01-01T00:00:00Z"}, "end_time"),
        ({"end_time": "9999-12-31T23:59:59-12:00"}, "end_time"),
        ({"end_time": "10000-01-01T00:00:00Z"}, "end_time"),
        ({"end_time": "0000-01-01T00:00:00Z"}, "end_time"),
        ({"schedule": "often"}, "schedule"),
        ({"timezone": "Mars/Base"}, "timezone"),
    ):
        body = {"assistant_id": nobody, "schedule": NEVER, **wrong}
        for path in ("/runs/crons", f"/threads/{nowhere}/runs/crons"):
            answer = await http.post(path, json=body)
            assert (answer.status_code, field in answer.json()["detail"]) == (422, True), answer.text


async def test_the_payload_is_the_body_that_the_cron_was_created_with(client: Any) -> None:
    cron: Any = await client.crons.create(
        "counter", schedule=NEVER, timezone="Europe/Berlin", input={"a": 1}, enabled=False
    )
    assert cron["payload"] == {
        "assistant_id": cron["assistant_id"],
        "schedule": NEVER,
        "timezone": "Europe/Berlin",
        "input": {"a": 1},
        "enabled": False,
        "config": {"configurable": {"cron_id": cron["cron_id"]}},
    }
    resumed: Any = await client.crons.update(cron["cron_id"], enabled=True)
    assert resumed["payload"]["enabled"] is True


@pytest.mark.parametrize("value", [{}, {"value": None}, {"value": [1]}, {"value": "text"}])
async def test_the_value_of_an_item_is_an_object(http: httpx.AsyncClient, value: dict[str, Any]) -> None:
    answer = await http.put("/store/items", json={"namespace": ["a"], "key": "k", **value})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "value: must be an object"


@pytest.mark.parametrize("ttl", [1e12, 1e300])
async def test_a_lifetime_beyond_every_date_is_refused(http: httpx.AsyncClient, ttl: float) -> None:
    item = {"namespace": ["a"], "key": "k", "value": {}, "ttl": ttl}
    answer = await http.put("/store/items", json=item)
    assert (answer.status_code, answer.json()["detail"].startswith("ttl: ")) == (422, True)


# --- a graph that left the project --------------------------------------------------------------------


async def occurrences(http: httpx.AsyncClient, cron_id: str, **query: str) -> list[Any]:
    found: list[Any] = (await http.get(f"/runs/crons/{cron_id}/occurrences", params=query)).json()
    return found


async def test_crons_of_a_graph_that_left_wait_until_it_is_back(make_server: Any) -> None:
    server = make_server(CRONLEDGER_FIRST_RUN="scheduled")
    config = server.folder / "project" / "langgraph.json"
    whole = config.read_text()
    async with get_client(url=server.url) as client:
        own: Any = await client.assistants.create("stepping", name="own")
        thread = await client.threads.create()
        left: Any = await client.crons.create(own["assistant_id"], schedule="* * * * * *")
        threaded: Any = await client.crons.create_for_thread(
            thread["thread_id"], "stepping", schedule="* * * * * *"
        )
        stays: Any = await client.crons.create("counter", schedule="* * * * * *")
    server.stop()
    config.write_text(whole.replace(',\n    "stepping": "./graphs.py:stepping"', ""))
    assert "stepping" not in config.read_text()
    server.start()
    assert "graph=stepping crons=2" in (server.folder / "server.log").read_text()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        for cron in (left, threaded):
            async with asyncio.timeout(20):
                while not await occurrences(http, cron["cron_id"], status="skipped"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            [skipped, *_] = await occurrences(http, cron["cron_id"], status="skipped")
            assert skipped["reason"] == "graph_missing"
            ledger = (await http.get(f"/runs/crons/{cron['cron_id']}")).json()["ledger"]
            assert (ledger["state"], "'stepping'" in ledger["reason"]) == ("blocked", True)
        assert (await http.get(f"/runs/crons/{stays['cron_id']}")).json()["ledger"]["state"] == "active"
        for assistant_id in (own["assistant_id"], "stepping"):
            body = {"assistant_id": assistant_id, "schedule": NEVER}
            for path in ("/runs", "/runs/crons", f"/threads/{thread['thread_id']}/runs"):
                answer = await http.post(path, json=body)
                assert (answer.status_code, "graphs are" in answer.json()["detail"]) == (422, True)
    server.stop()
    config.write_text(whole)
    server.start()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        for cron in (left, threaded, stays):
            fired = len(await occurrences(http, cron["cron_id"], status="fired"))
            async with asyncio.timeout(20):
                while len(await occurrences(http, cron["cron_id"], status="fired")) <= fired:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            ledger = (await http.get(f"/runs/crons/{cron['cron_id']}")).json()["ledger"]
            assert (ledger["state"], ledger["reason"]) == ("active", None)
