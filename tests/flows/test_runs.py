"""Runs as users of the stock SDK ask for, watch and stop them, against a real `cronledger up`."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import ConflictError, NotFoundError

SLOW = {"wait_s": 30}
STRATEGIES = ("enqueue", "interrupt", "rollback", "reject")


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any], database: dict[str, str]) -> Any:
    return make_shared_server(**database)


@pytest.fixture
def sync_client(server: Any) -> Iterator[Any]:
    with get_sync_client(url=server.url) as connected:
        yield connected


async def until(ask: Callable[[], Awaitable[Any]], seconds: float = 20) -> Any:
    """The first answer that is true."""
    async with asyncio.timeout(seconds):
        while not (answer := await ask()):  # noqa: ASYNC110 - nothing on the wire tells it
            await asyncio.sleep(0.02)
        return answer


async def new_thread(client: Any) -> str:
    return str((await client.threads.create())["thread_id"])


async def has_status(client: Any, run: Any, status: str) -> None:
    async def look() -> bool:
        return bool((await client.runs.get(run["thread_id"], run["run_id"]))["status"] == status)

    await until(look)


async def idle(client: Any, thread_id: str) -> Any:
    async def look() -> Any:
        thread = await client.threads.get(thread_id)
        return thread if thread["status"] != "busy" else None

    return await until(look)


async def half_done(client: Any, thread_id: str) -> Any:
    """A run of two steps of which the first is done and the second takes long."""
    run = await client.runs.create(
        thread_id, "two_steps", input={"wait_s": 0.4}, stream_mode="updates", stream_resumable=True
    )
    async for part in client.runs.join_stream(thread_id, run["run_id"], last_event_id="-1"):
        if part.event == "updates":
            return run
    raise AssertionError("it never made its first step")


async def collected(stream: Any) -> list[Any]:
    return [part async for part in stream]


def names(parts: list[Any]) -> list[str]:
    return [part.event for part in parts]


async def statuses(client: Any, thread_id: str) -> dict[str, str]:
    return {run["run_id"]: run["status"] for run in await client.runs.list(thread_id, limit=100)}


# --- strategies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "status_of_first", "count"),
    [("enqueue", "success", 4), ("interrupt", "interrupted", 3), ("rollback", None, 2)],
)
async def test_strategy_against_a_running_run(
    client: Any, strategy: str, status_of_first: str | None, count: int
) -> None:
    thread_id = await new_thread(client)
    first = await half_done(client, thread_id)
    second = await client.runs.create(
        thread_id, "two_steps", input={"wait_s": 0}, multitask_strategy=strategy
    )
    assert (second["status"], second["multitask_strategy"]) == ("pending", strategy)
    at_once = (await statuses(client, thread_id)).get(first["run_id"])
    assert at_once == ("running" if strategy == "enqueue" else status_of_first)
    values: Any = await client.runs.join(thread_id, second["run_id"])
    assert values["count"] == count
    assert (await statuses(client, thread_id)).get(first["run_id"]) == status_of_first
    assert (await statuses(client, thread_id))[second["run_id"]] == "success"
    assert (await idle(client, thread_id))["status"] == "idle"


async def test_reject_stores_nothing(client: Any) -> None:
    thread_id = await new_thread(client)
    first = await client.runs.create(thread_id, "counter", input=SLOW)
    with pytest.raises(ConflictError, match="already running a task"):
        await client.runs.create(thread_id, "counter", multitask_strategy="reject")
    with pytest.raises(ConflictError, match="already running a task"):
        await collected(client.runs.stream(thread_id, "counter", multitask_strategy="reject"))
    assert list(await statuses(client, thread_id)) == [first["run_id"]]


@pytest.mark.parametrize(("strategy", "shown"), [("interrupt", "interrupted"), ("rollback", None)])
async def test_strategy_hits_queued_and_delayed_runs_too(
    client: Any, strategy: str, shown: str | None
) -> None:
    thread_id = await new_thread(client)
    running = await client.runs.create(thread_id, "counter", input=SLOW)
    await has_status(client, running, "running")
    queued = await client.runs.create(thread_id, "counter", input={})
    delayed = await client.runs.create(thread_id, "counter", input={}, after_seconds=60)
    # What an interrupted run was given stays in the thread, so the wait is taken back.
    last = await client.runs.create(thread_id, "counter", input={"wait_s": 0}, multitask_strategy=strategy)
    found = await statuses(client, thread_id)
    assert [found.get(run["run_id"]) for run in (running, queued, delayed)] == [shown] * 3
    values: Any = await client.runs.join(thread_id, last["run_id"])
    assert values["count"] == 1
    assert (await idle(client, thread_id))["status"] == "idle"


async def test_firing_takes_the_place_of_the_run_before(client: Any) -> None:
    thread_id = await new_thread(client)
    cron: Any = await client.crons.create_for_thread(
        thread_id,
        assistant_id="counter",
        schedule="* * * * * *",
        input=SLOW,
        multitask_strategy="interrupt",
    )

    async def three_stopped() -> Any:
        runs = await client.runs.list(thread_id, limit=100, status="interrupted")
        return runs if len(runs) >= 3 else None

    stopped = await until(three_stopped)
    await client.crons.delete(cron["cron_id"])
    taken = 0
    for run in stopped:
        await client.runs.join(thread_id, run["run_id"])  # it is shown as interrupted before it has ended
        entries: Any = await client.http.get(f"/threads/{thread_id}/runs/{run['run_id']}/ledger")
        told = {entry["type"]: datetime.fromisoformat(entry["at"]) for entry in entries}
        if "run.cancel_requested.v1" not in told:
            continue  # on a busy machine the next firing can come before it was started
        taken += 1
        # At once, and not at the worker's next look at the log.
        assert (told["run.interrupted.v1"] - told["run.cancel_requested.v1"]).total_seconds() < 2
    assert taken
    await client.threads.delete(thread_id)


@pytest.mark.parametrize("second", STRATEGIES)
@pytest.mark.parametrize("third", STRATEGIES)
async def test_strategies_one_after_the_other(client: Any, second: str, third: str) -> None:
    """Whatever came before: the last one that was let in runs, and the thread comes to rest."""
    thread_id = await new_thread(client)
    last = await client.runs.create(thread_id, "counter", input={"wait_s": 0.3})
    for strategy in (second, third):
        try:
            last = await client.runs.create(
                thread_id, "counter", input={"wait_s": 0}, multitask_strategy=strategy
            )
        except ConflictError:
            assert strategy == "reject"
    values: Any = await client.runs.join(thread_id, last["run_id"])
    assert (await client.runs.get(thread_id, last["run_id"]))["status"] == "success"
    thread = await idle(client, thread_id)
    done = [status for status in (await statuses(client, thread_id)).values() if status == "success"]
    assert thread["status"] == "idle"
    assert thread["values"]["count"] == values["count"] >= len(done)


async def test_stream_of_a_run_whose_place_was_taken(client: Any) -> None:
    for strategy, status in (("interrupt", "interrupted"), ("rollback", "rollback")):
        thread_id = await new_thread(client)
        watching = asyncio.create_task(collected(client.runs.stream(thread_id, "counter", input=SLOW)))

        async def running(thread_id: str = thread_id) -> bool:
            return "running" in (await statuses(client, thread_id)).values()

        await until(running)
        await client.runs.wait(thread_id, "counter", input={"wait_s": 0}, multitask_strategy=strategy)
        parts = await watching
        assert (parts[0].event, parts[-1].event) == ("metadata", "end")
        assert parts[-1].data == {"status": status}


# --- cancel and delete --------------------------------------------------------------------------------


async def test_cancel_a_running_run(client: Any, http: httpx.AsyncClient) -> None:
    thread_id = await new_thread(client)
    run = await half_done(client, thread_id)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    joined = asyncio.create_task(client.runs.join(thread_id, run["run_id"]))
    answer = await http.post(path + "/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "interrupted")
    shown: Any = await client.runs.get(thread_id, run["run_id"])
    assert (shown["status"], shown["cancel_reason"]) == ("interrupted", "cancelled by request")
    assert (await http.post(path + "/cancel")).status_code == 404
    assert (await joined)["count"] == 1
    thread = await idle(client, thread_id)
    assert (thread["status"], thread["values"]["count"]) == ("interrupted", 1)
    values: Any = await client.runs.wait(thread_id, "two_steps", input={"wait_s": 0})
    assert values["count"] == 3


async def test_cancel_and_wait_until_it_has_stopped(client: Any, http: httpx.AsyncClient) -> None:
    thread_id = await new_thread(client)
    run = await half_done(client, thread_id)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    answer = await http.post(path + "/cancel?wait=1&action=anything")
    assert (answer.status_code, answer.json()["run_id"]) == (200, run["run_id"])
    assert answer.headers["content-location"] == path
    assert (await client.threads.get(thread_id))["status"] == "interrupted"
    with pytest.raises(NotFoundError):
        await client.runs.cancel(thread_id, run["run_id"])


async def test_roll_back(client: Any) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "two_steps", input={"wait_s": 0})
    before: Any = await client.threads.get_state(thread_id)
    run = await half_done(client, thread_id)
    await client.runs.cancel(thread_id, run["run_id"], action="rollback", wait=True)
    with pytest.raises(NotFoundError):
        await client.runs.get(thread_id, run["run_id"])
    after: Any = await client.threads.get_state(thread_id)
    assert (after["values"]["count"], after["checkpoint_id"]) == (2, before["checkpoint_id"])
    assert (await client.threads.get(thread_id))["status"] == "idle"
    assert len(await client.runs.list(thread_id)) == 1


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_cancel_a_queued_run(client: Any, action: str) -> None:
    thread_id = await new_thread(client)
    first = await client.runs.create(thread_id, "counter", input={"wait_s": 0.5})
    queued = await client.runs.create(thread_id, "counter", input={})
    await client.runs.cancel(thread_id, queued["run_id"], action=action)
    shown = (await statuses(client, thread_id)).get(queued["run_id"])
    assert shown == ("interrupted" if action == "interrupt" else None)
    values: Any = await client.runs.join(thread_id, first["run_id"])
    assert values["count"] == 1
    assert (await idle(client, thread_id))["status"] == "idle"


async def test_cancel_many(client: Any, http: httpx.AsyncClient) -> None:
    thread_id, other = await new_thread(client), await new_thread(client)
    first = await client.runs.create(thread_id, "counter", input=SLOW)
    await has_status(client, first, "running")
    queued = [await client.runs.create(thread_id, "counter", input={}) for _ in range(3)]
    far = await client.runs.create(other, "counter", input=SLOW)
    await has_status(client, far, "running")
    some = [queued[0]["run_id"], queued[1]["run_id"], far["run_id"], str(uuid4())]
    await client.runs.cancel_many(thread_id=thread_id, run_ids=some)
    found = await statuses(client, thread_id)
    assert [found[run["run_id"]] for run in (first, *queued)] == [
        "running", "interrupted", "interrupted", "pending",
    ]  # fmt: skip
    assert (await statuses(client, other))[far["run_id"]] == "running"
    assert (await http.post("/runs/cancel", json={"status": "pending"})).status_code == 204
    assert (await statuses(client, thread_id))[queued[2]["run_id"]] == "interrupted"
    assert (await http.post("/runs/cancel?action=rollback", json={"status": "all"})).status_code == 204
    assert far["run_id"] not in await statuses(client, other)
    assert first["run_id"] not in await statuses(client, thread_id)
    assert (await http.post("/runs/cancel", json={"status": "all"})).status_code == 404
    assert (await idle(client, thread_id))["status"] == "idle"


async def test_runs_of_all_threads(client: Any, http: httpx.AsyncClient) -> None:
    cron = await client.crons.create(
        "counter", schedule="0 0 1 1 *", on_run_completed="keep", input={"wait_s": 0}
    )
    for _ in range(2):
        run = (await http.post(f"/runs/crons/{cron['cron_id']}/trigger", json={})).json()
        await client.runs.join(run["thread_id"], run["run_id"])
    of_cron = {"cron_id": cron["cron_id"], "status": "success", "limit": 2}

    async def three() -> bool:
        return len((await http.get("/runs", params=of_cron | {"limit": 9})).json()) == 3

    await until(three)
    first = await http.get("/runs", params=of_cron)
    cursor = first.headers["x-pagination-next"]
    newest = first.json()
    assert newest[0] == await client.runs.get(newest[0]["thread_id"], newest[0]["run_id"])
    await http.delete(f"/threads/{newest[1]['thread_id']}/runs/{newest[1]['run_id']}")  # the place stays
    later = await http.post(f"/runs/crons/{cron['cron_id']}/trigger", json={})
    rest = await http.get("/runs", params=of_cron | {"cursor": cursor})
    assert "x-pagination-next" not in rest.headers
    assert [one["run_id"] for one in rest.json()] == [cron["run_id"]]

    async def newest_is_the_later() -> bool:
        # Of this cron: a run that is to wait is newer than all others, because it begins in the future.
        [newest] = (await http.get("/runs", params={"cron_id": cron["cron_id"], "limit": 1})).json()
        return bool(newest["run_id"] == later.json()["run_id"])

    await until(newest_is_the_later)
    assert (await http.get("/runs", params={"cron_id": str(uuid4())})).json() == []
    assert (await http.get("/runs", params={"status": "timeout"})).json() == []
    times = [one["created_at"] for one in (await http.get("/runs", params={"limit": 50})).json()]
    assert times == sorted(times, reverse=True)
    [part] = (await http.get("/runs", params={"limit": 1, "select": "status"})).json()
    assert part.keys() == {"status"}
    await client.crons.delete(cron["cron_id"])


async def test_no_hidden_run_is_among_all(client: Any, http: httpx.AsyncClient) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "counter", input=SLOW)
    await has_status(client, run, "running")
    await client.runs.cancel(thread_id, run["run_id"], action="rollback")
    other = (await client.threads.create(metadata={"graph_id": "counter"}))["thread_id"]
    await client.threads.update_state(other, {"count": 1}, as_node="node")
    shown = (await http.get("/runs", params={"limit": 100})).json()
    assert run["run_id"] not in {one["run_id"] for one in shown}
    assert other not in {one["thread_id"] for one in shown}


async def test_delete_stops_first(client: Any, http: httpx.AsyncClient) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "counter", input=SLOW)
    await has_status(client, run, "running")

    async def begun() -> Any:
        return (await client.threads.get_state(thread_id))["next"]

    await until(begun)  # else it leaves no state, and its thread is as idle as before
    await client.runs.cancel(thread_id, run["run_id"])  # it is being stopped already
    answer = await http.delete(f"/threads/{thread_id}/runs/{run['run_id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert await statuses(client, thread_id) == {}
    assert (await client.threads.get(thread_id))["status"] == "interrupted"
    assert (await http.get(f"/threads/{thread_id}/runs/{run['run_id']}/join")).status_code == 404


# --- wait and join ------------------------------------------------------------------------------------


async def test_wait_in_each_way(client: Any, http: httpx.AsyncClient) -> None:
    thread_id = await new_thread(client)
    seen: list[Any] = []
    values: Any = await client.runs.wait(thread_id, "counter", input={}, on_run_created=seen.append)
    assert values["count"] == 1
    assert seen[0]["thread_id"] == thread_id
    run_id = seen[0]["run_id"]
    assert (await client.runs.get(thread_id, run_id))["status"] == "success"
    for path in (f"/threads/{thread_id}/runs/{run_id}", f"/runs/{run_id}"):
        answer = await http.get(path + "/join")
        assert (answer.status_code, answer.json()["count"]) == (200, 1)
        assert answer.headers["location"] == f"/threads/{thread_id}/runs/{run_id}/join"
        assert (await http.get(path)).json()["run_id"] == run_id


async def test_wait_for_what_fails(client: Any) -> None:
    thread_id = await new_thread(client)
    with pytest.raises(Exception, match="ValueError: boom"):
        await client.runs.wait(thread_id, "failing", input={"count": 1})
    told: Any = await client.runs.wait(None, "failing", input={"count": 1}, raise_error=False)
    assert told == {"__error__": {"error": "ValueError", "message": "boom"}}


async def test_join_of_a_run_that_is_rolled_back(client: Any) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "counter", input=SLOW)
    await has_status(client, run, "running")
    joined = asyncio.create_task(client.runs.join(thread_id, run["run_id"]))
    await asyncio.sleep(0.1)
    await client.runs.cancel(thread_id, run["run_id"], action="rollback")
    assert await joined == {}


# --- streams ------------------------------------------------------------------------------------------


async def test_stream_and_the_status_behind_it(client: Any) -> None:
    thread_id = await new_thread(client)
    seen: list[Any] = []
    stream = client.runs.stream(
        thread_id,
        "two_steps",
        input={"wait_s": 0},
        stream_mode=["values", "updates"],
        on_run_created=seen.append,
    )
    parts = []
    async for part in stream:
        parts.append(part)
        if part.event == "end":
            assert (await client.runs.get(thread_id, seen[0]["run_id"]))["status"] == "success"
    assert names(parts) == ["metadata", "values", "updates", "values", "updates", "values", "end"]
    assert parts[0].data == {"run_id": seen[0]["run_id"], "attempt": 1}
    assert {part.id for part in parts} == {None}
    assert parts[-2].data["count"] == 2


async def test_join_stream_shows_errors_whatever_the_modes(client: Any) -> None:
    thread_id = await new_thread(client)
    blocker = await client.runs.create(thread_id, "counter", input={"wait_s": 0.3})
    run = await client.runs.create(thread_id, "failing", input={"count": 1})
    parts = await collected(
        client.runs.join_stream(thread_id, run["run_id"], stream_mode=["updates", "custom"])
    )
    assert names(parts) == ["metadata", "error"]
    assert parts[-1].data == {"error": "ValueError", "message": "boom"}
    assert blocker["run_id"] != run["run_id"]


async def frames(answer: httpx.Response) -> list[tuple[str, str, str | None]]:
    """Event, data and id of each frame."""
    found = []
    for frame in (await answer.aread()).decode().split("\r\n\r\n"):
        lines = [line for line in frame.split("\r\n") if line and not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if fields:
            found.append((fields["event"], fields["data"], fields.get("id")))
    return found


async def test_go_on_behind_any_event(client: Any, http: httpx.AsyncClient) -> None:
    thread_id = await new_thread(client)
    body = {"assistant_id": "stepping", "input": {"wait_s": 0.05}, "stream_resumable": True}
    async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as answer:
        location = answer.headers["location"]
        whole = await frames(answer)
    ids = [event_id for _, _, event_id in whole if event_id]
    marks = [tuple(int(part) for part in event_id.split("-")) for event_id in ids]
    assert all(sooner < later for sooner, later in pairwise(marks))
    assert (len(ids), len(whole)) == (10, 11)  # metadata, the input, eight steps; the end has none
    for n, event_id in enumerate(ids):
        async with http.stream("GET", location, headers={"Last-Event-ID": event_id}) as answer:
            assert await frames(answer) == whole[n + 1 :]
    async with http.stream("GET", location) as answer:
        assert [event for event, _, _ in await frames(answer)] == ["end"]


async def test_streams_that_are_cut_again_and_again_lose_nothing(
    client: Any, http: httpx.AsyncClient
) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(
        thread_id, "stepping", input={"wait_s": 0.1}, stream_mode=["values", "updates"], stream_resumable=True
    )
    path = f"/threads/{thread_id}/runs/{run['run_id']}/stream"
    found: list[str] = []
    last, is_over = "-1", False
    while not is_over:
        async with http.stream("GET", path, headers={"Last-Event-ID": last}) as answer:
            fresh = 0
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    last = line[4:]
                    found.append(last)
                    fresh += 1
                is_over = is_over or line == "event: end"
                if fresh == 2:
                    break
    async with http.stream("GET", path, headers={"Last-Event-ID": "-1"}) as answer:
        assert found == [event_id for _, _, event_id in await frames(answer) if event_id]
    assert len(found) == 1 + 9 + 8


async def test_metadata_of_the_run_is_where_the_browser_looks(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/runs/stream", json={"assistant_id": "counter"}, headers={"origin": "https://ui"}
    )
    path = answer.headers["content-location"]
    assert path.startswith("/threads/")
    assert path.rpartition("/runs/")[2].count("-") == 4
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert "content-location" in exposed
    assert "location" in exposed.split(", ")


# --- the client goes away -----------------------------------------------------------------------------


@pytest.mark.parametrize(("choice", "status"), [("cancel", "interrupted"), ("continue", "success")])
@pytest.mark.parametrize("way", ["stream", "wait"])
async def test_leaving(client: Any, http: httpx.AsyncClient, choice: str, status: str, way: str) -> None:
    thread_id = await new_thread(client)
    body = {"assistant_id": "counter", "input": {"wait_s": 1.5}, "on_disconnect": choice}
    with pytest.raises(httpx.ReadTimeout):
        await http.post(f"/threads/{thread_id}/runs/{way}", json=body, timeout=0.7)
    [run] = await client.runs.list(thread_id)
    await client.runs.join(thread_id, run["run_id"])
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == status


@pytest.mark.parametrize("way", ["stream", "join"])
async def test_leaving_a_run_that_was_joined(client: Any, http: httpx.AsyncClient, way: str) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "counter", input=SLOW)
    await has_status(client, run, "running")
    path = f"/threads/{thread_id}/runs/{run['run_id']}/{way}"
    with pytest.raises(httpx.ReadTimeout):
        await http.get(path, timeout=0.3)
    await asyncio.sleep(0.2)
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "running"
    with pytest.raises(httpx.ReadTimeout):
        await http.get(path, params={"cancel_on_disconnect": "1"}, timeout=0.3)
    await has_status(client, run, "interrupted")


# --- runs with a thread of their own ------------------------------------------------------------------


async def test_stateless_runs(client: Any, http: httpx.AsyncClient) -> None:
    before = await client.threads.count()
    values: Any = await client.runs.wait(None, "counter", input={})
    assert values["count"] == 1
    parts = await collected(client.runs.stream(None, "counter", input={}, stream_mode="updates"))
    assert names(parts) == ["metadata", "updates", "end"]
    run = await client.runs.create(None, "counter", input={"wait_s": 0.2})
    assert run["status"] in ("pending", "running")  # a worker may be quicker than the answer
    joined = await http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join")
    assert joined.json()["count"] == 1
    assert await client.threads.count() == before
    kept: Any = await client.runs.create(None, "counter", input={}, on_completion="keep", metadata={"a": 1})
    await client.runs.join(kept["thread_id"], kept["run_id"])
    thread: Any = await client.threads.get(kept["thread_id"])
    assert thread["values"]["count"] == 1
    assert thread["metadata"]["graph_id"] == "counter"


async def test_cancel_a_stateless_run(client: Any) -> None:
    before = await client.threads.count()
    for action in ("interrupt", "rollback"):
        run = await client.runs.create(None, "counter", input=SLOW)
        await has_status(client, run, "running")
        await client.runs.cancel(run["thread_id"], run["run_id"], wait=True, action=action)

    async def none_left() -> bool:
        return bool(await client.threads.count() == before)

    await until(none_left)


async def test_batch(client: Any, http: httpx.AsyncClient) -> None:
    runs: Any = await client.runs.create_batch(
        [{"assistant_id": "counter", "input": {}, "metadata": {"n": n}} for n in range(20)]
    )
    assert [run["metadata"]["n"] for run in runs] == list(range(20))
    assert len({run["thread_id"] for run in runs}) == 20
    for run in runs:
        joined = await http.get(f"/runs/{run['run_id']}/join")
        assert joined.json()["count"] == 1
    before = (await http.get("/ledger", params={"order": "desc", "limit": 1})).json()
    refused = await http.post(
        "/runs/batch", json=[{"assistant_id": "counter"}, {"assistant_id": str(uuid4())}]
    )
    assert refused.status_code == 404
    assert (await http.get("/ledger", params={"order": "desc", "limit": 1})).json() == before


# --- later, and on threads that are made for it -------------------------------------------------------


async def test_later(client: Any) -> None:
    thread_id = await new_thread(client)
    asked_at = datetime.now(UTC)
    later = await client.runs.create(thread_id, "counter", input={}, after_seconds=3)
    due_at = datetime.fromisoformat(later["created_at"])
    assert 2.9 < (due_at - asked_at).total_seconds() < 20
    assert (await client.threads.get(thread_id))["status"] == "busy"
    sooner = await client.runs.create(thread_id, "counter", input={})
    assert (await client.runs.join(thread_id, sooner["run_id"]))["count"] == 1
    assert (await client.runs.get(thread_id, later["run_id"]))["status"] == "pending"
    assert (await client.runs.join(thread_id, later["run_id"]))["count"] == 2
    ledger: Any = await client.http.get(f"/threads/{thread_id}/runs/{later['run_id']}/ledger")
    [started] = [entry for entry in ledger if entry["type"] == "run.started.v1"]
    assert 0 <= (datetime.fromisoformat(started["at"]) - due_at).total_seconds() < 20
    lonely = await client.runs.create(None, "counter", input={}, after_seconds=2)
    assert (await client.runs.get(lonely["thread_id"], lonely["run_id"]))["status"] == "pending"
    await has_status(client, lonely, "success")


async def test_thread_that_is_made_for_the_run(client: Any) -> None:
    chosen = str(uuid4())
    with pytest.raises(NotFoundError):
        await collected(client.runs.stream(chosen, "counter", input={}))
    parts = await collected(client.runs.stream(chosen, "counter", input={}, if_not_exists="create"))
    assert names(parts) == ["metadata", "values", "end"]
    assert (await client.threads.get(chosen))["values"]["count"] == 1


# --- breakpoints, commands, forks ---------------------------------------------------------------------


async def test_breakpoints(client: Any) -> None:
    for given, next_node in (
        ({"interrupt_before": ["second"]}, ["second"]),
        ({"interrupt_after": "*"}, ["second"]),
    ):
        thread_id = await new_thread(client)
        values: Any = await client.runs.wait(thread_id, "two_steps", input={"wait_s": 0}, **given)
        assert values["count"] == 1
        thread: Any = await client.threads.get(thread_id)
        state: Any = await client.threads.get_state(thread_id)
        assert (thread["status"], state["next"]) == ("interrupted", next_node)
        [run] = await client.runs.list(thread_id)
        assert run["status"] == "success"
        on: Any = await client.runs.wait(thread_id, "two_steps", input=None)
        assert on["count"] == 2


async def test_command(client: Any) -> None:
    thread_id = await new_thread(client)
    paused: Any = await client.runs.wait(thread_id, "asking", input={"count": 1})
    assert paused["__interrupt__"][0]["value"] == "may I?"
    answered: Any = await client.runs.wait(
        thread_id, "asking", command={"resume": "yes", "update": {"count": 5}}
    )
    assert (answered["asked"], answered["count"]) == ({"answer": "yes"}, 6)
    assert "__interrupt__" not in answered


async def test_fork_from_a_checkpoint(client: Any) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "counter", input={})
    [early, *_] = await client.threads.get_history(thread_id)
    await client.runs.wait(thread_id, "counter", input={})
    fork = {"checkpoint_id": early["checkpoint"]["checkpoint_id"], "thread_id": str(uuid4())}
    forked: Any = await client.runs.wait(thread_id, "counter", input={}, checkpoint=fork)
    assert forked["count"] == 2
    by_id: Any = await client.runs.wait(thread_id, "counter", input={}, checkpoint_id=fork["checkpoint_id"])
    assert by_id["count"] == 2
    assert (await client.threads.get_state(thread_id))["values"]["count"] == 2


async def test_shown_kwargs(client: Any) -> None:
    thread_id = await new_thread(client)
    run: Any = await client.runs.create(
        thread_id,
        "counter",
        input={"wait_s": 0},
        stream_mode=["updates"],
        stream_subgraphs=True,
        stream_resumable=True,
        config={"configurable": {"k": "v", "langgraph_auth_user": "x"}},
        durability="exit",
    )
    kwargs = run["kwargs"]
    assert (kwargs["stream_mode"], kwargs["subgraphs"], kwargs["resumable"]) == (["updates"], True, True)
    assert (kwargs["config"]["configurable"], kwargs["durability"]) == ({"k": "v"}, "exit")
    assert "updates" not in kwargs
    assert json.dumps(run)


# --- crons --------------------------------------------------------------------------------------------


async def test_cron_takes_the_place_of_what_runs(client: Any) -> None:
    thread_id = await new_thread(client)
    slow = await client.runs.create(thread_id, "counter", input=SLOW)
    await has_status(client, slow, "running")
    cron: Any = await client.crons.create_for_thread(
        thread_id,
        "counter",
        schedule="0 0 1 1 *",
        input={"wait_s": 0},
        multitask_strategy="interrupt",
        stream_resumable=True,
    )
    assert (await client.runs.get(thread_id, slow["run_id"]))["status"] == "interrupted"
    values: Any = await client.runs.join(thread_id, cron["run_id"])
    assert values["count"] == 1
    replayed = await collected(client.runs.join_stream(thread_id, cron["run_id"], last_event_id="-1"))
    assert names(replayed) == ["metadata", "values", "values", "end"]


# --- the other client ---------------------------------------------------------------------------------


def test_the_sync_client(sync_client: Any) -> None:
    thread_id = sync_client.threads.create()["thread_id"]
    parts = list(sync_client.runs.stream(thread_id, "two_steps", input={"wait_s": 0}, stream_mode="updates"))
    assert names(parts) == ["metadata", "updates", "updates", "end"]
    run = sync_client.runs.create(thread_id, "counter", input=SLOW)
    sync_client.runs.cancel(thread_id, run["run_id"], wait=True)
    assert sync_client.runs.get(thread_id, run["run_id"])["status"] == "interrupted"
    assert sync_client.runs.wait(None, "counter", input={})["count"] == 1
