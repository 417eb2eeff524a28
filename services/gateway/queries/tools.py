"""Assistants as tools: a page of them, which one is called, and what a call came to."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import msgspec

from contracts.api import Json
from contracts.mcp import McpToolResult, McpTools
from contracts.queries import Schemas
from domain.assistant import Assistant
from domain.errors import InvalidField, NotFound, Refused
from services.gateway.answers import tools as answers
from services.gateway.answers.runs import failure_of
from services.gateway.answers.values import Row
from services.gateway.parts import GatewayParts
from services.gateway.queries import graphs
from services.gateway.queries.assistants import served
from services.gateway.queries.filters import SQL
from services.gateway.queries.results import result
from services.gateway.queries.search import by_id
from services.kit.ids import parse_uuid
from services.kit.logs import Log

log_ = Log("gateway")
PAGE = 50
FIRST = (-(1 << 62), b"")
"""Behind it is every assistant: microseconds, and a key before all."""
AT_ONCE = 4
"""Graphs that are asked for their schemas at a time: others have questions too."""


async def page(parts: GatewayParts, cursor: str | None) -> McpTools:
    """The tools behind a place, oldest first. Raises InvalidField, GraphsUnavailable.

    An assistant that has no schema as a tool needs it is left out, and so is one whose graph does not tell in time.
    """
    behind = FIRST if cursor is None else _place_of(cursor)
    found = await parts.read(lambda: parts.views.all(SQL["assistants_behind"], (*behind, PAGE + 1)))
    rows = found[:PAGE]
    schemas = await _schemas(parts, [row for row in rows if row["graph_id"] in parts.graphs])
    tools = [
        answers.tool(row, schema) for row in rows if (schema := schemas.get(row["assistant_id"])) is not None
    ]
    return McpTools(tools=tools, next_cursor=_cursor_of(rows[-1]) if len(found) > PAGE else msgspec.UNSET)


async def called(parts: GatewayParts, name: str) -> Assistant | None:
    """The assistant that is the tool of that name; None when there is none."""
    text = answers.assistant_named(name, parts.graphs)
    if text is None:
        return None
    try:
        return await parts.repository.load(lambda log: served(parts, log.assistant(text)))
    except (NotFound, InvalidField):
        return None


def outcome(parts: GatewayParts, run_id: UUID) -> McpToolResult:
    """What the call came to whose run has ended, or is gone."""
    row = by_id(parts.views, "runs", "run_id", run_id)
    if row is None:
        return answers.failed("The run was deleted before it ended.")
    if (failure := failure_of(row)) is not None:
        return answers.failed(f"{failure['error']}: {failure['message']}")
    if row["status"] == "interrupted" and row["cancel_requested"]:
        return answers.failed(f"The run was stopped: {row['cancel_reason'] or row['cancel_requested']}")
    return answers.succeeded(result(parts, run_id), is_paused=bool(msgspec.json.decode(row["next"])))


async def _schemas(parts: GatewayParts, rows: Sequence[Row]) -> dict[bytes, Json]:
    """The schemas of what goes in, by assistant; those that are alike are asked for once."""
    alike: dict[tuple[str, str, str], list[bytes]] = {}
    for row in rows:
        alike.setdefault((row["graph_id"], row["config"], row["context"]), []).append(row["assistant_id"])
    places, found = asyncio.Semaphore(AT_ONCE), dict[bytes, Json]()

    async def ask(graph_id: str, config: str, context: str) -> None:
        question = Schemas(
            graph_id=graph_id, config=msgspec.json.decode(config), context=msgspec.json.decode(context)
        )
        async with places:
            schema = await _input_schema(parts, question)
        if schema is not None:
            found.update(dict.fromkeys(alike[graph_id, config, context], schema))

    asking = [asyncio.create_task(ask(*one)) for one in alike]
    try:
        if asking:
            await asyncio.wait(asking, timeout=parts.settings.question_timeout_s)
    finally:
        for task in asking:
            task.cancel()
        told = await asyncio.gather(*asking, return_exceptions=True)
    for one in told:
        if isinstance(one, Exception):
            raise one
    return found


async def _input_schema(parts: GatewayParts, question: Schemas) -> Json | None:
    """What goes into the graph; None when that can't be told, or is no object. Raises GraphsUnavailable."""
    try:
        schemas = await graphs.ask(parts, question, Json)
    except Refused as exc:
        log_.info("mcp.left_out", graph=question.graph_id, why=str(exc))
        return None
    return answers.tool_schema(schemas.get("input_schema"))


def _cursor_of(row: Row) -> str:
    return f"{row['created_at']}.{UUID(bytes=row['assistant_id'])}"


def _place_of(cursor: str) -> tuple[int, bytes]:
    """The place of an assistant in the order, there or gone meanwhile."""
    at, _, text = cursor.partition(".")
    assistant_id = parse_uuid(text)
    if assistant_id is None or not (at.isascii() and at.isdigit() and len(at) < 19):
        raise InvalidField("cursor: must be the nextCursor of a page before")
    return int(at), assistant_id.bytes
