"""Assistants and the store over HTTP: a real log, real read models, a real bus, the public client; no graphs.

Questions about graphs are answered by a small responder, which keeps what it was asked.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from httpx import ASGITransport
from langgraph_sdk import errors
from langgraph_sdk.client import LangGraphClient

from contracts.codec import EventCodec
from contracts.ledger import Meta
from contracts.queries import QueryAnswer, QueryFailed
from contracts.subjects import graph_query_subject
from domain import assistant as assistants
from domain.assistant import RegisterGraph, default_assistant_id
from domain.changes import Changes
from services.gateway.app import build_app
from services.kit.bus import Msg
from services.kit.bus.large import answer
from services.kit.bus.nats import NatsBus
from services.kit.clock import SystemClock
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from tests.services.gateways import gateway_parts

GRAPHS = ("agent", "other")


class Graphs:
    """Answers questions about graphs: by verb, a body or why there is none."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, Any] = {}

    async def on_question(self, msg: Msg) -> None:
        verb = msg.subject.removeprefix("graphs.")
        self.asked.append((verb, msgspec.json.decode(msg.data)))
        told = self.answers.get(verb)
        if isinstance(told, QueryFailed):
            await answer(msg, msgspec.json.encode(QueryAnswer(failed=told)))
        else:
            body = msgspec.Raw(msgspec.json.encode(told))
            await answer(msg, msgspec.json.encode(QueryAnswer(body=body)))


@pytest.fixture
async def graphs(bus: NatsBus) -> Graphs:
    responder = Graphs()
    await bus.subscribe(graph_query_subject(), responder.on_question, "graphs")
    return responder


@pytest.fixture
async def http(tmp_path: Path, bus: NatsBus) -> AsyncIterator[httpx.AsyncClient]:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await log.start()
    projector = Projector(log, tmp_path / "views.db")
    await projector.start()
    views = SqliteViews(tmp_path / "views.db")
    for graph_id in GRAPHS:
        await _register(log, graph_id)
    await projector.reached(log.head(), 10)
    parts = gateway_parts(log, views, projector, bus=bus, graphs=GRAPHS)
    app: Any = build_app(parts)
    async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        yield client
    views.close()
    await projector.stop()
    await log.stop()


@pytest.fixture
def client(http: httpx.AsyncClient) -> Any:
    return LangGraphClient(http)


async def _register(log: SqliteLog, graph_id: str) -> None:
    assistant_id = default_assistant_id(graph_id)
    events = assistants.decide(None, RegisterGraph(graph_id=graph_id, name=graph_id))
    changes = Changes(appends=assistants.appends(assistant_id, None, events))
    await log.append(changes.by(Meta(at=SystemClock().now(), actor="test")))


# --- life of an assistant -----------------------------------------------------------------------------


async def test_create(client: Any) -> None:
    made = await client.assistants.create("agent", {"tags": ["t"]}, context={"a": 1}, metadata={"k": 1})
    assert made["name"] == "Untitled"
    assert (made["graph_id"], made["version"], made["metadata"]) == ("agent", 1, {"k": 1})
    assert made["config"] == {"tags": ["t"], "configurable": {"a": 1}}
    assert made["context"] == {"a": 1}
    assert await client.assistants.get(made["assistant_id"]) == made


async def test_names_are_found_in_either_case_of_any_script(client: Any) -> None:
    made = await client.assistants.create("agent", name="Übersicht ÉTÉ %")
    for part in ("übersicht", "été", "ÉTÉ %"):
        assert [found["assistant_id"] for found in await client.assistants.search(name=part)] == [
            made["assistant_id"]
        ]
    assert await client.assistants.search(name="ubersicht") == []


async def test_create_with_a_chosen_id(client: Any) -> None:
    chosen = str(uuid4())
    made = await client.assistants.create("agent", assistant_id=chosen, name="mine")
    assert made["assistant_id"] == chosen
    with pytest.raises(errors.ConflictError):
        await client.assistants.create("agent", assistant_id=chosen)
    kept = await client.assistants.create("other", assistant_id=chosen, if_exists="do_nothing")
    assert kept == made
    await client.assistants.delete(chosen)
    again = await client.assistants.create("agent", assistant_id=chosen, name="another")
    assert (again["name"], again["version"]) == ("another", 1)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 422, "graph_id"),
        ({"graph_id": "nowhere"}, 404, "graph_id"),
        ({"graph_id": "agent", "assistant_id": "x"}, 422, "assistant_id"),
        ({"graph_id": "agent", "assistant_id": "01900000-0000-8000-8000-000000000001"}, 422, "version 8"),
        ({"graph_id": "agent", "context": {"a": 1}, "config": {"configurable": {"b": 1}}}, 400, "context"),
        ({"graph_id": "agent", "config": {"tags": 1}}, 422, "config"),
        ({"graph_id": "agent", "metadata": []}, 422, "metadata"),
        ({"graph_id": "agent", "if_exists": "maybe"}, 422, "if_exists"),
    ],
)
async def test_create_refuses(http: httpx.AsyncClient, body: Any, status: int, word: str) -> None:
    refused = await http.post("/assistants", json=body)
    assert refused.status_code == status
    assert word in refused.json()["detail"]


async def test_versions(client: Any) -> None:
    made = await client.assistants.create("agent", context={"a": 1}, metadata={"k": 1}, name="first")
    assistant_id = made["assistant_id"]
    second = await client.assistants.update(assistant_id, context={"b": 2}, graph_id="other", name="second")
    assert (second["version"], second["graph_id"], second["config"]) == (
        2,
        "other",
        {"configurable": {"b": 2}},
    )
    third = await client.assistants.update(assistant_id, metadata={"more": 2})
    assert (third["version"], third["metadata"]) == (3, {"k": 1, "more": 2})
    assert (await client.assistants.update(assistant_id))["version"] == 3

    restored = await client.assistants.set_latest(assistant_id, 1)
    for name in ("version", "graph_id", "name", "config", "context", "metadata", "created_at"):
        assert restored[name] == made[name]
    fourth = await client.assistants.update(assistant_id, description="d")
    assert (fourth["version"], fourth["name"], fourth["description"]) == (4, "first", "d")

    listed = await client.assistants.get_versions(assistant_id)
    assert [version["version"] for version in listed] == [4, 3, 2, 1]
    assert listed[2]["context"] == {"b": 2}
    assert listed[3]["created_at"] == made["created_at"]
    some = await client.assistants.get_versions(assistant_id, metadata={"more": 2}, limit=1)
    assert [version["version"] for version in some] == [3]
    assert [v["version"] for v in await client.assistants.get_versions(assistant_id, limit=2, offset=1)] == [
        3,
        2,
    ]


async def test_default_assistant_by_its_graph(client: Any) -> None:
    renamed = await client.assistants.update("agent", name="Ours")
    assert renamed["assistant_id"] == str(default_assistant_id("agent"))
    assert (renamed["name"], renamed["version"]) == ("Ours", 2)
    assert len(await client.assistants.get_versions("agent")) == 2
    assert (await client.assistants.set_latest("agent", 1))["name"] == "agent"
    with pytest.raises(errors.ConflictError, match="default"):
        await client.assistants.delete("agent", delete_threads=True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/versions"),
        ("POST", "/latest"),
        ("GET", "/graph"),
        ("GET", "/schemas"),
        ("GET", "/subgraphs"),
    ],
)
@pytest.mark.parametrize("named", ["nobody", str(UUID(int=9))])
async def test_unknown_assistant(http: httpx.AsyncClient, method: str, path: str, named: str) -> None:
    body = None if method in ("GET", "DELETE") else {"version": 1}
    refused = await http.request(method, f"/assistants/{named}{path}", json=body)
    assert refused.status_code == 404
    assert named in refused.json()["detail"]


async def test_unknown_version(client: Any) -> None:
    with pytest.raises(errors.NotFoundError, match="version"):
        await client.assistants.set_latest("agent", 2)


async def test_delete_ends_what_is_made_of_it(client: Any) -> None:
    assistant_id = (await client.assistants.create("agent"))["assistant_id"]
    thread_id = (await client.threads.create())["thread_id"]
    kept_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, assistant_id)
    other = await client.runs.create(thread_id, "agent")
    cron: Any = await client.crons.create_for_thread(
        kept_id, assistant_id, schedule="0 0 1 1 *", enabled=False
    )

    await client.assistants.delete(assistant_id)

    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "interrupted"
    assert (await client.runs.get(thread_id, other["run_id"]))["status"] == "pending"
    assert await client.crons.search() == []
    [ended] = await client.http.get("/ledger", params={"stream": cron["cron_id"], "type": "cron.deleted.v1"})
    assert ended["data"] == {"reason": "assistant_deleted"}
    assert (await client.threads.get(thread_id))["thread_id"] == thread_id
    with pytest.raises(errors.NotFoundError):
        await client.assistants.get(assistant_id)
    with pytest.raises(errors.NotFoundError):
        await client.assistants.delete(assistant_id)


async def test_delete_with_its_threads(client: Any) -> None:
    assistant_id = (await client.assistants.create("agent"))["assistant_id"]
    its, another = (await client.threads.create())["thread_id"], (await client.threads.create())["thread_id"]
    await client.runs.create(its, assistant_id)
    await client.runs.create(another, "agent")
    await client.assistants.delete(assistant_id, delete_threads=True)
    with pytest.raises(errors.NotFoundError):
        await client.threads.get(its)
    assert (await client.threads.get(another))["thread_id"] == another


async def test_search_and_count(client: Any, http: httpx.AsyncClient) -> None:
    for name in ("Alpha One", "alpha two", "Beta"):
        await client.assistants.create("agent", name=name, metadata={"set": {"x": 1}})
    found = await client.assistants.search(name="ALPHA", sort_by="name", sort_order="asc", select=["name"])
    assert found == [{"name": "Alpha One"}, {"name": "alpha two"}]
    page = await client.assistants.search(metadata={"set": {"x": 1}}, limit=2, response_format="object")
    assert [one["name"] for one in page["assistants"]] == ["Beta", "alpha two"]
    assert page["next"] == "2"
    assert await client.assistants.count(metadata={"set": {"x": 1}}) == 3
    assert await client.assistants.count(graph_id="other") == 1
    last = await http.post("/assistants/search", json={"graph_id": "agent", "limit": 4})
    assert (last.headers["x-pagination-total"], "x-pagination-next" in last.headers) == ("4", False)
    with pytest.raises(errors.NotFoundError):
        await client.assistants.search(graph_id="nowhere")


# --- what graphs look like ----------------------------------------------------------------------------


async def test_questions_carry_the_assistants_configuration(client: Any, graphs: Graphs) -> None:
    assistant_id = (await client.assistants.create("other", context={"a": 1}))["assistant_id"]
    drawing = {"nodes": [{"id": "n", "type": "runnable", "data": {"name": "n"}}], "edges": []}
    graphs.answers = {"drawing": drawing, "schemas": {"graph_id": "other"}, "subgraphs": {"inner": {}}}
    assert await client.assistants.get_graph(assistant_id, xray=2) == drawing
    assert await client.assistants.get_schemas(assistant_id) == {"graph_id": "other"}
    assert await client.assistants.get_subgraphs(assistant_id, "a|b", recurse=True) == {"inner": {}}
    assert await client.assistants.get_subgraphs("agent") == {"inner": {}}
    of_other = {"graph_id": "other", "config": {"configurable": {"a": 1}}, "context": {"a": 1}}
    assert graphs.asked == [
        ("drawing", {**of_other, "xray": 2}),
        ("schemas", of_other),
        ("subgraphs", {**of_other, "namespace": "a|b", "recurse": True}),
        ("subgraphs", {"graph_id": "agent", "context": {}}),
    ]


async def test_answer_larger_than_a_message(client: Any, graphs: Graphs) -> None:
    graphs.answers["schemas"] = {"graph_id": "agent", "input_schema": {"x": "y" * 5_000_000}}
    assert await client.assistants.get_schemas("agent") == graphs.answers["schemas"]


@pytest.mark.parametrize(
    ("given", "asked"), [("true", True), ("1", 1), ("3", 3), ("false", None), ("", None)]
)
async def test_xray(http: httpx.AsyncClient, graphs: Graphs, given: str, asked: Any) -> None:
    assert (await http.get("/assistants/agent/graph", params={"xray": given})).status_code == 200
    [(_, question)] = graphs.asked
    assert repr(question.get("xray")) == repr(asked)  # 1 is not true here


@pytest.mark.parametrize("given", ["0", "-1", "junk", "1.5", "1001", "²"])
async def test_xray_refuses(http: httpx.AsyncClient, given: str) -> None:
    refused = await http.get("/assistants/agent/graph", params={"xray": given})
    assert refused.status_code == 422
    assert "xray" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("code", "status"), [("invalid", 422), ("not_found", 404), ("unsupported", 422), ("failed", 422)]
)
async def test_refusals_of_the_graph(http: httpx.AsyncClient, graphs: Graphs, code: Any, status: int) -> None:
    graphs.answers["schemas"] = QueryFailed(code, "why not")
    refused = await http.get("/assistants/agent/schemas")
    assert (refused.status_code, refused.json()["detail"]) == (status, "why not")


async def test_no_worker_is_there(http: httpx.AsyncClient) -> None:
    refused = await http.get("/assistants/agent/schemas")
    assert (refused.status_code, refused.json()["error"]) == (503, "graphs_unavailable")
    assert "worker" in refused.json()["detail"]


# --- store --------------------------------------------------------------------------------------------


async def test_store_calls(client: Any, graphs: Graphs) -> None:
    times = {"created_at": "2026-11-24T00:00:00+00:00", "updated_at": "2026-11-24T00:00:00+00:00"}
    item = {"namespace": ["a", "b"], "key": "k", "value": {"v": 1}, **times}
    graphs.answers = {
        "store_get": item,
        "store_search": [{**item, "score": None}],
        "store_namespaces": [["a", "b"]],
    }
    store = client.store
    await store.put_item(["a", "b"], "k", {"v": 1}, index=["v"], ttl=5)
    assert await store.get_item(["a", "b"], "k", refresh_ttl=False) == item
    assert await store.search_items(["a"], filter={"v": {"$gte": 1}}) == {"items": [{**item, "score": None}]}
    assert await store.list_namespaces(prefix=["a", "*"], max_depth=2) == {"namespaces": [["a", "b"]]}
    await store.delete_item(["a", "b"], "k")
    place = {"namespace": ["a", "b"], "key": "k"}
    assert graphs.asked == [
        ("store_put", {**place, "value": {"v": 1}, "index": ["v"], "ttl": 5.0}),
        ("store_get", {**place, "refresh_ttl": False}),
        ("store_search", {"namespace_prefix": ["a"], "filter": {"v": {"$gte": 1}}}),
        ("store_namespaces", {"prefix": ["a", "*"], "max_depth": 2}),
        ("store_delete", place),
    ]


async def test_missing_item_is_null(http: httpx.AsyncClient, client: Any, graphs: Graphs) -> None:
    found = await http.get("/store/items", params={"namespace": "a", "key": "k"})
    assert (found.status_code, found.content) == (200, b"null")
    assert await client.store.get_item([], "k") is None
    await client.store.delete_item([], "k")
    assert [verb for verb, _ in graphs.asked] == ["store_get"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("PUT", "/store/items", {"namespace": [], "key": "k", "value": {}}, 400, "namespace"),
        ("PUT", "/store/items", {"namespace": ["a.b"], "key": "k", "value": {}}, 422, "namespace"),
        ("PUT", "/store/items", {"namespace": ["a", ""], "key": "k", "value": {}}, 422, "namespace"),
        ("PUT", "/store/items", {"namespace": ["langgraph"], "key": "k", "value": {}}, 422, "namespace"),
        ("PUT", "/store/items", {"namespace": ["a"], "key": "", "value": {}}, 422, "key"),
        ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": []}, 422, "value"),
        ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": {}, "ttl": 0}, 422, "ttl"),
        ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": {}, "index": True}, 422, "index"),
        ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": {"x": "y" * 950_000}}, 422, "value"),
        ("GET", "/store/items?namespace=a", None, 400, "key"),
        ("GET", "/store/items?namespace=a..b&key=k", None, 422, "namespace"),
        ("GET", "/store/items?namespace=a&key=k&refresh_ttl=maybe", None, 422, "refresh_ttl"),
        ("DELETE", "/store/items", {"namespace": ["a"]}, 422, "key"),
        ("DELETE", "/store/items", {"namespace": ["a.b"], "key": "k"}, 422, "namespace"),
        ("POST", "/store/items/search", {"namespace_prefix": [""]}, 422, "namespace_prefix"),
        ("POST", "/store/items/search", {"filter": {"v": {"$in": [1]}}}, 422, "filter.v"),
        ("POST", "/store/items/search", {"limit": 0}, 422, "limit"),
        ("POST", "/store/namespaces", {"suffix": ["a."]}, 422, "suffix"),
        ("POST", "/store/namespaces", {"max_depth": 0}, 422, "max_depth"),
    ],
)  # fmt: skip
async def test_store_refuses(
    http: httpx.AsyncClient, graphs: Graphs, method: str, path: str, body: Any, status: int, word: str
) -> None:
    refused = await http.request(method, path, json=body)
    assert refused.status_code == status
    assert word in refused.json()["detail"]
    assert graphs.asked == []


# --- pages that describe it ---------------------------------------------------------------------------


async def test_pages_tell_of_every_route(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    page = (await http.get("/docs")).text
    for path, methods in {
        "/assistants": {"post"},
        "/assistants/{assistant_id}": {"get", "patch", "delete"},
        "/assistants/{assistant_id}/subgraphs/{namespace}": {"get"},
        "/store/items": {"put", "get", "delete"},
        "/store/namespaces": {"post"},
    }.items():
        assert set(document["paths"][path]) == methods
        assert path in page
    operations = [o["operationId"] for path in document["paths"].values() for o in path.values()]
    assert len(operations) == len(set(operations))
    assert (await http.get("/info")).json()["flags"]["store"] is True
