"""Assistants: read and search."""

from contracts.api import AssistantCount, AssistantSearch
from domain.assistant import default_assistant_id
from domain.errors import AssistantNotFound
from services.gateway import shapes
from services.gateway.http import Answer, Call, Route, as_json
from services.gateway.parts import GatewayParts
from services.gateway.queries import Filter, by_id, count, page, search, selected
from services.kit.ids import parse_uuid


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag = "assistants"
    return [
        Route(method="POST", path="/assistants/search", summary="Search assistants", handle=find, tag=tag, body=AssistantSearch),
        Route(method="POST", path="/assistants/count", summary="Count assistants", handle=how_many, tag=tag, body=AssistantCount),
        Route(method="GET", path="/assistants/{assistant_id}", summary="Get an assistant, by id or graph", handle=read, tag=tag),
    ]  # fmt: skip


async def find(parts: GatewayParts, call: Call) -> Answer:
    """POST /assistants/search."""
    body = call.body(AssistantSearch)
    part = page(body.limit, body.offset, body.sort_by or "created_at", "assistant_id", body.sort_order)
    rows, headers = search(parts.views, "assistants", _filter(parts, body), part)
    return as_json(selected([shapes.assistant(row) for row in rows], body.select), headers=headers)


async def how_many(parts: GatewayParts, call: Call) -> Answer:
    """POST /assistants/count."""
    return as_json(count(parts.views, "assistants", _filter(parts, call.body(AssistantCount))))


async def read(parts: GatewayParts, call: Call) -> Answer:
    """GET /assistants/{assistant_id}."""
    text = str(call.params["assistant_id"])
    row = by_id(parts.views, "assistants", "assistant_id", parse_uuid(text) or default_assistant_id(text))
    if row is None:
        raise AssistantNotFound(f"assistant_id: assistant or graph '{text[:100]}' not found")
    return as_json(shapes.assistant(row))


def _filter(parts: GatewayParts, body: AssistantCount) -> Filter:
    if body.graph_id is not None and body.graph_id not in parts.graphs:
        raise AssistantNotFound(f"graph_id: graph '{body.graph_id[:100]}' not found")
    wanted = Filter()
    wanted.equal("graph_id", body.graph_id)
    if body.name is not None:
        wanted.add("instr(lower(name), lower(?)) > 0", body.name)
    wanted.contains("metadata", body.metadata)
    return wanted
