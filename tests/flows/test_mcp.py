"""Assistants as tools of the Model Context Protocol: what its official client sees, and what others send."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from mcp import Client, MCPError
from mcp_types import CallToolResult, TextContent, Tool

ALL = {"echo", "chat", "raising", "asking", "halting", "slow", "listing"}
HEADERS = {"accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server("tools")


def connected(server: Any, **more: Any) -> Client:
    return Client(f"{server.url}/mcp", read_timeout_seconds=60, **more)


async def listed(tools: Client) -> list[Tool]:
    found, cursor = list[Tool](), None
    while True:
        page = await tools.list_tools(cursor=cursor, cache_mode="bypass")
        found += page.tools
        if (cursor := page.next_cursor) is None:
            return found


def text_of(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


async def until(check: Callable[[], Any]) -> Any:
    async with asyncio.timeout(30):
        while not (found := await check()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_hello(server: Any, mode: Any) -> None:
    async with Client(f"{server.url}/mcp/", mode=mode) as tools:
        assert tools.protocol_version == "2025-11-25"
        assert tools.server_info is not None
        assert tools.server_info.name == "cronledger"
        assert tools.server_capabilities.tools is not None


async def test_list(server: Any) -> None:
    async with connected(server) as tools:
        found = {tool.name: tool for tool in await listed(tools)}
        odd = next(name for name in found if name not in ALL)
        assert found.keys() == {*ALL, odd}  # of those whose schemas fail, or that take no object, none
        assert re.fullmatch(r"gr_e_v2_[a-z2-7]{26}", odd)
        assert found[odd].title == "größe.v2"
        for tool in found.values():
            Draft202012Validator.check_schema(tool.input_schema)
            assert tool.input_schema["type"] == "object"
            assert tool.annotations is not None
            assert tool.annotations.title == tool.title


async def test_schemas_are_short_and_whole(server: Any) -> None:
    async with connected(server) as tools:
        found = {tool.name: tool.input_schema for tool in await listed(tools)}
        message = found["chat"]["properties"]["messages"]["items"]
        assert message["required"] == ["role", "content"]
        assert "$defs" not in found["chat"]
        takes = Draft202012Validator(found["echo"])
        assert takes.is_valid(
            {"text": "x", "place": {"title": "here", "near": {"title": "there", "near": None}}}
        )
        assert not takes.is_valid({"place": {"title": "here", "near": {"title": 5}}})
        assert "title" in found["echo"]["$defs"]["Place"]["properties"]  # a field, no keyword


async def test_call(server: Any) -> None:
    async with connected(server) as tools:
        result = await tools.call_tool("echo", {"text": "Grüße, 世界 🌍"})
        assert not result.is_error
        assert result.structured_content["answer"] == {"said": "Grüße, 世界 🌍", "tone": None}
        assert "世界" in text_of(result)
        chat = await tools.call_tool("chat", {"messages": [{"role": "user", "content": "hi"}]})
        assert chat.structured_content["messages"][-1]["content"] == "You said: hi"
        listing = await tools.call_tool("listing", {"b": 1, "a": 2})
        assert listing.structured_content == {"result": ["a", "b"]}
        assert text_of(listing) == '["a","b"]'
        assert (await tools.call_tool("echo")).structured_content["answer"]["said"] is None


async def test_call_that_fails(server: Any) -> None:
    async with connected(server) as tools:
        result = await tools.call_tool("raising", {"text": "x"})
        assert result.is_error
        assert text_of(result) == "ValueError: no 🐛 today"
        assert result.structured_content is None
        with pytest.raises(MCPError, match="Unknown tool: nobody"):
            await tools.call_tool("nobody")


async def test_call_that_is_interrupted(server: Any) -> None:
    async with connected(server) as tools:
        for name in ("asking", "halting"):
            result = await tools.call_tool(name, {"text": "x"})
            assert not result.is_error
            assert "interrupted" in str(result.content[1])
            if name == "asking":
                assert result.structured_content["__interrupt__"][0]["value"] == "may I?"


async def test_calls_at_a_time(server: Any) -> None:
    async with connected(server) as tools:
        calls = [tools.call_tool("echo", {"text": str(n)}) for n in range(12)]
        results = await asyncio.gather(*calls)
        assert [r.structured_content["answer"]["said"] for r in results] == [str(n) for n in range(12)]


async def test_many_assistants(server: Any, http: httpx.AsyncClient, client: Any) -> None:
    async with connected(server) as tools:
        names = ["Täglicher Bericht!", "日報", "", " ", "x" * 200, "echo", "a/b\n\u0000c", "Same", "Same"]
        made = [
            await client.assistants.create("echo", name=name or None, context={"tone": name[:9]})
            for name in names
        ]
        made += [await client.assistants.create("echo", name=f"n{n}") for n in range(60)]
        ids = {one["assistant_id"]: one for one in made}
        before = {tool.name for tool in await listed(tools)}
        assert len(before) == len(ALL) + 1 + len(made)
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in before)
        mine = [tool for tool in await listed(tools) if tool.title == "Same"]
        for tool in mine:
            result = await tools.call_tool(tool.name, {"text": "x"})
            assert result.structured_content["answer"] == {"said": "x", "tone": "Same"}
        # One that is renamed is still known to those who listed it before; one that is deleted is not.
        first, second = (one for one in ids.values() if one["name"] == "Same")
        await client.assistants.update(first["assistant_id"], name="Other")
        await client.assistants.delete(second["assistant_id"])
        told = [await asyncio.gather(tools.call_tool(tool.name), return_exceptions=True) for tool in mine]
        assert sorted(type(result).__name__ for [result] in told) == ["CallToolResult", "MCPError"]
        after = {tool.name for tool in await listed(tools)}
        assert len(after) == len(before) - 1
        assert len(after - before) == 1


async def test_page_goes_on_behind_what_is_gone(server: Any, http: httpx.AsyncClient, client: Any) -> None:
    made = [await client.assistants.create("echo", name=f"p{n}") for n in range(60)]

    async def page(cursor: str | None) -> tuple[list[str], str | None]:
        params = {} if cursor is None else {"cursor": cursor}
        result = (await send(http, "tools/list", params)).json()["result"]
        return [tool["name"] for tool in result["tools"]], result.get("nextCursor")

    first, cursor = await page(None)
    assert cursor is not None
    await client.assistants.delete(cursor.partition(".")[2])
    seen = [*first]
    while cursor is not None:
        names, cursor = await page(cursor)
        seen += names
    assert len(seen) == len(set(seen))
    assert sum(name.startswith("p") for name in seen) == len(made)


# --- whoever leaves, or stops it ------------------------------------------------------------------------


async def runs_of(http: httpx.AsyncClient, status: str, tool: str) -> list[dict[str, Any]]:
    found = (await http.get("/runs", params={"status": status, "limit": 1000})).json()
    return [run for run in found if run["input"] == {"text": tool, "wait_s": 60}]


async def test_client_that_leaves_stops_its_runs(server: Any, http: httpx.AsyncClient) -> None:
    message = call("slow", {"text": "left", "wait_s": 60})
    async with httpx.AsyncClient(base_url=server.url) as leaving:
        task = asyncio.create_task(
            leaving.post("/mcp", json=[message, {**message, "id": 2}], headers=HEADERS)
        )
        await until(lambda: runs_of(http, "running", "left"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    stopped = await until(lambda: runs_of(http, "interrupted", "left"))
    assert stopped[0]["cancel_reason"] == "the client went away"
    await until(lambda: _none(runs_of(http, "running", "left")))


async def _none(found: Any) -> bool:
    return not await found


@pytest.mark.parametrize(
    ("how", "path", "said"),
    [("POST", "/cancel?reason=enough", "The run was stopped: enough"), ("DELETE", "", "The run was ")],
)
async def test_run_that_is_stopped(
    server: Any, http: httpx.AsyncClient, how: str, path: str, said: str
) -> None:
    async with connected(server) as tools:
        calling = asyncio.create_task(tools.call_tool("slow", {"text": how, "wait_s": 60}))
        [run] = await until(lambda: runs_of(http, "running", how))
        answer = await http.request(how, f"/threads/{run['thread_id']}/runs/{run['run_id']}{path}")
        assert answer.is_success
        result = await calling
        assert result.is_error
        assert text_of(result).startswith(said)


# --- by hand ----------------------------------------------------------------------------------------------


def call(name: Any, arguments: Any = None, **params: Any) -> dict[str, Any]:
    params |= {"name": name} | ({} if arguments is None else {"arguments": arguments})
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def send(http: httpx.AsyncClient, method: str, params: Any = None, **headers: str) -> httpx.Response:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await http.post("/mcp", json=message, headers=HEADERS | headers)


async def test_context(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/mcp", json=call("echo", {"text": "x"}, context={"tone": "dry"}), headers=HEADERS
    )
    assert answer.json()["result"]["structuredContent"]["answer"] == {"said": "x", "tone": "dry"}


async def test_batch(http: httpx.AsyncClient) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": "a", "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {**call("echo", {"text": "x"}), "id": "b"},
        {"jsonrpc": "2.0", "id": 3, "method": "nothing"},
    ]
    answers = (await http.post("/mcp", json=batch, headers=HEADERS)).json()
    assert [answer["id"] for answer in answers] == ["a", "b", 3]
    assert answers[1]["result"]["structuredContent"]["answer"]["said"] == "x"
    assert answers[2]["error"]["code"] == -32601
    named = {"mcp-protocol-version": "2025-06-18"}
    refused = await http.post("/mcp", json=batch, headers=HEADERS | named)
    assert refused.status_code == 400
    assert "2025-06-18" in refused.json()["error"]["message"]


async def test_transport(http: httpx.AsyncClient) -> None:
    ping = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
    told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await http.post("/mcp", json=ping)).json() == {"jsonrpc": "2.0", "id": 7, "result": {}}
    answer = await http.post("/mcp", json=told, headers=HEADERS)
    assert (answer.status_code, answer.content) == (202, b"")
    answer = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "result": {}}, headers=HEADERS)
    assert (answer.status_code, answer.content) == (202, b"")
    assert (await http.get("/mcp", headers=HEADERS)).status_code == 405
    assert (await http.delete("/mcp", headers=HEADERS)).status_code == 404
    moved = await http.post("/mcp/", json=ping, headers=HEADERS)
    assert moved.status_code == 307
    assert moved.next_request is not None
    assert moved.next_request.url.path == "/mcp"
    for kind, status in (
        ("text/html", 400),
        ("application/json", 200),
        ("text/event-stream", 200),
        ("*/*", 200),
    ):
        assert (await http.post("/mcp", json=ping, headers={"accept": kind})).status_code == status


@pytest.mark.parametrize(
    ("asked", "given"),
    [(v, v) for v in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")]
    + [("2031-01-01", "2025-11-25")],
)
async def test_versions(http: httpx.AsyncClient, asked: str, given: str) -> None:
    params = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    answer = (await send(http, "initialize", params)).json()["result"]
    assert answer["protocolVersion"] == given
    assert answer["capabilities"] == {"tools": {"listChanged": False}}
    after = await send(http, "ping", **{"mcp-protocol-version": asked})
    assert after.status_code == (200 if asked == given else 400)
