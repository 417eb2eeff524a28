"""Tools when what tells of them is slow, odd or away: a real log, real read models, a bus; a responder for graphs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from httpx import ASGITransport
from jsonschema import Draft202012Validator

from contracts.codec import EventCodec
from contracts.ledger import Meta, Transaction
from contracts.queries import QueryAnswer, QueryFailed
from contracts.subjects import graph_query_subject
from domain import assistant as assistants
from domain.assistant import RegisterGraph, default_assistant_id
from services.gateway.answers.tools import assistant_named, tool_name, tool_schema
from services.gateway.app import build_app
from services.kit.bus import Msg
from services.kit.bus.large import answer
from services.kit.bus.nats import NatsBus
from services.kit.clock import SystemClock
from services.kit.eventlog import LogUnavailable
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.http import HttpSettings
from services.kit.settings import Settings
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from tests.services.gateways import gateway_parts

OBJECT = {"type": "object", "properties": {"text": {"type": "string", "title": "Text"}}}
FAILED = QueryFailed("failed", "RuntimeError: not today")
SCHEMAS: dict[str, Any] = {
    "good": {"input_schema": OBJECT},
    "odd": {"input_schema": True},
    "array": {"input_schema": {"type": "array"}},
    "none": {"input_schema": None},
    "absent": {},
    "failed": FAILED,
    "mute": None,
}
"""What each graph answers; None: nothing at all."""
Make = Callable[..., Any]


async def on_question(msg: Msg) -> None:
    told = SCHEMAS[msgspec.json.decode(msg.data)["graph_id"]]
    if told is FAILED:
        await answer(msg, msgspec.json.encode(QueryAnswer(failed=told)))
    elif told is not None:
        await answer(msg, msgspec.json.encode(QueryAnswer(body=msgspec.Raw(msgspec.json.encode(told)))))


@pytest.fixture
async def make_http(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes a client of a gateway over a log with these graphs, `given` being parts of it."""
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await log.start()
    projector = Projector(log, tmp_path / "views.db")
    await projector.start()
    views = SqliteViews(tmp_path / "views.db")
    for graph_id in SCHEMAS:
        registered = assistants.decide(None, RegisterGraph(graph_id=graph_id, name=graph_id))
        appends = assistants.appends(default_assistant_id(graph_id), None, registered)
        await log.append(Transaction(meta=Meta(at=SystemClock().now(), actor="w-1"), appends=appends))
    await projector.reached(log.head(), 10)

    def make(**given: Any) -> Any:
        app: Any = build_app(gateway_parts(log, views, projector, **{"graphs": tuple(SCHEMAS)} | given))
        return httpx.AsyncClient(transport=ASGITransport(app), base_url="http://test")

    yield make
    views.close()
    await projector.stop()
    await log.stop()


async def send(http: httpx.AsyncClient, method: str, **params: Any) -> Any:
    answered = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    assert answered.status_code == 200
    return answered.json()


async def test_only_tools_that_can_be_told_in_time_are_listed(make_http: Make, bus: NatsBus) -> None:
    await bus.subscribe(graph_query_subject(), on_question, "graphs")
    settings = Settings(question_timeout_s=0.5)
    async with make_http(bus=bus, settings=settings) as http, asyncio.timeout(20):
        page = (await send(http, "tools/list"))["result"]
    assert [tool["name"] for tool in page["tools"]] == ["good"]
    assert page["tools"][0]["inputSchema"] == {"type": "object", "properties": {"text": {"type": "string"}}}
    assert "nextCursor" not in page


async def test_graphs_that_left_the_project_are_no_tools(make_http: Make, bus: NatsBus) -> None:
    await bus.subscribe(graph_query_subject(), on_question, "graphs")
    async with make_http(bus=bus, graphs=("failed",)) as http:
        assert (await send(http, "tools/list"))["result"] == {"tools": []}
        gone = await send(http, "tools/call", name="good")
        assert gone["error"] == {"code": -32602, "message": "Unknown tool: good"}


async def test_no_worker_is_not_no_tools(make_http: Make, bus: NatsBus) -> None:
    for given in ({"bus": bus}, {"bus": None}):
        async with make_http(**given) as http:
            error = (await send(http, "tools/list"))["error"]
            assert error["code"] == -32603
            assert "worker" in error["message"]


async def test_log_that_is_away_is_told(make_http: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_http() as http:

        async def away(*_: Any, **__: Any) -> Any:
            raise LogUnavailable("The log is not there for the moment.")

        monkeypatch.setattr(SqliteLog, "append", away)
        error = (await send(http, "tools/call", name="good"))["error"]
    assert error == {"code": -32603, "message": "The log is not there for the moment."}


async def test_tools_that_are_switched_off(make_http: Make) -> None:
    async with make_http(http=HttpSettings(disabled=frozenset({"mcp"}))) as http:
        answered = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert answered.status_code == 404
        assert "/mcp" not in (await http.get("/openapi.json")).json()["paths"]


# --- names and schemas ------------------------------------------------------------------------------------

ID = UUID("01234567-89ab-cdef-0123-456789abcdef")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Daily report", "Daily_report"),
        ("日報", "assistant"),
        ("", "assistant"),
        ("__", "assistant"),
        ("a-b", "a-b"),
        ("x" * 300, "x" * 20),
        ("nineteen letters ok and more", "nineteen_letters_ok"),
    ],
)
def test_name_leads_back_to_its_assistant(name: str, words: str) -> None:
    tool = tool_name(ID, "graph", name)
    assert tool.startswith(f"{words}_")
    assert len(tool) <= 47
    assert assistant_named(tool, ("graph",)) == str(ID)


def test_default_assistants_have_the_names_of_their_graphs() -> None:
    for graph_id in ("agent", "a-b_C9", "x" * 64):
        assert tool_name(default_assistant_id(graph_id), graph_id, "whatever") == graph_id
        assert assistant_named(graph_id, (graph_id,)) == graph_id
    for graph_id in ("a.b", "größe", "x" * 65):
        tool = tool_name(default_assistant_id(graph_id), graph_id, graph_id)
        assert assistant_named(tool, (graph_id,)) == str(default_assistant_id(graph_id))
        assert assistant_named(graph_id, (graph_id,)) is None
    assert assistant_named("agent", ()) is None


MESSAGES = {name: {"type": "object"} for name in ("AIMessage", "HumanMessage", "ToolMessage")}
ANY = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in MESSAGES]}


@pytest.mark.parametrize(
    ("schema", "simple"),
    [
        ({}, {"type": "object"}),
        ({"title": "X", "description": "What", "type": "object"}, {"description": "What", "type": "object"}),
        ({"type": "string"}, None),
        ({"type": ["object", "null"]}, None),
        (False, None),
        (
            {
                "$ref": "#/$defs/A",
                "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}},
            },
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/A"}},
                "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}},
            },
        ),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "integer"}}}, None),
        (
            {"properties": {"title": {"title": "T", "default": {"title": "kept"}, "enum": [{"title": 1}]}}},
            {
                "type": "object",
                "properties": {"title": {"default": {"title": "kept"}, "enum": [{"title": 1}]}},
            },
        ),
        (
            {"anyOf": [{"$ref": "#/$defs/B"}], "$defs": {"B": {"type": "object", "title": "B"}, "C": {}}},
            {"type": "object", "anyOf": [{"$ref": "#/$defs/B"}], "$defs": {"B": {"type": "object"}}},
        ),
    ],
)
def test_schema(schema: Any, simple: Any) -> None:
    assert tool_schema(schema) == simple
    if simple is not None:
        Draft202012Validator.check_schema(simple)


@pytest.mark.parametrize("of_any", [ANY, {"$ref": "#/$defs/BaseMessage"}])
def test_messages_are_as_clients_write_them(of_any: Any) -> None:
    defined = {**MESSAGES, "BaseMessage": {"type": "object"}}
    schema = {"properties": {"messages": {"type": "array", "items": of_any}}, "$defs": defined}
    simple = tool_schema(schema)
    assert simple is not None
    assert "$defs" not in simple
    takes = Draft202012Validator(simple)
    assert takes.is_valid({"messages": [{"role": "user", "content": "hi"}]})
    assert not takes.is_valid({"messages": [{"role": "user"}]})
