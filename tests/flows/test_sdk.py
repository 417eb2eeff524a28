"""What a user of the stock SDK sees: every endpoint, over HTTP, against a real `cronledger up`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

PAGE_RUN_KEYS = {
    "run_id",
    "thread_id",
    "assistant_id",
    "user_id",
    "created_at",
    "updated_at",
    "status",
    "input",
    "output",
    "error_message",
    "config",
    "context",
}
CRON_KEYS = {
    "cron_id",
    "assistant_id",
    "thread_id",
    "user_id",
    "schedule",
    "timezone",
    "end_time",
    "next_run_date",
    "enabled",
    "on_run_completed",
    "metadata",
    "payload",
    "created_at",
    "updated_at",
}
NEVER = "0 0 1 1 *"
EACH_SECOND = "* * * * * *"


async def until(ask: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """The first answer that is true."""
    async with asyncio.timeout(seconds):
        while True:
            if answer := await ask():
                return answer
            await asyncio.sleep(0.05)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any], database: dict[str, str]) -> Any:
    return make_shared_server(CRONLEDGER_CRONS_PER_USER="0", **database)


@pytest.fixture(scope="module")
def swept(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server()


@pytest.fixture
async def alone(swept: Any) -> AsyncIterator[Any]:
    """A client whose server has nothing but what the test makes."""
    async with get_client(url=swept.url) as connected:
        yield connected
        for cron in await connected.crons.search(limit=1000):
            await connected.crons.delete(cron["cron_id"])
        for thread in await connected.threads.search(limit=1000):
            await connected.threads.delete(thread["thread_id"])


async def ended(client: Any, run: Any) -> Any:
    """The run once it has an outcome."""

    async def look() -> Any:
        found = await client.runs.get(run["thread_id"], run["run_id"])
        return found if found["status"] not in ("pending", "running") else None

    return await until(look)


async def test_cron_for_a_thread_from_birth_to_death(client: Any, server: Any) -> None:
    thread = await client.threads.create(metadata={"topic": "t"})
    thread_id = thread["thread_id"]
    answer: Any = await client.crons.create_for_thread(
        thread_id,
        assistant_id="counter",
        schedule=EACH_SECOND,
        input={"wait_s": 0.0},
        metadata={"team": "x"},
        config={"configurable": {"k": "v"}, "tags": ["nightly"]},
        timezone="Europe/Berlin",
    )
    assert answer.keys() >= PAGE_RUN_KEYS | CRON_KEYS
    assert answer["thread_id"] == thread_id
    assert answer["user_id"] == "anonymous"
    assert answer["status"] in ("pending", "running")  # a worker may have been as quick as the answer
    assert answer["cron"]["thread_id"] == thread_id
    assert answer["payload"]["config"]["configurable"] == {"k": "v", "cron_id": answer["cron_id"]}
    assert instant(answer["next_run_date"]) > instant(answer["created_at"])
    first = await ended(client, answer)
    assert first["status"] == "success"

    async def two_fired() -> Any:
        runs = await client.runs.list(thread_id, limit=50)
        fired = [r for r in runs if r["metadata"].get("scheduled_for") and r["status"] == "success"]
        return fired if len(fired) >= 2 else None

    fired = await until(two_fired)
    for run in fired:
        due = instant(run["metadata"]["scheduled_for"])
        assert due <= instant(run["created_at"]) < due + timedelta(seconds=5)
        assert run["metadata"]["cron_id"] == answer["cron_id"]
        assert (run["metadata"]["team"], run["metadata"]["topic"]) == ("x", "t")
        seen = run["output"]["seen"]
        assert seen == {
            "cron_id": answer["cron_id"],
            "graph_id": "counter",
            "run_id": run["run_id"],
            "thread_id": thread_id,
            "assistant_id": run["assistant_id"],
            "user_id": "anonymous",
            "k": "v",
        }
    dues = [run["metadata"]["scheduled_for"] for run in fired]
    assert len(set(dues)) == len(dues)

    paused: Any = await client.crons.update(answer["cron_id"], enabled=False)
    assert paused["enabled"] is False
    before = await client.runs.list(thread_id, limit=100)
    await asyncio.sleep(2.2)
    assert len(await client.runs.list(thread_id, limit=100)) == len(before)

    resumed: Any = await client.crons.update(answer["cron_id"], enabled=True, schedule=NEVER)
    assert (resumed["enabled"], resumed["schedule"]) == (True, NEVER)
    assert instant(resumed["next_run_date"]).month in (12, 1)

    state: Any = await client.threads.get_state(thread_id)
    assert state["values"]["count"] == len(before)
    assert state["next"] == []
    assert state["checkpoint"]["thread_id"] == thread_id

    await client.crons.delete(answer["cron_id"])
    with pytest.raises(NotFoundError):
        await client.http.get(f"/runs/crons/{answer['cron_id']}")
    ledger: Any = await client.http.get(f"/runs/crons/{answer['cron_id']}/ledger")
    types = [entry["type"] for entry in ledger if entry["type"].startswith("cron.")]
    assert types[0] == "cron.created.v1"
    assert types[-1] == "cron.deleted.v1"
    assert "cron.paused.v1" in types
    assert types.index("cron.paused.v1") < types.index("cron.resumed.v1")


async def test_disabled_cron_has_no_first_run(client: Any) -> None:
    thread = await client.threads.create()
    cron: Any = await client.crons.create_for_thread(
        thread["thread_id"], assistant_id="counter", schedule=EACH_SECOND, enabled=False
    )
    assert not {"run_id", "status", "kwargs", "output", "cron"} & cron.keys()
    assert cron["payload"]["enabled"] is False
    assert cron["enabled"] is False
    await asyncio.sleep(1.5)
    assert await client.runs.list(thread["thread_id"]) == []


async def test_first_run_can_be_left_to_the_schedule(make_server: Any) -> None:
    async with get_client(url=make_server(CRONLEDGER_FIRST_RUN="scheduled").url) as client:
        thread = await client.threads.create()
        cron: Any = await client.crons.create_for_thread(
            thread["thread_id"], assistant_id="counter", schedule=NEVER
        )
        assert "run_id" not in cron
        assert await client.runs.list(thread["thread_id"]) == []


async def test_end_time_is_the_last_firing(client: Any) -> None:
    thread = await client.threads.create()
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    cron: Any = await client.crons.create_for_thread(
        thread["thread_id"], assistant_id="counter", schedule=EACH_SECOND, end_time=end
    )

    async def expired() -> Any:
        found: Any = await client.http.get(f"/runs/crons/{cron['cron_id']}")
        return found if not found["enabled"] else None

    found = await until(expired)
    assert found["next_run_date"] is None
    await asyncio.sleep(1.2)
    runs = await client.runs.list(thread["thread_id"], limit=50)
    dues = sorted(r["metadata"]["scheduled_for"] for r in runs if r["metadata"].get("scheduled_for"))
    assert instant(dues[-1]) == end


async def test_stateless_cron_that_keeps_its_threads(client: Any) -> None:
    cron: Any = await client.crons.create(
        "counter",
        schedule=EACH_SECOND,
        input={"wait_s": 0},
        metadata={"kept": "yes"},
        on_run_completed="keep",
    )
    assert cron["cron"]["thread_id"] is None

    async def two_threads() -> Any:
        threads = await client.threads.search(metadata={"kept": "yes", "cron_id": cron["cron_id"]})
        return threads if len([t for t in threads if t["status"] == "idle"]) >= 2 else None

    threads = await until(two_threads)
    assert {t["metadata"]["graph_id"] for t in threads} == {"counter"}
    idle = [t for t in threads if t["status"] == "idle"]
    assert {t["values"]["count"] for t in idle} == {1}
    await client.crons.delete(cron["cron_id"])


async def test_stateless_cron_leaves_nothing_behind(alone: Any) -> None:
    cron: Any = await alone.crons.create("counter", schedule=EACH_SECOND, input={"wait_s": 0})
    assert cron["on_run_completed"] == "delete"

    async def fired() -> Any:
        entries: Any = await alone.http.get(f"/runs/crons/{cron['cron_id']}/ledger")
        return [e for e in entries if e["type"] == "run.succeeded.v1"][1:]

    await until(fired)
    await alone.crons.delete(cron["cron_id"])

    async def no_thread() -> bool:
        return int(await alone.threads.count()) == 0

    await until(no_thread)


async def test_search_and_count_crons(alone: Any) -> None:
    thread = await alone.threads.create()
    made: list[Any] = []
    for n in range(3):
        cron: Any = await alone.crons.create_for_thread(
            thread["thread_id"],
            assistant_id="counter",
            schedule=f"{n} 0 1 1 *",
            metadata={"n": n, "deep": {"a": 1, "b": n}},
            enabled=False,
        )
        made.append(cron)
    await alone.crons.create("two_steps", schedule=NEVER, enabled=False)
    ids = [cron["cron_id"] for cron in made]

    async def search(**query: Any) -> list[str]:
        return [cron["cron_id"] for cron in await alone.crons.search(**query)]

    assert await search(thread_id=thread["thread_id"]) == ids[::-1]
    assert await search(assistant_id="counter", sort_by="created_at", sort_order="asc") == ids
    assert await search(metadata={"deep": {"a": 1}}, limit=2, offset=1) == ids[::-1][1:3]
    assert await search(metadata={"n": 1}) == [ids[1]]
    assert await search(enabled=True) == []
    assert await alone.crons.count() == 4
    assert await alone.crons.count(assistant_id="counter") == 3
    assert await alone.crons.count(thread_id=thread["thread_id"], metadata={"n": 2}) == 1
    [selected] = await alone.crons.search(metadata={"n": 1}, select=["cron_id", "schedule"])
    assert selected == {"cron_id": ids[1], "schedule": "1 0 1 1 *"}


async def test_patch_changes_what_it_names(client: Any) -> None:
    thread = await client.threads.create()
    cron: Any = await client.crons.create_for_thread(
        thread["thread_id"],
        assistant_id="counter",
        schedule=NEVER,
        input={"wait_s": 1},
        metadata={"a": 1},
        end_time=datetime.now(UTC) + timedelta(days=900),
        enabled=False,
    )
    moved: Any = await client.crons.update(
        cron["cron_id"], metadata={"b": 2}, input={"wait_s": 2}, timezone="Asia/Tokyo"
    )
    assert moved["metadata"] == {"a": 1, "b": 2}
    assert moved["payload"]["input"] == {"wait_s": 2}
    assert moved["timezone"] == "Asia/Tokyo"
    assert moved["end_time"] == cron["end_time"]
    assert "timezone" not in moved["payload"]  # nobody said so when it was created
    assert moved["payload"]["end_time"] == moved["end_time"]
    cleared: Any = await client.http.patch(
        f"/runs/crons/{cron['cron_id']}", json={"end_time": None, "timezone": None}
    )
    assert (cleared["end_time"], cleared["timezone"]) == (None, None)
    assert "end_time" not in cleared["payload"]


async def test_threads(alone: Any) -> None:
    chosen = str(uuid4())
    thread = await alone.threads.create(thread_id=chosen, metadata={"a": 1})
    assert thread["thread_id"] == chosen
    assert (thread["status"], thread["values"]) == ("idle", None)
    with pytest.raises(ConflictError):
        await alone.threads.create(thread_id=chosen)
    again = await alone.threads.create(thread_id=chosen, if_exists="do_nothing")
    assert again["metadata"] == {"a": 1}
    updated: Any = await alone.threads.update(chosen, metadata={"b": 2})
    assert updated["metadata"] == {"a": 1, "b": 2}
    assert (await alone.threads.get(chosen))["metadata"] == {"a": 1, "b": 2}
    other = await alone.threads.create()
    assert await alone.threads.count() == 2
    found = await alone.threads.search(metadata={"a": 1})
    assert [t["thread_id"] for t in found] == [chosen]
    assert {t["thread_id"] for t in await alone.threads.search(status="idle")} == {
        chosen,
        other["thread_id"],
    }
    state: Any = await alone.threads.get_state(chosen)
    assert (state["values"], state["next"], state["tasks"], state["checkpoint"]) == ({}, [], [], None)
    await alone.threads.delete(chosen)
    with pytest.raises(NotFoundError):
        await alone.threads.get(chosen)


async def test_deleted_thread_takes_its_crons_and_runs(alone: Any) -> None:
    thread = await alone.threads.create()
    thread_id = thread["thread_id"]
    cron: Any = await alone.crons.create_for_thread(
        thread_id, assistant_id="counter", schedule=NEVER, input={"wait_s": 60}
    )
    waiting = await alone.runs.create(thread_id, "counter", input={})
    await alone.threads.delete(thread_id)
    assert await alone.crons.count() == 0
    with pytest.raises(NotFoundError):
        await alone.runs.get(thread_id, waiting["run_id"])

    async def stopped() -> Any:
        entries: Any = await alone.http.get(f"/runs/crons/{cron['cron_id']}/ledger")
        return [e for e in entries if e["type"] == "run.interrupted.v1"]

    await until(stopped)


async def test_runs_of_a_thread_wait_for_each_other(client: Any) -> None:
    thread = await client.threads.create()
    thread_id = thread["thread_id"]
    runs = [
        await client.runs.create(thread_id, "counter", input={"wait_s": 0.05}, metadata={"n": n})
        for n in range(5)
    ]
    values: Any = await client.runs.join(thread_id, runs[-1]["run_id"])
    assert values["count"] == 5
    listed = await client.runs.list(thread_id)
    assert [run["metadata"]["n"] for run in listed] == [4, 3, 2, 1, 0]
    assert {run["status"] for run in listed} == {"success"}
    assert [run["output"]["count"] for run in listed] == [5, 4, 3, 2, 1]


async def test_reject_while_busy(client: Any) -> None:
    thread = await client.threads.create()
    thread_id = thread["thread_id"]
    await client.runs.create(thread_id, "counter", input={"wait_s": 5})
    assert (await client.threads.get(thread_id))["status"] == "busy"
    with pytest.raises(ConflictError, match="already running"):
        await client.runs.create(thread_id, "counter", multitask_strategy="reject")
    assert len(await client.runs.list(thread_id)) == 1


async def test_failing_run(client: Any) -> None:
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "failing", input={"count": 1})
    answer: Any = await client.runs.join(thread["thread_id"], run["run_id"])
    assert answer == {"__error__": {"error": "ValueError", "message": "boom"}}
    found: Any = await client.runs.get(thread["thread_id"], run["run_id"])
    assert (found["status"], found["error_message"]) == ("error", "ValueError: boom")
    assert (await client.threads.get(thread["thread_id"]))["status"] == "error"


async def test_paused_run_is_a_success_on_an_interrupted_thread(client: Any) -> None:
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "asking", input={"count": 1})
    answer: Any = await client.runs.join(thread["thread_id"], run["run_id"])
    [pause] = answer["__interrupt__"]
    assert pause["value"] == "may I?"
    assert (await client.runs.get(thread["thread_id"], run["run_id"]))["status"] == "success"
    found: Any = await client.threads.get(thread["thread_id"])
    assert found["status"] == "interrupted"
    [[shown]] = found["interrupts"].values()
    assert shown["value"] == "may I?"
    state: Any = await client.threads.get_state(thread["thread_id"])
    assert state["next"] == ["node"]


async def test_breakpoints_are_honoured(client: Any) -> None:
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "two_steps", input={}, interrupt_before=["second"])
    await client.runs.join(thread["thread_id"], run["run_id"])
    state: Any = await client.threads.get_state(thread["thread_id"])
    assert (state["values"]["count"], state["next"]) == (1, ["second"])


async def test_deleting_runs(client: Any) -> None:
    thread = await client.threads.create()
    thread_id = thread["thread_id"]
    running = await client.runs.create(thread_id, "counter", input={"wait_s": 60})
    waiting = await client.runs.create(thread_id, "counter", input={"wait_s": 0})
    await client.runs.delete(thread_id, running["run_id"])
    with pytest.raises(NotFoundError):
        await client.runs.get(thread_id, running["run_id"])
    assert (await ended(client, waiting))["status"] == "success"
    await client.runs.delete(thread_id, waiting["run_id"])
    assert await client.runs.list(thread_id) == []
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_run_on_a_thread_that_is_made_for_it(client: Any) -> None:
    chosen = str(uuid4())
    with pytest.raises(NotFoundError):
        await client.runs.create(chosen, "counter", input={})
    run = await client.runs.create(chosen, "counter", input={}, if_not_exists="create")
    assert (await ended(client, run))["status"] == "success"


async def test_run_times_out_and_its_child_is_killed(make_server: Any) -> None:
    server = make_server(CRONLEDGER_RUN_TIMEOUT_S="0.5", CRONLEDGER_CANCEL_GRACE_S="0.5")
    async with get_client(url=server.url) as client:
        thread = await client.threads.create()
        run = await client.runs.create(thread["thread_id"], "counter", input={"wait_s": 60})
        assert (await ended(client, run))["status"] == "timeout"
        assert (await client.threads.get(thread["thread_id"]))["status"] == "error"


async def test_assistants(client: Any) -> None:
    found = await client.assistants.search(graph_id="counter")
    assert [a["graph_id"] for a in found] == ["counter"]
    assistant = found[0]
    assert UUID(assistant["assistant_id"]).version == 5
    assert assistant["metadata"] == {"created_by": "system"}
    assert (await client.assistants.get(assistant["assistant_id"]))["name"] == "counter"
    assert (await client.assistants.get("counter"))["assistant_id"] == assistant["assistant_id"]
    assert await client.assistants.count() == 5
    with pytest.raises(NotFoundError):
        await client.assistants.get(str(uuid4()))


async def test_refusals_reach_the_user_as_text(client: Any) -> None:
    thread = await client.threads.create()
    with pytest.raises(UnprocessableEntityError, match="schedule"):
        await client.crons.create_for_thread(
            thread["thread_id"], assistant_id="counter", schedule="61 * * * *"
        )
    with pytest.raises(UnprocessableEntityError, match="timezone"):
        await client.crons.create("counter", schedule=NEVER, timezone="Mars/Olympus")
    with pytest.raises(UnprocessableEntityError, match="webhook"):
        await client.crons.create("counter", schedule=NEVER, webhook="https://169.254.169.254/")
    with pytest.raises(NotFoundError):
        await client.crons.create("nobody", schedule=NEVER)


async def test_system_pages(server: Any) -> None:
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.get("/ok")).json()["ok"] is True
        info = (await http.get("/info")).json()
        assert info["flags"]["crons"] is True
        for path in ("/health", "/ready", "/live", "/docs", "/openapi.json", "/asyncapi.json"):
            answer = await http.get(path)
            assert answer.status_code == 200, path
        document = (await http.get("/openapi.json")).json()
        assert "/threads/{thread_id}/runs/crons" in document["paths"]


async def test_ledger_puts_values_in_when_asked(client: Any) -> None:
    run = await client.runs.create(None, "counter", input={"asked": {"text": "x" * 200_000}, "count": 2})
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/ledger"
    without, full = await client.http.get(path), await client.http.get(path, params={"values": True})
    assert str(without).count("x") < 1000
    assert "x" * 200_000 in str(full)
    assert full[0]["data"].keys() == without[0]["data"].keys()


async def test_ledger_shows_every_event(client: Any) -> None:
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "counter", input={})
    await ended(client, run)
    entries: Any = await client.http.get(f"/threads/{thread['thread_id']}/runs/{run['run_id']}/ledger")
    assert [e["type"] for e in entries] == [
        "run.requested.v1",
        "run.started.v1",
        "run.succeeded.v1",
    ]
    everything: Any = await client.http.get("/ledger", params={"limit": 1000})
    assert {e["type"] for e in everything} >= {
        "assistant.created.v1",
        "thread.created.v1",
        "lane.changed.v1",
        "run.started.v1",
    }
    positions = [int(e["position"]) for e in everything]
    assert positions == sorted(positions)
    started: Any = await client.http.get("/ledger", params={"run": run["run_id"], "type": "run.started.v1"})
    assert [e["actor"] for e in started] == ["worker"]
