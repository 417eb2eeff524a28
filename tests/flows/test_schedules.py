"""What a schedule means, was and will be, over HTTP and through the stock SDK."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client

NEVER = {"assistant_id": "counter", "schedule": "0 9 1 1 *", "timezone": "Europe/Berlin", "enabled": True}


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server(CRONLEDGER_FIRST_RUN="scheduled", CRONLEDGER_SECONDS="first")


async def made(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await http.post("/runs/crons", json=NEVER | fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_preview_creates_nothing(http: httpx.AsyncClient) -> None:
    before = (await http.get("/ledger", params={"order": "desc", "limit": 1})).json()
    body = {
        "schedule": "30 2 * * sun",
        "timezone": "Europe/Berlin",
        "after": "2027-03-20T00:00:00+00:00",
        "limit": 3,
    }
    told = (await http.post("/runs/crons/upcoming", json=body)).json()
    assert told["canonical"] == "30 2 * * 0"
    assert told["description"] == "At 02:30, only on Sunday, Europe/Berlin"
    assert [(c["local"], c["dst"], c["run_id"]) for c in told["upcoming"]] == [
        ("2027-03-21T02:30:00+01:00", None, None),
        ("2027-03-28T03:00:00+02:00", "gap", None),
        ("2027-04-04T02:30:00+02:00", None, None),
    ]
    ended = (await http.post("/runs/crons/upcoming", json=body | {"end_time": "2027-03-28T01:00:00Z"})).json()
    assert len(ended["upcoming"]) == 2  # inclusive
    assert (await http.get("/ledger", params={"order": "desc", "limit": 1})).json() == before


async def test_upcoming_from_an_instant_on(http: httpx.AsyncClient) -> None:
    cron = await made(http)
    path = f"/runs/crons/{cron['cron_id']}/upcoming"
    later = (await http.get(path, params={"after": "2030-01-01T08:00:00+00:00", "limit": 2})).json()
    assert [c["scheduled_for"] for c in later] == ["2031-01-01T08:00:00+00:00", "2032-01-01T08:00:00+00:00"]
    assert all(c["fires_at"] == c["scheduled_for"] for c in later)
    await http.patch(f"/runs/crons/{cron['cron_id']}", json={"enabled": False})
    assert (await http.get(path)).json() == []
    assert len((await http.get(path, params={"ignore_state": "yes"})).json()) == 10


async def test_what_is_told_of_runs_comes_true(http: httpx.AsyncClient) -> None:
    cron = await made(http, schedule="* * * * * *", on_run_completed="keep")
    told = (await http.get(f"/runs/crons/{cron['cron_id']}/upcoming")).json()
    async with asyncio.timeout(30):
        while True:
            fired = (await http.get(f"/runs/crons/{cron['cron_id']}/occurrences")).json()
            if len(fired) >= 3:
                break
            await asyncio.sleep(0.2)
    runs = {occurrence["scheduled_for"]: occurrence["run_id"] for occurrence in fired}
    both = [c for c in told if c["scheduled_for"] in runs]
    assert len(both) >= 2
    assert all(runs[c["scheduled_for"]] == c["run_id"] for c in both)
    await http.delete(f"/runs/crons/{cron['cron_id']}")


async def test_calendar_of_all_crons(http: httpx.AsyncClient) -> None:
    metadata = {"mark": str(uuid4())}
    daily = await made(http, schedule="0 6 * * *", timezone="UTC", metadata=metadata)
    weekly = await made(http, schedule="0 5 * * mon", timezone="UTC", metadata=metadata)
    await made(http, schedule="0 4 * * *", timezone="UTC", metadata=metadata, enabled=False)
    begin = (datetime.now(UTC) + timedelta(days=30)).replace(hour=0, minute=0, second=0, microsecond=0)
    end = begin + timedelta(days=7)
    span = {"from": begin.isoformat(), "until": end.isoformat()}
    entries = (await http.get("/runs/crons/occurrences", params=span)).json()
    mine = [e for e in entries if e["cron_id"] in (daily["cron_id"], weekly["cron_id"])]
    assert [e["scheduled_for"] for e in entries] == sorted(e["scheduled_for"] for e in entries)
    assert {e["status"] for e in mine} == {"pending"}
    assert [e["cron_id"] for e in mine].count(daily["cron_id"]) == 7
    assert [e["cron_id"] for e in mine].count(weekly["cron_id"]) == 1
    of_one = await http.get("/runs/crons/occurrences", params=span | {"cron_id": daily["cron_id"]})
    assert [e["scheduled_for"][11:19] for e in of_one.json()] == ["06:00:00"] * 7
    few = (await http.get("/runs/crons/occurrences", params=span | {"limit": 2})).json()
    assert few == entries[:2]


async def test_calendar_has_what_was_and_what_will_be(http: httpx.AsyncClient) -> None:
    cron = await made(http, schedule="*/2 * * * * *")
    now = datetime.now(UTC).replace(microsecond=0)
    span = {"from": now.isoformat(), "until": (now + timedelta(seconds=40)).isoformat()}
    async with asyncio.timeout(30):
        while True:
            entries = (await http.get("/runs/crons/occurrences", params=span)).json()
            entries = [
                e for e in entries if e["cron_id"] == cron["cron_id"]
            ]  # others may have fired just now
            if [e["status"] for e in entries].count("fired") >= 3:
                break
            await asyncio.sleep(0.2)
    await http.delete(f"/runs/crons/{cron['cron_id']}")
    statuses = [e["status"] for e in entries]
    assert statuses == sorted(statuses)  # fired, then pending
    due = [datetime.fromisoformat(e["scheduled_for"]) for e in entries]
    assert len(due) == len(set(due)) >= 18
    assert {b - a for a, b in pairwise(due)} == {timedelta(seconds=2)}


async def test_a_cron_tells_of_its_last_occurrences_and_the_next(http: httpx.AsyncClient) -> None:
    cron = await made(http)
    path = f"/runs/crons/{cron['cron_id']}"
    new = (await http.get(path)).json()["ledger"]
    assert (new["last"], new["recent"]) == (None, [])
    coming = (await http.get(f"{path}/upcoming", params={"limit": 5})).json()
    assert new["upcoming"] == coming
    for n in range(12):
        await http.post(f"{path}/trigger", json={"note": str(n)})
    told = (await http.get(path)).json()["ledger"]
    assert told["fired"] == 12
    assert [one["reason"] for one in told["recent"]] == [str(n) for n in range(11, 1, -1)]
    assert told["last"] == told["recent"][0]
    paused = await http.patch(path, json={"enabled": False})
    assert "recent" not in paused.json()["ledger"]
    assert (await http.get(path)).json()["ledger"]["upcoming"] == []


async def test_occurrences_page_by_page(http: httpx.AsyncClient) -> None:
    cron = await made(http)
    path = f"/runs/crons/{cron['cron_id']}"
    for n in range(7):  # several within a second: the place tells them apart
        await http.post(f"{path}/trigger", json={"note": str(n)})
    whole = (await http.get(f"{path}/occurrences")).json()
    assert [one["reason"] for one in whole] == [str(n) for n in range(6, -1, -1)]
    for status in ({}, {"status": "fired"}):
        found, cursor = list[Any](), dict[str, str]()
        while True:
            page = await http.get(f"{path}/occurrences", params={"limit": "2"} | status | cursor)
            found += page.json()
            if "x-pagination-next" not in page.headers:
                break
            cursor = {"cursor": page.headers["x-pagination-next"]}
            await http.post(f"{path}/trigger", json={})  # moves nothing of what comes behind
        assert [one["run_id"] for one in found if one["reason"]] == [one["run_id"] for one in whole]
        assert len(found) < 12
    counted = await http.get(f"{path}/occurrences", params={"limit": 3, "offset": 1})
    assert counted.headers["x-pagination-next"] == "4"
    oldest = whole[-1]["scheduled_for"]
    until = {"to": oldest}
    assert (await http.get(f"{path}/occurrences", params=until)).json() == []
    since = (await http.get(f"{path}/occurrences", params={"from": oldest})).json()
    assert since[-1]["run_id"] == whole[-1]["run_id"]
    assert (await http.get(f"{path}/occurrences", params={"status": "missed"})).json() == []


async def test_pending_occurrences(http: httpx.AsyncClient) -> None:
    cron = await made(http)
    path = f"/runs/crons/{cron['cron_id']}"
    pending = {"status": "pending", "limit": "2"}
    first = await http.get(f"{path}/occurrences", params=pending)
    cursor = {"cursor": first.headers["x-pagination-next"]}
    second = await http.get(f"{path}/occurrences", params=pending | cursor)
    told = [*first.json(), *second.json()]
    coming = (await http.get(f"{path}/upcoming", params={"limit": 4})).json()
    assert [one["run_id"] for one in told] == [one["run_id"] for one in coming]
    assert {one["status"] for one in told} == {"pending"}
    span = {"from": "2040-01-01T08:00:00+00:00", "to": "2042-01-01T08:00:00+00:00"}
    inside = await http.get(f"{path}/occurrences", params=pending | span)
    assert [one["scheduled_for"][:4] for one in inside.json()] == ["2040", "2041"]
    assert "x-pagination-next" not in inside.headers
    await http.post(f"{path}/pause", json={})
    assert (await http.get(f"{path}/occurrences", params=pending)).json() == []
    await http.delete(path)
    gone = await http.get(f"{path}/occurrences", params=pending)
    assert (gone.status_code, gone.json()) == (200, [])


async def test_searches_tell_what_became_of_each(http: httpx.AsyncClient, server: Any) -> None:
    metadata = {"mark": str(uuid4())}
    cron = await made(http, metadata=metadata)
    async with get_client(url=server.url) as client:
        [found] = await client.crons.search(metadata=metadata)
        ledger: Any = found["ledger"]  # type: ignore[typeddict-item]
        whole = (await http.get(f"/runs/crons/{cron['cron_id']}")).json()
        assert {"last", "recent", "upcoming"} & ledger.keys() == set()
        assert whole["ledger"].items() >= ledger.items()
        assert whole | {"ledger": ledger} == found
        assert ledger["description"] == "At 09:00, on day 1 of the month, only in January, Europe/Berlin"
        assert (ledger["state"], ledger["fired"]) == ("active", 0)
    body = {"metadata": metadata, "select": ["cron_id", "ledger"]}
    [part] = (await http.post("/runs/crons/search", json=body)).json()
    assert part == {"cron_id": cron["cron_id"], "ledger": ledger}
    [small] = (await http.post("/runs/crons/search", json=body | {"select": ["enabled"]})).json()
    assert small == {"enabled": True}


# --- a run besides the schedule -----------------------------------------------------------------------


async def triggered(http: httpx.AsyncClient, cron: dict[str, Any], body: Any = None, **more: Any) -> Any:
    answer = await http.post(f"/runs/crons/{cron['cron_id']}/trigger", json=body or {}, **more)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-location"].endswith(answer.json()["run_id"])
    return answer.json()


async def ended(http: httpx.AsyncClient, run: dict[str, Any]) -> Any:
    await http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join")
    return (await http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}")).json()


async def test_a_paused_cron_can_be_run_now(http: httpx.AsyncClient) -> None:
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    body = NEVER | {"input": {"count": 5}, "metadata": {"team": "a", "why": "cron"}, "enabled": False}
    cron = (await http.post(f"/threads/{thread}/runs/crons", json=body)).json()
    run = await triggered(http, cron)
    assert (await ended(http, run))["output"]["count"] == 6
    other = await triggered(
        http, cron, {"input": {"count": 10}, "metadata": {"why": "me"}, "note": "to see whether it works"}
    )
    done = await ended(http, other)
    assert (done["status"], done["output"]["count"], done["thread_id"]) == ("success", 17, thread)
    assert (done["metadata"]["team"], done["metadata"]["why"]) == ("a", "me")
    assert done["metadata"]["cron_id"] == cron["cron_id"]
    now = (await http.get(f"/runs/crons/{cron['cron_id']}")).json()
    assert (now["enabled"], now["next_run_date"]) == (cron["enabled"], cron["next_run_date"])
    newest, oldest = (await http.get(f"/runs/crons/{cron['cron_id']}/occurrences")).json()
    assert (newest["kind"], newest["reason"], newest["run_id"], newest["lateness_ms"]) == (
        "trigger",
        "to see whether it works",
        other["run_id"],
        None,
    )
    assert (oldest["kind"], oldest["reason"]) == ("trigger", None)


async def test_a_key_begins_one_run(http: httpx.AsyncClient) -> None:
    cron = await made(http, on_run_completed="keep", input={"count": 1})
    key = {"Idempotency-Key": "monday's report"}
    runs = await asyncio.gather(*(triggered(http, cron, headers=key) for _ in range(8)))
    assert len({run["run_id"] for run in runs}) == 1
    await ended(http, runs[0])
    assert (await triggered(http, cron, headers=key))["status"] == "success"
    assert (await triggered(http, cron, headers={"Idempotency-Key": "another"}))["run_id"] != runs[0][
        "run_id"
    ]
    other = await made(http)
    assert (await triggered(http, other, headers=key))["run_id"] != runs[0]["run_id"]
    fired = (await http.get(f"/runs/crons/{cron['cron_id']}/occurrences")).json()
    assert len(fired) == 2
    threads = await http.post("/threads/search", json={"metadata": {"cron_id": cron["cron_id"]}})
    assert len(threads.json()) == 2
    await http.delete(f"/threads/{runs[0]['thread_id']}/runs/{runs[0]['run_id']}")
    gone = await http.post(f"/runs/crons/{cron['cron_id']}/trigger", json={}, headers=key)
    assert gone.status_code in (200, 404)  # never a second one
    assert len((await http.get(f"/runs/crons/{cron['cron_id']}/occurrences")).json()) == 2


async def test_the_strategy_counts_unless_it_is_forced(http: httpx.AsyncClient) -> None:
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    body = NEVER | {"input": {"wait_s": 1.0}, "multitask_strategy": "reject"}
    cron = (await http.post(f"/threads/{thread}/runs/crons", json=body)).json()
    first = await triggered(http, cron)
    busy = await http.post(f"/runs/crons/{cron['cron_id']}/trigger", json={})
    assert busy.status_code == 409
    forced = await triggered(http, cron, params={"force": "yes"})
    assert (await ended(http, first))["status"] == "success"
    assert (await ended(http, forced))["status"] == "success"


# --- why it is as it is -------------------------------------------------------------------------------


async def test_a_pause_says_why(http: httpx.AsyncClient) -> None:
    cron = await made(http, note="asked for by the board")
    path = f"/runs/crons/{cron['cron_id']}"
    assert (await http.get(path)).json()["ledger"]["note"] == "asked for by the board"
    paused = (await http.post(f"{path}/pause", json={"note": "too expensive"})).json()
    assert (paused["enabled"], paused["ledger"]["state"], paused["ledger"]["note"]) == (
        False,
        "paused",
        "too expensive",
    )
    again = (await http.post(f"{path}/pause", json={"note": "still too expensive"})).json()
    assert again["ledger"]["note"] == "still too expensive"
    assert (await http.post(f"{path}/pause", json={})).json()["ledger"]["note"] == "still too expensive"
    resumed = (await http.post(f"{path}/resume", json={"note": "cheaper model"})).json()
    assert (resumed["enabled"], resumed["ledger"]["note"]) == (True, "cheaper model")
    assert resumed["next_run_date"] == cron["next_run_date"]
    assert (await http.patch(path, json={"note": None})).json()["ledger"]["note"] is None
    entries = [(entry["type"], entry["data"]) for entry in (await http.get(f"{path}/ledger")).json()]
    told = [(topic, data["note"]) for topic, data in entries if "note" in data]
    assert told == [
        ("cron.created.v1", "asked for by the board"),
        ("cron.paused.v1", "too expensive"),
        ("cron.updated.v1", "still too expensive"),
        ("cron.resumed.v1", "cheaper model"),
        ("cron.updated.v1", ""),
    ]


async def test_notes_come_in_the_query_of_the_stock_client(server: Any) -> None:
    async with get_client(url=server.url) as client:
        cron: Any = await client.crons.create("counter", schedule="0 9 1 1 *", params={"note": "a test"})
        found: Any = await client.http.get(f"/runs/crons/{cron['cron_id']}")
        assert found["ledger"]["note"] == "a test"
        changed: Any = await client.crons.update(cron["cron_id"], enabled=False, params={"note": "over"})
        assert (changed["enabled"], changed["ledger"]["note"]) == (False, "over")


# --- what fires late ----------------------------------------------------------------------------------


def late(cron: Any) -> tuple[str, int | None]:
    return cron["ledger"]["catch_up"], cron["ledger"]["catch_up_window_seconds"]


async def test_what_fires_late_is_said_and_shown(http: httpx.AsyncClient, server: Any) -> None:
    metadata = {"mark": str(uuid4())}
    plain = await made(http)
    assert late((await http.get(f"/runs/crons/{plain['cron_id']}")).json()) == ("latest", None)
    cron = await made(http, catch_up="all", catch_up_window_seconds=0, metadata=metadata)
    path = f"/runs/crons/{cron['cron_id']}"
    assert late((await http.get(path)).json()) == ("all", 0)
    [found] = (await http.post("/runs/crons/search", json={"metadata": metadata})).json()
    assert late(found) == ("all", 0)
    changed = (await http.patch(path, json={"catch_up": "skip"})).json()
    assert (late(changed), changed["next_run_date"]) == (("skip", 0), cron["next_run_date"])
    assert late((await http.patch(path, json={"catch_up_window_seconds": None})).json()) == ("skip", None)
    assert late((await http.patch(path, json={"catch_up": None})).json()) == ("latest", None)
    async with get_client(url=server.url) as client:
        said: Any = {"catch_up": "all", "catch_up_window_seconds": 3600}
        its: Any = await client.crons.create("counter", schedule="0 9 1 1 *", params=said)
        assert late(await client.http.get(f"/runs/crons/{its['cron_id']}")) == ("all", 3600)
        thread = await client.threads.create()
        its = await client.crons.create_for_thread(
            thread["thread_id"], "counter", schedule="0 9 1 1 *", params=said
        )
        assert late(await client.http.get(f"/runs/crons/{its['cron_id']}")) == ("all", 3600)
        changed = await client.crons.update(its["cron_id"], params={"catch_up": "skip"})
        assert late(changed) == ("skip", 3600)


async def test_nothing_is_due_before_the_start(http: httpx.AsyncClient, server: Any) -> None:
    start = "2031-05-01T00:00:00+02:00"
    cron = await made(http, start_time=start)
    path = f"/runs/crons/{cron['cron_id']}"
    assert cron["next_run_date"] == "2032-01-01T08:00:00+00:00"
    assert (await http.get(path)).json()["ledger"]["start_time"] == "2031-04-30T22:00:00+00:00"
    [first] = (await http.get(f"{path}/upcoming", params={"limit": 1})).json()
    assert first["scheduled_for"] == cron["next_run_date"]
    refused = await http.patch(path, json={"end_time": start})
    assert (refused.status_code, refused.json()["detail"]) == (422, "start_time: must be before end_time")
    moved = (await http.patch(path, json={"start_time": "2032-01-01T08:00:00Z"})).json()
    assert moved["next_run_date"] == "2032-01-01T08:00:00+00:00"  # inclusive
    moved = (await http.patch(path, json={"start_time": "2032-01-01T08:00:00.5Z"})).json()
    assert moved["next_run_date"] == "2033-01-01T08:00:00+00:00"
    cleared = (await http.patch(path, json={"start_time": None})).json()
    assert (cleared["ledger"]["start_time"], cleared["next_run_date"] < start) == (None, True)
    async with get_client(url=server.url) as client:
        changed: Any = await client.crons.update(cron["cron_id"], params={"start_time": start})
        assert changed["next_run_date"] == "2032-01-01T08:00:00+00:00"


async def test_a_first_run_does_not_come_before_the_start(make_server: Callable[..., Any]) -> None:
    async with httpx.AsyncClient(base_url=make_server().url, timeout=30) as http:
        assert "run_id" in await made(http, start_time="2020-01-01T00:00:00Z")
        assert "run_id" not in await made(http, start_time="2035-01-01T00:00:00Z")


async def test_what_is_asked_for_from_far_ahead_is_answered_at_once(http: httpx.AsyncClient) -> None:
    """Each year that a zone is reckoned for costs milliseconds, and holds up everybody else."""
    cron = await made(http, timezone="America/New_York")
    path = f"/runs/crons/{cron['cron_id']}"
    began = asyncio.get_running_loop().time()
    far = "9998-01-01T00:00:00Z"
    assert (await http.get(f"{path}/upcoming", params={"after": far})).json() == []
    yearly = (await http.get(f"{path}/upcoming", params={"limit": 1000})).json()
    assert 40 <= len(yearly) <= 42
    body = {"schedule": "0 0 29 2 mon", "timezone": "America/Havana", "after": far, "limit": 1000}
    assert (await http.post("/runs/crons/upcoming", json=body)).json()["upcoming"] == []
    span = {"from": far, "until": "9998-06-01T00:00:00Z", "cron_id": cron["cron_id"]}
    assert (await http.get("/runs/crons/occurrences", params=span)).json() == []
    pending = {"status": "pending", "from": far}
    assert (await http.get(f"{path}/occurrences", params=pending)).json() == []
    assert asyncio.get_running_loop().time() - began < 10


# --- jitter, a number of runs, failures, pauses that end -------------------------------------------------


EXTENSIONS = {"jitter_seconds": 600, "max_runs": 3, "pause_after_failures": 2}


async def reached(http: httpx.AsyncClient, path: str, state: str) -> Any:
    """The cron as soon as it is in that state."""
    async with asyncio.timeout(30):
        while True:
            told = (await http.get(path)).json()
            if told["ledger"]["state"] == state:
                return told
            await asyncio.sleep(0.05)


def limits(cron: Any) -> dict[str, Any]:
    return {name: cron["ledger"][name] for name in EXTENSIONS}


async def test_limits_are_said_and_shown(http: httpx.AsyncClient, server: Any) -> None:
    metadata = {"mark": str(uuid4())}
    cron = await made(http, **EXTENSIONS, metadata=metadata)
    path = f"/runs/crons/{cron['cron_id']}"
    told = (await http.get(path)).json()
    assert limits(told) == EXTENSIONS
    assert (told["ledger"]["runs"], told["ledger"]["failures"]) == (0, 0)
    assert len(told["ledger"]["upcoming"]) == 3
    [found] = (await http.post("/runs/crons/search", json={"metadata": metadata})).json()
    assert limits(found) == EXTENSIONS
    coming = (await http.get(f"{path}/upcoming")).json()
    assert [one["scheduled_for"][:4] for one in coming] == ["2027", "2028", "2029"]
    offsets = [
        (
            datetime.fromisoformat(one["fires_at"]) - datetime.fromisoformat(one["scheduled_for"])
        ).total_seconds()
        for one in coming
    ]
    assert all(0 <= offset < 600 for offset in offsets)
    assert len(set(offsets)) == 3
    behind = {"after": coming[1]["scheduled_for"]}
    assert (await http.get(f"{path}/upcoming", params=behind)).json() == coming[2:]
    pending = (await http.get(f"{path}/occurrences", params={"status": "pending"})).json()
    assert len(pending) == 3
    for name, default in (("jitter_seconds", 0), ("max_runs", None), ("pause_after_failures", None)):
        changed = (await http.patch(path, json={name: None})).json()
        assert changed["ledger"][name] == default
    async with get_client(url=server.url) as client:
        said: Any = EXTENSIONS
        its: Any = await client.crons.create("counter", schedule="0 9 1 1 *", params=said)
        assert limits(await client.http.get(f"/runs/crons/{its['cron_id']}")) == EXTENSIONS
        changed = await client.crons.update(its["cron_id"], params={"max_runs": 4})
        assert limits(changed) == EXTENSIONS | {"max_runs": 4}


async def test_a_pause_that_ends_by_itself(http: httpx.AsyncClient) -> None:
    cron = await made(http, schedule="0 9 * * *")
    path = f"/runs/crons/{cron['cron_id']}"
    until = datetime.now(UTC) + timedelta(days=40)
    paused = (await http.post(f"{path}/pause", json={"note": "holidays", "until": until.isoformat()})).json()
    assert (paused["enabled"], paused["ledger"]["state"], paused["ledger"]["note"]) == (
        False,
        "paused",
        "holidays",
    )
    assert datetime.fromisoformat(paused["ledger"]["paused_until"]) == until
    assert datetime.fromisoformat(paused["next_run_date"]) >= until
    [coming] = (await http.get(f"{path}/upcoming", params={"limit": 1})).json()
    assert coming["scheduled_for"] == paused["next_run_date"]
    span = {"from": datetime.now(UTC).isoformat(), "until": (until + timedelta(days=2)).isoformat()}
    told = (await http.get("/runs/crons/occurrences", params=span | {"cron_id": cron["cron_id"]})).json()
    assert [one["scheduled_for"] for one in told][:1] == [paused["next_run_date"]]
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    paused = (await http.post(f"{path}/pause", json={"until": soon})).json()
    assert paused["ledger"]["note"] == "holidays"
    told = await reached(http, path, "active")
    assert (told["ledger"]["paused_until"], told["enabled"]) == (None, True)


async def test_a_cron_that_fails_pauses_itself(http: httpx.AsyncClient) -> None:
    cron = await made(http, assistant_id="failing", pause_after_failures=2)
    path = f"/runs/crons/{cron['cron_id']}"
    for _ in range(2):
        run = (await http.post(f"{path}/trigger", json={})).json()
        joined = await http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join")
        assert "__error__" in joined.text
    told = await reached(http, path, "paused")
    assert (told["ledger"]["failures"], told["enabled"]) == (2, False)
    assert "2 runs failed" in told["ledger"]["note"]
    resumed = (await http.post(f"{path}/resume", json={"catch_up": "latest"})).json()
    assert (resumed["ledger"]["failures"], resumed["ledger"]["state"]) == (0, "active")


# --- what runs of a cron do beside each other ---------------------------------------------------------


def beside(cron: Any) -> tuple[str, str | None]:
    return cron["ledger"]["overlap"], cron["payload"].get("multitask_strategy")


async def test_overlap_and_strategy_keep_in_step(http: httpx.AsyncClient, server: Any) -> None:
    metadata = {"mark": str(uuid4())}
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    on_thread, alone = f"/threads/{thread}/runs/crons", "/runs/crons"

    async def get(cron_id: str) -> Any:
        return (await http.get(f"/runs/crons/{cron_id}")).json()

    for path, body, shown in (
        (on_thread, {}, ("buffer_all", None)),
        (on_thread, {"multitask_strategy": "reject"}, ("skip", "reject")),
        (on_thread, {"overlap": "terminate_other"}, ("terminate_other", "rollback")),
        (alone, {}, ("allow", None)),
        (
            alone,
            {"multitask_strategy": "reject"},
            ("allow", "reject"),
        ),  # of runs on the same thread: there are none
        (
            alone,
            {"overlap": "cancel_other", "multitask_strategy": "interrupt"},
            ("cancel_other", "interrupt"),
        ),
    ):
        answer = await http.post(path, json=NEVER | body)
        assert answer.status_code == 200, answer.text
        assert beside(await get(answer.json()["cron_id"])) == shown
    cron = (await http.post(on_thread, json=NEVER | {"overlap": "buffer_one", "metadata": metadata})).json()
    [found] = (await http.post("/runs/crons/search", json={"metadata": metadata})).json()
    assert beside(found) == ("buffer_one", "enqueue")
    wanted = {"metadata": metadata, "select": ["ledger"]}
    [part] = (await http.post("/runs/crons/search", json=wanted)).json()
    assert part["ledger"]["overlap"] == "buffer_one"
    path = f"/runs/crons/{cron['cron_id']}"
    edits: list[tuple[dict[str, Any], Any]] = [
        ({"multitask_strategy": "enqueue"}, ("buffer_one", "enqueue")),
        ({"overlap": "skip"}, ("skip", "reject")),
        ({"multitask_strategy": "rollback"}, ("terminate_other", "rollback")),
        ({"overlap": None}, ("buffer_all", "enqueue")),
    ]
    for edit, becomes in edits:
        assert beside((await http.patch(path, json=edit)).json()) == becomes
    async with get_client(url=server.url) as client:
        its: Any = await client.crons.create("counter", schedule="0 9 1 1 *", params={"overlap": "skip"})
        assert beside(await get(its["cron_id"])) == ("skip", "reject")
        changed: Any = await client.crons.update(its["cron_id"], params={"overlap": "allow"})
        assert beside(changed) == ("allow", None)
        its = await client.crons.create_for_thread(
            thread, "counter", schedule="0 9 1 1 *", params={"overlap": "cancel_other"}
        )
        assert beside(await get(its["cron_id"])) == ("cancel_other", "interrupt")


async def until_running(http: httpx.AsyncClient, run: Any) -> None:
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
    async with asyncio.timeout(20):
        while (await http.get(path)).json()["status"] != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.02)


LONG, SHORT = {"input": {"wait_s": 60.0}}, {"input": {"wait_s": 0.0}}


@pytest.mark.parametrize("completed", ["keep", "delete"])
async def test_a_cron_whose_runs_do_not_run_beside_each_other(
    http: httpx.AsyncClient, completed: str
) -> None:
    cron = await made(http, overlap="skip", on_run_completed=completed)
    path = f"/runs/crons/{cron['cron_id']}"
    at_once = await asyncio.gather(*(http.post(f"{path}/trigger", json=LONG) for _ in range(5)))
    [first] = [answer.json() for answer in at_once if answer.status_code == 200]
    assert [answer.json()["error"] for answer in at_once if answer.status_code == 409] == ["cron_busy"] * 4
    await until_running(http, first)
    waits = await triggered(http, cron, SHORT, params={"force": "yes"})
    assert (await http.patch(path, json={"overlap": "buffer_one"})).status_code == 200
    full = await http.post(f"{path}/trigger", json={})
    assert (full.status_code, full.json()["error"]) == (429, "lane_full")
    withdrawn = await triggered(http, cron, SHORT, params={"force": "yes"})
    cancel = f"/threads/{withdrawn['thread_id']}/runs/{withdrawn['run_id']}/cancel"
    assert (await http.post(cancel)).status_code < 300
    assert (await http.get(f"/runs/{waits['run_id']}")).json()["status"] == "pending"
    if completed == "keep":  # whoever stands behind one whose thread is deleted goes on
        assert (await http.delete(f"/threads/{first['thread_id']}")).status_code < 300
    else:
        cancel = f"/threads/{first['thread_id']}/runs/{first['run_id']}/cancel"
        assert (await http.post(cancel)).status_code < 300
    assert (await ended(http, waits))["status"] == "success"
    last = await triggered(http, cron, SHORT)
    assert (await ended(http, last))["status"] == "success"


@pytest.mark.parametrize("overlap", ["cancel_other", "terminate_other"])
async def test_a_run_of_a_cron_takes_the_place_of_the_one_before(
    http: httpx.AsyncClient, overlap: str
) -> None:
    cron = await made(http, overlap=overlap, on_run_completed="keep")
    first = await triggered(http, cron, LONG)
    await until_running(http, first)
    second = await triggered(http, cron, LONG)
    third = await triggered(http, cron, SHORT)
    assert (await ended(http, third))["status"] == "success"
    for run in (first, second):
        found = await http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}")
        told = found.json().get("status") if found.status_code == 200 else found.status_code
        assert told == ("interrupted" if overlap == "cancel_other" else 404)


async def test_an_occurrence_that_may_not_run_is_told(http: httpx.AsyncClient, server: Any) -> None:
    async with get_client(url=server.url) as client:
        cron: Any = await client.crons.create(
            "counter", schedule="* * * * * *", input={"wait_s": 60.0}, params={"overlap": "buffer_one"}
        )
        path = f"/runs/crons/{cron['cron_id']}"
        async with asyncio.timeout(30):
            while (await http.get(path)).json()["ledger"]["skipped"] < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await http.post(f"{path}/pause", json={})
        told = list(reversed((await http.get(f"{path}/occurrences")).json()))
        assert [one["status"] for one in told[:3]] == ["fired", "fired", "skipped"]
        assert {one["reason"] for one in told[2:]} == {"buffer_full"}
        mine = {"cron_id": cron["cron_id"]}
        statuses = [run["status"] for run in (await http.get("/runs", params=mine)).json()]
        assert statuses == ["pending", "running"]
        for run in (await http.get("/runs", params=mine)).json():
            await http.post(f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel")
        await client.crons.delete(cron["cron_id"])


# --- backfills ----------------------------------------------------------------------------------------


async def test_a_backfill_runs_what_has_had_no_run(http: httpx.AsyncClient, server: Any) -> None:
    cron = await made(http, schedule="0 9 * * *", timezone=None)
    path = f"/runs/crons/{cron['cron_id']}"
    body: dict[str, Any] = {
        "start": "2026-01-01T00:00:00Z",
        "end": "2026-01-04T09:00:00Z",
        "note": "new year",
    }
    tried = await http.post(f"{path}/backfill", json=body | {"dry_run": True})
    assert (tried.status_code, tried.json()["backfill_id"], tried.json()["planned"]) == (200, None, 3)
    async with get_client(url=server.url) as client:
        begun: Any = await client.http.post(f"{path}/backfill", json=body)
    assert begun["first"] == "2026-01-01T09:00:00+00:00"
    place = f"{path}/backfills/{begun['backfill_id']}"
    async with asyncio.timeout(30):
        while (told := (await http.get(place)).json())["state"] == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (told["state"], told["fired"], told["left"], told["note"]) == ("finished", 3, 0, "new year")
    assert (await http.get(f"{path}/backfills")).json() == [told]
    again = await http.post(f"{path}/backfill", json=body)
    assert (again.status_code, again.json()["already_fired"], again.json()["planned"]) == (200, 3, 0)
    occurrences = (await http.get(f"{path}/occurrences")).json()
    assert [(one["scheduled_for"][:10], one["kind"], one["lateness_ms"]) for one in occurrences] == [
        (f"2026-01-0{n}", "backfill", None) for n in (3, 2, 1)
    ]
    shown = (await http.get(path)).json()
    assert (shown["next_run_date"], shown["ledger"]["fired"]) == (cron["next_run_date"], 3)
    long = await http.post(
        f"{path}/backfill", json=body | {"start": "2020-01-01T00:00:00Z", "include": "all"}
    )
    assert (long.status_code, "limit" in long.json()["detail"]) == (422, True)
    begun = await http.post(f"{path}/backfill", json=body | {"start": "2024-01-01T00:00:00Z", "limit": 500})
    place = begun.headers["Content-Location"]
    cancelled = (await http.post(f"{place}/cancel")).json()
    assert (cancelled["state"], cancelled["reason"], cancelled["fired"] < 500) == (
        "cancelled",
        "request",
        True,
    )
    assert (await http.post(f"{place}/cancel")).json()["state"] == "cancelled"
