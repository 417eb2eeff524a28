"""What is not about an object: probes, and the pages that describe the server."""

from html import escape
from importlib.metadata import version

from contracts.asyncapi import asyncapi_document
from services.gateway.http import Answer, Call, Route, as_json
from services.gateway.openapi import openapi_document
from services.gateway.parts import GatewayParts

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Cronledger</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse;width:100%}}td{{padding:.2em .8em .2em 0;vertical-align:top}}
code{{font-size:14px}}h2{{margin:1.2em 0 .3em}}</style>
<h1>Cronledger {version}</h1>
<p>Machine-readable: <a href="openapi.json">openapi.json</a> (HTTP), <a href="asyncapi.json">asyncapi.json</a>
(events on NATS). Clients: <code>langgraph_sdk</code>, <code>@langchain/langgraph-sdk</code>.</p>
{sections}</html>"""


def routes(described: list[Route]) -> list[Route]:
    """Every endpoint of this resource; `described` are the routes that the pages tell of."""
    tag = "system"

    async def openapi(parts: GatewayParts, _: Call) -> Answer:
        return as_json(openapi_document(described + own, parts.version))

    async def docs(parts: GatewayParts, _: Call) -> Answer:
        body = _page(described + own, parts.version)
        return Answer(200, body.encode(), {}, "text/html")

    own = [
        Route(method="GET", path="/", summary="Alive", handle=ok, tag=tag),
        Route(method="GET", path="/ok", summary="Alive", handle=ok, tag=tag, query={"check_db": "1: ask the log too"}),
        Route(method="GET", path="/info", summary="Version and what is there", handle=info, tag=tag),
        Route(method="GET", path="/live", summary="The process answers", handle=live, tag=tag),
        Route(method="GET", path="/health", summary="503 when a part is not well", handle=health, tag=tag),
        Route(method="GET", path="/ready", summary="503 until everything is ready", handle=health, tag=tag),
        Route(method="GET", path="/docs", summary="This page", handle=docs, tag=tag),
        Route(method="GET", path="/openapi.json", summary="The HTTP endpoints", handle=openapi, tag=tag),
        Route(method="GET", path="/asyncapi.json", summary="The events on NATS", handle=asyncapi, tag=tag),
    ]  # fmt: skip
    return own


async def ok(parts: GatewayParts, call: Call) -> Answer:
    """GET /ok and GET /."""
    if call.text("check_db"):
        parts.log.head()
    return as_json({"ok": True, "services": {}})


async def info(parts: GatewayParts, _: Call) -> Answer:
    """GET /info."""
    flags = {"assistants": True, "crons": True, "langsmith": False, "streaming": True, "store": True}
    return as_json(
        {
            "name": "Cronledger",
            "version": parts.version,
            "langgraph_py_version": version("langgraph"),
            "status": "running",
            "flags": flags,
            "host": {"kind": "self-hosted", "project_id": None, "revision_id": None, "tenant_id": None},
        }
    )


async def live(_: GatewayParts, __: Call) -> Answer:
    """GET /live."""
    return as_json({"status": "alive"})


async def health(parts: GatewayParts, _: Call) -> Answer:
    """GET /health and GET /ready. A notice, that a node blocks its process say, makes nobody unhealthy."""
    failing, noted = parts.health(), parts.notices()
    well = not any(failing.values())
    told = {name: why or noted.get(name, "ok") for name, why in failing.items()}
    return as_json({"status": "healthy" if well else "unhealthy", "services": told}, 200 if well else 503)


async def asyncapi(parts: GatewayParts, _: Call) -> Answer:
    """GET /asyncapi.json."""
    return as_json(asyncapi_document(parts.version))


def _page(described: list[Route], number: str) -> str:
    sections = []
    for tag in dict.fromkeys(route.tag for route in described):
        rows = "".join(
            f"<tr><td><code>{route.method}</code><td><code>{escape(route.path)}</code><td>{escape(route.summary)}"
            for route in described
            if route.tag == tag
        )
        sections.append(f"<h2>{escape(tag)}</h2><table>{rows}</table>")
    return PAGE.format(version=escape(number), sections="".join(sections))
