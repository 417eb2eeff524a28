"""Searches over HTTP on read models of a thousand threads: each filter and order, few and many, and their limits."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import pytest_asyncio
from httpx import ASGITransport

from contracts.codec import EventCodec, pack
from contracts.events import (
    CronCreated,
    RunRequested,
    RunSucceeded,
    ThreadCreated,
    ThreadDeleted,
    ThreadUpdated,
)
from contracts.ledger import Append, Meta, Payload, Transaction
from services.gateway.app import build_app
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.postgres import migrate
from services.kit.settings import Settings
from services.kit.views import Views
from services.kit.views.postgres import SCHEMA, PostgresViews
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from tests.populated import ASSISTANT, GRAPH, populate, run_id, thread_id
from tests.postgres import Postgres
from tests.services.gateways import gateway_parts

THREADS, CRONS = 1300, 40
META = Meta(at=datetime(2026, 6, 1, tzinfo=UTC), actor="test")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgres"])
async def populated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path | str]:
    """A folder with the ledger, and where its read models are."""
    folder = tmp_path_factory.mktemp("search")
    await populate(folder, THREADS, CRONS, active=3)
    if request.param == "sqlite":
        return folder, folder / "views.db"
    server: Postgres = request.getfixturevalue("postgres")
    url = server.url_of(server.database())
    migrate(url, [SCHEMA], lambda _: None)
    return folder, url


class Server:
    """A gateway over that folder, without a bus; what is told to the log is shown."""

    def __init__(self, folder: Path, log: SqliteLog, http: httpx.AsyncClient, projector: Projector) -> None:
        self.http, self._log, self._projector = http, log, projector
        self.folder = folder

    async def tell(self, *appends: Append, blobs: tuple[Any, ...] = ()) -> None:
        position = await self._log.append(Transaction(meta=META, appends=appends, blobs=blobs))
        assert await self._projector.reached(position, 30)

    async def find(self, path: str, **body: Any) -> tuple[list[Any], httpx.Response]:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json(), answer

    async def threads(self, **body: Any) -> list[int]:
        """Which of the threads are found."""
        found, _ = await self.find("/threads/search", **body)
        return [thread["metadata"]["n"] for thread in found]

    async def count(self, what: str, **body: Any) -> int:
        answer = await self.http.post(f"/{what}/count", json=body)
        return int(answer.text)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(populated: tuple[Path, Path | str]) -> AsyncIterator[Server]:
    folder, place = populated
    log = SqliteLog(folder / "ledger.db", EventCodec())
    await log.start()
    projector = Projector(log, place)
    await projector.start()
    assert await projector.reached(log.head(), 60)
    views: Views = SqliteViews(place) if isinstance(place, Path) else PostgresViews(place)
    parts = gateway_parts(
        log, views, projector, settings=Settings(max_body_mb=1, max_answer_mb=1), graphs=(GRAPH,)
    )
    app: Any = build_app(parts)
    async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://test", timeout=60) as http:
        yield Server(folder, log, http, projector)
    views.close()
    await projector.stop()
    await log.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")
SEEN = range(THREADS)


# --- metadata -----------------------------------------------------------------------------------------


async def test_few_and_many_are_found_alike(server: Server) -> None:
    assert await server.threads(metadata={"n": 7}) == [7]
    assert await server.threads(metadata={"n": 7.0, "all": True}) == [7]
    assert await server.threads(metadata={"n": 7, "team": "team-8"}) == []
    assert await server.threads(metadata={"team": "team-7"}, sort_by="created_at", limit=2) == [1207, 1107]
    newest = [*reversed(SEEN)][:10]
    assert await server.threads(metadata={"all": True}, sort_by="created_at") == newest
    assert await server.threads(metadata={"all": 1}) == []


async def test_every_match_is_on_one_page(server: Server) -> None:
    """Pages of many matches, one after the other, have each of them once."""
    found: list[int] = []
    while len(found) < THREADS:
        page = await server.threads(
            metadata={"all": True}, sort_by="created_at", sort_order="asc", limit=250, offset=len(found)
        )
        assert page
        found += page
    assert found == [*SEEN]


async def test_counts(server: Server) -> None:
    assert await server.count("threads") == THREADS
    assert await server.count("threads", metadata={"all": True}) == THREADS
    assert await server.count("threads", metadata={"all": True, "team": "team-7"}) == 13
    assert await server.count("threads", status="error") == 130
    assert await server.count("threads", status="idle", metadata={"all": True}) == 1167  # three run
    assert await server.count("threads", values={"answer": 7}) == 1
    assert await server.count("runs/crons", metadata={"team": "team-7"}) == 1
    assert await server.count("runs/crons", assistant_id=str(UUID(int=8))) == 1
    assert await server.count("assistants", metadata={"team": "team-7"}) == 1
    assert await server.count("assistants", name="TEAM 7") == 11


async def test_changed_and_deleted_threads(server: Server) -> None:
    made, large = uuid4(), {str(n): n for n in range(100)}
    await server.tell(Append(made, 0, (ThreadCreated(user_id="u", metadata={"n": -1, "k": {"x": [1, 2]}}),)))
    assert await server.threads(metadata={"k": {"x": [2]}}) == [-1]
    await server.tell(Append(made, 1, (ThreadUpdated(metadata={"k": {"x": [3]}}),)))
    assert await server.threads(metadata={"k": {"x": [2]}}) == []
    assert await server.threads(metadata={"k": {"x": [3]}}) == [-1]
    # With more values than are indexed: it is found all the same.
    await server.tell(Append(made, 2, (ThreadUpdated(metadata=large),)))
    assert await server.threads(metadata={"k": {"x": [3]}}) == [-1]
    assert await server.threads(metadata={"99": 99, "n": -1}) == [-1]
    assert await server.threads(metadata={"99": 98}) == []
    assert await server.threads(metadata=large) == [-1]
    assert await server.threads(metadata={**large, "99": 98}) == []
    assert await server.count("threads", metadata=large) == 1
    await server.tell(Append(made, 3, (ThreadUpdated(metadata={"all": True}),)))
    assert await server.count("threads", metadata={"all": True}) == THREADS + 1
    await server.tell(Append(made, 4, (ThreadDeleted(),)))
    assert await server.threads(metadata={"n": -1}) == []
    assert await server.count("threads", metadata={"all": True}) == THREADS


async def test_a_question_that_is_too_deep(server: Server) -> None:
    deep: dict[str, Any] = {}
    for _ in range(150):
        deep = {"a": deep}
    refused = await server.http.post("/threads/search", json={"metadata": deep})
    assert (refused.status_code, "metadata" in refused.json()["detail"]) == (422, True)


# --- orders and other filters -------------------------------------------------------------------------


@pytest.mark.parametrize("sort", ["thread_id", "status", "created_at", "updated_at", "state_updated_at"])
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(
    "wanted", [{}, {"status": "error"}, {"status": "busy"}, {"metadata": {"team": "team-3"}}]
)
async def test_threads_in_each_order(server: Server, sort: str, order: str, wanted: dict[str, Any]) -> None:
    """What a page has is what a sort of everything has."""
    everything, _ = await server.find("/threads/search", limit=1000, **wanted)
    more, _ = await server.find("/threads/search", limit=1000, offset=1000, **wanted)
    expected = sorted(
        [*everything, *more],
        key=lambda thread: (thread[sort] or "", thread["thread_id"]),
        reverse=order == "desc",
    )
    page, answer = await server.find(
        "/threads/search", limit=5, offset=2, sort_by=sort, sort_order=order, **wanted
    )
    assert page == expected[2:7]
    if len(expected) > 7:
        assert answer.headers["x-pagination-next"] == "7"
        assert int(answer.headers["x-pagination-total"]) >= 8


@pytest.mark.parametrize(
    "sort",
    ["cron_id", "assistant_id", "thread_id", "next_run_date", "end_time", "created_at", "updated_at"],
)
@pytest.mark.parametrize("wanted", [{}, {"enabled": True}, {"metadata": {"all": True}}])
async def test_crons_in_each_order(server: Server, sort: str, wanted: dict[str, Any]) -> None:
    everything, answer = await server.find("/runs/crons/search", limit=1000, **wanted)
    assert int(answer.headers["x-pagination-total"]) == len(everything)
    assert len(everything) == (20 if "enabled" in wanted else 40)
    expected = sorted(everything, key=lambda cron: (cron[sort] or "", cron["cron_id"]), reverse=True)
    page, answer = await server.find("/runs/crons/search", limit=5, offset=3, sort_by=sort, **wanted)
    assert page == expected[3:8]
    assert int(answer.headers["x-pagination-total"]) == len(everything)


async def test_chosen_ids(server: Server) -> None:
    ids = [str(thread_id(n)) for n in (5, 3)] + [str(uuid4())]
    assert await server.threads(ids=ids, sort_by="thread_id", sort_order="asc") == [3, 5]
    assert await server.threads(ids=ids, status="error") == []
    assert await server.threads(ids=[]) == []


async def test_ledger_by_type(server: Server) -> None:
    async def told(**query: Any) -> list[str]:
        answer = await server.http.get("/ledger", params={"limit": 1000, **query})
        return [entry["type"] for entry in answer.json()]

    assert set(await told(type="assistant.")) == {"assistant.created.v1"}
    assert set(await told(type="run.re")) == {"run.requested.v1"}
    assert len(await told(type="run.requested.v1")) == 1000
    assert await told(type="run.x") == []
    assert len(await told(thread=str(thread_id(4)), type="run.")) == 3
    times = {"since": "2026-01-01T00:00:05Z", "until": "2026-01-01T00:00:06Z", "type": "thread."}
    assert await told(**times) == ["thread.created.v1"]


async def test_runs_by_status(server: Server) -> None:
    path = f"/threads/{thread_id(10)}/runs"
    [run] = (await server.http.get(path, params={"status": "error"})).json()
    assert run["run_id"] == str(run_id(10))
    assert (await server.http.get(path, params={"status": "success"})).json() == []
    [short] = (await server.http.get(path, params={"select": ["run_id", "status"]})).json()
    assert short == {"run_id": str(run_id(10)), "status": "error"}


# --- what one answer, and one body, may hold ----------------------------------------------------------


async def test_large_answers_are_refused(server: Server) -> None:
    threads = [uuid4() for _ in range(4)]
    kwargs, _ = pack({"input": {}})
    output, blobs = pack({"text": "x" * 400_000})
    for thread in threads:
        run = uuid4()
        asked = RunRequested(
            thread_id=thread, assistant_id=ASSISTANT, graph_id=GRAPH, user_id="u", kwargs=kwargs
        )
        created = Append(thread, 0, (ThreadCreated(user_id="u", metadata={"n": 0, "large": True}),))
        ended = RunSucceeded(thread_id=thread, attempt=1, output=output)
        await server.tell(created, Append(run, 0, (asked, ended)), blobs=blobs)
    large = {"metadata": {"large": True}}
    refused = await server.http.post("/threads/search", json=large)
    assert (refused.status_code, refused.json()["error"]) == (413, "answer_too_large")
    assert all(word in refused.json()["detail"] for word in ("limit", "select", "1 MiB"))
    assert len(await server.threads(limit=2, **large)) == 2
    found, _ = await server.find("/threads/search", select=["thread_id", "metadata"], **large)
    assert {thread["thread_id"] for thread in found} == set(map(str, threads))
    extract = {"first": "values.text[0]", "n": "metadata.n"}
    found, _ = await server.find("/threads/search", select=["thread_id"], extract=extract, **large)
    assert found[0]["extracted"] == {"first": "x", "n": 0}


async def test_large_bodies_are_refused(server: Server) -> None:
    refused = await server.http.post("/threads", content=b'{"metadata": "' + b"x" * (1 << 20) + b'"}')
    assert refused.status_code == 413
    assert "too large" in refused.json()["detail"]


async def test_the_overlap_of_a_cron_of_which_only_the_strategy_is_recorded(server: Server) -> None:
    """However large its payload, and when that is not asked for."""
    mark = {"mark": str(uuid4())}
    for on_thread in (True, False):
        for padding in (0, 40_000):
            payload, blobs = pack({"multitask_strategy": "reject", "input": {"x": "x" * padding}})
            created = CronCreated(
                assistant_id=ASSISTANT,
                graph_id=GRAPH,
                user_id="u",
                schedule="0 9 1 1 *",
                canonical="0 9 1 1 *",
                thread_id=thread_id(1) if on_thread else None,
                metadata=mark | {"on_thread": on_thread},
                payload=payload,
                tzdata="t",
            )
            await server.tell(Append(uuid4(), 0, (created,)), blobs=blobs)
    for select in (["metadata", "ledger"], None):
        found, _ = await server.find("/runs/crons/search", metadata=mark, select=select)
        told = [(cron["metadata"]["on_thread"], cron["ledger"]["overlap"]) for cron in found]
        assert sorted(told) == [(False, "allow")] * 2 + [(True, "skip")] * 2


# --- a zone that is gone ------------------------------------------------------------------------------


async def test_a_cron_whose_zone_is_gone_is_told_of_among_the_others(server: Server) -> None:
    """When a cron was made its zone was known; no answer fails for it."""
    cron_id = uuid7()
    created = CronCreated(
        assistant_id=ASSISTANT,
        graph_id=GRAPH,
        user_id="u",
        schedule="0 9 * * *",
        canonical="0 9 * * *",
        timezone="Atlantis/Capital",
        metadata={"lost": True},
        payload=Payload(inline=msgspec.Raw(b"{}")),
        next_at=datetime(2026, 6, 2, tzinfo=UTC),
        tzdata="2001a",
    )
    await server.tell(Append(cron_id, 0, (created,)))
    [found], _ = await server.find("/runs/crons/search", metadata={"lost": True})
    assert found["ledger"]["state"] == "blocked"
    assert found["ledger"]["reason"].endswith("has no zone 'Atlantis/Capital'")
    path = f"/runs/crons/{cron_id}"
    whole = (await server.http.get(path)).json()
    assert (whole["ledger"]["upcoming"], whole["ledger"]["state"]) == ([], "blocked")
    assert (await server.http.get(f"{path}/upcoming")).json() == []
    span = {"from": "2026-06-01T00:00:00Z", "until": "2026-07-01T00:00:00Z"}
    for which in ({}, {"cron_id": str(cron_id)}):
        told = await server.http.get("/runs/crons/occurrences", params=span | which)
        assert told.status_code == 200
    refused = await server.http.patch(path, json={"schedule": "0 10 * * *"})
    assert (refused.status_code, "timezone" in refused.json()["detail"]) == (422, True)
    mended = (await server.http.patch(path, json={"timezone": "Europe/Berlin"})).json()
    assert mended["ledger"]["state"] == "active"
    assert (await server.http.delete(path)).is_success
