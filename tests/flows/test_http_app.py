"""`http` of langgraph.json: the project's own application beside the server, and what it says of HTTP."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from services.custom.process import CustomApp, CustomAppFailed
from services.custom.proxy import Proxy
from services.kit.project import Project, ProjectError, load_project


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server("custom")


@pytest.fixture
async def http(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        yield client


async def test_its_routes_come_before_ours_and_behind_probes(http: httpx.AsyncClient) -> None:
    assert len((await http.get("/own")).json()["started"]) == 1
    assert (await http.get("/threads")).json() == "mine"
    assert (await http.post("/threads", json={})).status_code == 200  # that one is ours
    assert (await http.get("/ok")).json()["ok"] is True
    told = await http.get("/own/absent")
    assert (told.status_code, told.json()) == (404, {"detail": "no such thing of mine"})
    nothing = await http.get("/own/nosuch")
    assert (nothing.status_code, nothing.json()["error"]) == (404, "http")
    note = await http.post("/own/notes", json={"text": "a"})
    assert note.json() == {"text": "a"}
    assert (await http.post("/own/notes", json={})).status_code == 422
    headers = (await http.get("/own/headers", headers={"x-mine": "1", "x-forwarded-for": "6.6.6.6"})).json()
    assert headers["x-mine"] == "1"
    assert headers["x-forwarded-for"] == "6.6.6.6"  # whoever is on this machine may be a proxy
    assert (await http.get("/own/runs")).json() == 1


async def test_its_openapi_is_merged(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert {"/own", "/own/notes", "/threads", "/runs/crons"} <= document["paths"].keys()
    schemas = document["components"]["schemas"]
    assert set(schemas["Problem"]["properties"]) == {"detail", "error", "message"}
    assert set(schemas["CustomProblem"]["properties"]) == {"why"}
    answer = document["paths"]["/own/notes"]["post"]["responses"]["418"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/CustomProblem"}


async def test_bodies_and_streams_pass_as_they_come(http: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000
            await asyncio.sleep(0)

    told = (await http.post("/own/upload", content=pieces())).json()
    assert told["bytes"] == 2_000_000
    assert told["pieces"] > 2
    began = time.monotonic()
    async with http.stream("GET", "/own/ticks") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        arrived = [time.monotonic() - began async for line in answer.aiter_lines() if line]
    assert len(arrived) == 3
    assert arrived[2] - arrived[0] > 0.4


async def test_websockets_pass(server: Any) -> None:
    url = server.url.replace("http", "ws")
    async with connect(
        url + "/own/socket", subprotocols=[Subprotocol("chat")], compression=None, max_size=None
    ) as socket:
        assert socket.subprotocol == "chat"
        await socket.send("hello")
        assert await socket.recv() == "HELLO"
        await socket.send("x" * 2_000_000)
        assert len(await socket.recv()) == 2_000_000
        await socket.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "bye")
    with pytest.raises(InvalidStatus):
        await connect(url + "/own/refused")


async def test_headers_enter_the_config_of_runs(http: httpx.AsyncClient) -> None:
    headers = {
        "X-Tenant": "a",
        "x-secret-key": "s",
        "x-api-key": "k",
        "authorization": "Bearer t",
        "other": "o",
    }
    answer = await http.post("/runs/wait", json={"assistant_id": "echo", "input": {}}, headers=headers)
    assert answer.json() == {"seen": {"x-tenant": "a"}}
    cron = {
        "assistant_id": "echo",
        "schedule": "0 0 1 1 *",
        "input": {},
        "config": {"configurable": {"x-tenant": "b"}},
    }
    made = (await http.post("/runs/crons", json=cron, headers=headers)).json()
    assert made["config"]["configurable"]["x-tenant"] == "b"


async def test_what_blocks_or_dies_in_it_is_its_own(server: Any, http: httpx.AsyncClient) -> None:
    blocked = asyncio.create_task(http.get("/own/block?seconds=30"))
    await asyncio.sleep(0.2)
    for _ in range(5):
        began = time.monotonic()
        answer = await http.post("/runs/wait", json={"assistant_id": "echo", "input": {}})
        assert answer.status_code == 200
        assert time.monotonic() - began < 5
    assert not blocked.done()
    pid = own_process(server.process.pid)
    os.kill(pid, signal.SIGKILL)
    assert (await blocked).status_code == 503
    async with asyncio.timeout(20):
        while (told := await http.get("/own")).status_code != 200:
            assert (told.status_code, "http.app" in told.json()["detail"]) == (503, True)
            assert (await http.get("/health")).status_code == 200
            await asyncio.sleep(0.05)
    died = await http.get("/own/die")
    assert died.status_code == 503
    async with asyncio.timeout(20):
        while (await http.get("/own")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def own_process(pid: int) -> int:
    """The process of the application."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if "custom/child.py" in Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    raise LookupError("it is not there")


async def test_it_ends_with_the_server(make_server: Callable[..., Any]) -> None:
    server = make_server("custom")
    pid = own_process(server.process.pid)
    server.kill()
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


# --- other settings -----------------------------------------------------------------------------------


def changed(server: Any, **http: Any) -> None:
    """Give the project another `http` section."""
    file = server.folder / "project" / "langgraph.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"http": http}))


async def test_prefix_origins_and_what_is_left_out(make_server: Callable[..., Any]) -> None:
    server = make_server("custom")
    server.stop()
    cors = {"allow_origins": ["https://a.example"], "allow_credentials": True, "max_age": 5}
    off = {f"disable_{group}": True for group in ("store", "mcp", "webhooks", "a2a", "ui")}
    changed(server, app="./web.py:app", mount_prefix="/agents/", cors=cors, **off)
    server.start()
    assert server.url.endswith("/agents")
    async with httpx.AsyncClient(base_url=server.url.removesuffix("/agents")) as http:
        assert (await http.get("/ok")).status_code == 200
        assert (await http.get("/own")).status_code == 404
        assert "/agents" in (await http.get("/info")).json()["detail"]
        assert (await http.get("/agents/own")).status_code == 200
        assert (await http.get("/agents/own/runs")).json() == 1
        for path in ("/agents/store/items", "/agents/mcp", "/agents/webhooks/deliveries"):
            assert (await http.post(path, json={})).status_code == 404, path
        document = (await http.get("/agents/openapi.json")).json()
        assert document["servers"] == [{"url": "/agents"}]
        assert "/mcp" not in document["paths"]
        for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
            answer = await http.get("/agents/info", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed
    async with get_client(url=server.url, api_key=None) as client:
        thread = (await client.threads.create())["thread_id"]
        parts = [part.event async for part in client.runs.stream(thread, "echo", input={})]
        assert parts == ["metadata", "values", "values", "end"] or parts[-1] == "end"
        joined = await client.runs.create(thread, "echo", input={})
        assert "seen" in await client.runs.join(thread, joined["run_id"])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nosuch", "No module named 'nosuch'"),
        ("other = 1", "app"),
        ("app = 1", "no ASGI application"),
        ("import os; os._exit(1)", "its process ended"),
        (
            "from starlette.applications import Starlette\n"
            "from contextlib import asynccontextmanager\n"
            "@asynccontextmanager\nasync def broken(app):\n    raise ValueError('no database')\n    yield\n"
            "app = Starlette(lifespan=broken)",
            "lifespan",
        ),
    ],
)
async def test_applications_that_do_not_start(tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "web.py").write_text(source)
    with pytest.raises(CustomAppFailed, match=told):
        await CustomApp(project_of(tmp_path, "./web.py:app"), Path(sys.executable), str).start()


OTHERS = {
    "starlette": """
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Mount, Route
        def hello(request): return PlainTextResponse("hello " + request.path_params.get("name", ""))
        app = Starlette(routes=[Route("/own/{name}", hello), Mount("/sub", Starlette(routes=[Route("/x", hello)]))])
    """,
    "litestar": """
        from litestar import Litestar, get
        @get(["/own/{name:str}", "/sub/x"], sync_to_thread=False, media_type="text/plain")
        def hello(name: str = "") -> str: return "hello " + name
        app = Litestar([hello])
    """,
    "bare": """
        async def app(scope, receive, send):
            if scope["type"] != "http": return
            text = b"hello " + (b"me" if scope["path"].startswith("/own/") else b"")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text})
    """,
}


@pytest.mark.parametrize("kind", OTHERS)
async def test_other_frameworks(tmp_path: Path, kind: str) -> None:
    (tmp_path / "web.py").write_text(dedent(OTHERS[kind]))
    custom = CustomApp(project_of(tmp_path, "./web.py:app"), Path(sys.executable), str)

    async def ours(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ours"})

    proxy: Any = Proxy(ours, custom, ["^/threads/?$"])
    for part in (custom, proxy):
        await part.start()
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(proxy), base_url="http://test") as http:
            assert (await http.get("/own/me")).text == "hello me"
            assert (await http.get("/sub/x")).text == "hello "
            assert (await http.get("/threads")).text == "ours"
            assert (await http.get("/ok")).text == "ours"
    finally:
        for part in (proxy, custom):
            await part.stop()


def project_of(folder: Path, app: str) -> Project:
    (folder / "graphs.py").write_text("graph = None")
    (folder / "langgraph.json").write_text(
        json.dumps({"graphs": {"g": "./graphs.py:graph"}, "http": {"app": app}})
    )
    return load_project(folder / "langgraph.json", folder)


@pytest.mark.parametrize(
    ("http", "told"),
    [
        ({"app": "web.py"}, "http.app: 'web.py' names no variable"),
        ({"app": "./nosuch.py:app"}, "nosuch.py is not there"),
        ({"app": 1}, "app"),
        ({"cors": {"allow_origin": []}}, "allow_origin"),
        ({"cors": {"max_age": -1}}, "max_age"),
        ({"configurable_headers": {"includes": ["a b"]}}, "includes"),
        ({"mount_prefix": "agents"}, "mount_prefix"),
        ({"enable_custom_route_auth": True}, "http.enable_custom_route_auth: authentication"),
        ({"middleware_order": "last"}, "middleware_order"),
        ({"nosuch": 1}, "nosuch"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, http: dict[str, Any], told: str) -> None:
    (tmp_path / "graphs.py").write_text("")
    file = tmp_path / "langgraph.json"
    file.write_text(json.dumps({"graphs": {"g": "./graphs.py:graph"}, "http": http}))
    with pytest.raises(ProjectError, match=re.escape(told)):
        load_project(file, tmp_path)
