"""Assistants: create, read, change, choose a version, delete, search, and what their graphs look like."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import msgspec

from contracts.api import (
    AssistantCount,
    AssistantCreate,
    AssistantLatest,
    AssistantPatch,
    AssistantSearch,
    AssistantVersions,
)
from contracts.queries import Drawing, GraphQuery, Schemas, Subgraphs
from domain import assistant as assistants
from domain.assistant import (
    AssistantCommand,
    ChooseVersion,
    CreateAssistant,
    DeleteAssistant,
    assistant_of,
    default_assistant_id,
    version_of,
)
from domain.assistant_fields import create_of, update_of
from domain.changes import Changes
from domain.cron import DeleteCron
from domain.errors import AlreadyExists, AssistantNotFound, InvalidField
from projections import assistants as assistant_rows
from services.gateway.answers import shapes
from services.gateway.commands import acting, endings
from services.gateway.http import USER, Answer, Call, Route, as_json, as_list, nothing
from services.gateway.parts import GatewayParts
from services.gateway.queries import fold, graphs
from services.gateway.queries.filters import ASSISTANTS, SQL, THREADS, VERSIONS, Filter
from services.gateway.queries.search import by_id, count, keys_of, page, row_query, rows_of, search, selected
from services.kit.ids import parse_uuid

DEEPEST = 1000


def routes() -> list[Route]:
    """Every endpoint of this resource."""
    tag, one = "assistants", "/assistants/{assistant_id}"
    recurse = {"recurse": "true: the graphs inside those too"}
    return [
        Route(method="POST", path="/assistants", summary="Create an assistant: a graph with a configuration", handle=create, tag=tag, body=AssistantCreate),
        Route(method="POST", path="/assistants/search", summary="Search assistants", handle=find, tag=tag, body=AssistantSearch),
        Route(method="POST", path="/assistants/count", summary="Count assistants", handle=how_many, tag=tag, body=AssistantCount),
        Route(method="GET", path=one, summary="Get an assistant, by id or graph", handle=read, tag=tag),
        Route(method="PATCH", path=one, summary="Make a new version of an assistant", handle=change, tag=tag, body=AssistantPatch),
        Route(method="DELETE", path=one, summary="Delete an assistant with its crons, and stop its runs", handle=delete, tag=tag, status=204, query={"delete_threads": "true: its threads too"}),
        Route(method="POST", path=one + "/versions", summary="The versions of an assistant, newest first", handle=versions, tag=tag, body=AssistantVersions),
        Route(method="POST", path=one + "/latest", summary="Put a version of an assistant into force", handle=choose, tag=tag, body=AssistantLatest),
        Route(method="GET", path=one + "/graph", summary="Nodes and edges of its graph", handle=drawing, tag=tag, query={"xray": "true or a depth: with the graphs inside"}),
        Route(method="GET", path=one + "/schemas", summary="Schemas of its graph", handle=schemas, tag=tag),
        Route(method="GET", path=one + "/subgraphs", summary="Schemas of the graphs inside its graph", handle=subgraphs, tag=tag, query=recurse),
        Route(method="GET", path=one + "/subgraphs/{namespace}", summary="Schemas of one graph inside its graph", handle=subgraphs, tag=tag, query=recurse),
    ]  # fmt: skip


async def create(parts: GatewayParts, call: Call) -> Answer:
    """POST /assistants."""
    body = call.body(AssistantCreate)
    _check_graph(parts, body.graph_id)
    assistant_id = uuid4()
    if body.assistant_id is not None:
        chosen = parse_uuid(body.assistant_id)
        if chosen is None:
            raise InvalidField("assistant_id: Invalid assistant ID: must be a UUID")
        assistant_id = chosen
    command, keep = create_of(body, assistant_id, USER), body.if_exists == "do_nothing"
    position = await acting.act(parts, call, assistant_id, lambda: _created(parts, command, keep=keep))
    if position is None:
        # It exists, perhaps since a moment ago, and is not shown yet.
        await parts.reached(parts.log.head(), acting.SHOWN_S)
    row = fold.row(parts, assistant_rows, "assistants", assistant_id) or _row(parts, str(assistant_id))
    return as_json(shapes.assistant(row))


def _created(parts: GatewayParts, command: CreateAssistant, *, keep: bool) -> Changes:
    assistant_id = command.assistant_id
    newest = parts.log.newest([assistant_id]).get(assistant_id)
    assistant = assistant_of(assistant_id, newest)
    if assistant is not None and keep:
        return Changes()
    if newest is not None and assistant is None:
        raise AlreadyExists(f"assistant_id: the id {assistant_id} is in use or was")
    return Changes(appends=assistants.appends(assistant_id, None, assistants.decide(assistant, command)))


async def read(parts: GatewayParts, call: Call) -> Answer:
    """GET /assistants/{assistant_id}."""
    return as_json(shapes.assistant(_row(parts, _named(call))))


async def change(parts: GatewayParts, call: Call) -> Answer:
    """PATCH /assistants/{assistant_id}: one that names no field makes no version."""
    body = call.body(AssistantPatch)
    if body.graph_id is not None:
        _check_graph(parts, body.graph_id)
    command = update_of(body)
    return await _changed(parts, call, lambda _: command)


async def choose(parts: GatewayParts, call: Call) -> Answer:
    """POST /assistants/{assistant_id}/latest."""
    number = call.body(AssistantLatest).version

    def command(assistant_id: UUID) -> ChooseVersion:
        return ChooseVersion(number=number, said=version_of(number, parts.log.stream(assistant_id)))

    return await _changed(parts, call, command)


async def _changed(parts: GatewayParts, call: Call, command: Callable[[UUID], AssistantCommand]) -> Answer:
    assistant_id = acting.assistant(parts, _named(call)).assistant_id
    await acting.act(parts, call, assistant_id, lambda: _decided(parts, assistant_id, command(assistant_id)))
    return as_json(shapes.assistant(_row(parts, str(assistant_id))))


def _decided(parts: GatewayParts, assistant_id: UUID, command: AssistantCommand) -> Changes:
    assistant = acting.assistant(parts, str(assistant_id))
    return Changes(appends=assistants.appends(assistant_id, assistant, assistants.decide(assistant, command)))


async def versions(parts: GatewayParts, call: Call) -> Answer:
    """POST /assistants/{assistant_id}/versions."""
    body = call.body(AssistantVersions)
    wanted = Filter(VERSIONS)
    wanted.equal("assistant_id", _row(parts, _named(call))["assistant_id"])
    wanted.holds("metadata", body.metadata)  # of one assistant
    keys, headers = await search(parts.views, wanted, page(body.limit, body.offset, "version", "desc"))
    rows = rows_of(parts.views, row_query(VERSIONS), keys)
    return await as_list(parts, map(shapes.assistant_version, rows), headers)


async def delete(parts: GatewayParts, call: Call) -> Answer:
    """DELETE /assistants/{assistant_id}: it goes last, so that after a crash it can be asked for again."""
    with_threads = call.flag("delete_threads")
    assistant_id = acting.assistant(parts, _named(call)).assistant_id
    _decided(parts, assistant_id, DeleteAssistant())  # refused before anything has ended
    if with_threads:
        for thread_id in await keys_of(parts.views, _threads_of(assistant_id)):
            await endings.delete_thread(parts, call, UUID(bytes=thread_id))
    await _stop_runs(parts, call, assistant_id)
    command = DeleteCron(reason="assistant_deleted")

    def decide() -> Changes:
        ended = endings.end_crons(parts, call, "assistant", assistant_id, command)
        return ended + _decided(parts, assistant_id, DeleteAssistant())

    await acting.act(parts, call, assistant_id, decide)
    await _stop_runs(parts, call, assistant_id)  # those that its crons began meanwhile
    return nothing()


def _threads_of(assistant_id: UUID) -> Filter:
    wanted = Filter(THREADS)
    wanted.metadata({"assistant_id": str(assistant_id)})
    wanted.equal("temporary", 0)
    return wanted


async def _stop_runs(parts: GatewayParts, call: Call, assistant_id: UUID) -> None:
    for row in parts.views.all(SQL["active_runs_of_assistant"], (assistant_id.bytes,)):
        thread_id, run_id = UUID(bytes=row["thread_id"]), UUID(bytes=row["run_id"])
        await endings.stop_run(parts, call, thread_id, run_id, "assistant deleted")


async def find(parts: GatewayParts, call: Call) -> Answer:
    """POST /assistants/search."""
    body = call.body(AssistantSearch)
    part = page(body.limit, body.offset, body.sort_by or "created_at", body.sort_order)
    keys, headers = await search(parts.views, _filter(parts, body), part)
    rows = rows_of(parts.views, row_query(ASSISTANTS), keys)
    return await as_list(parts, selected(map(shapes.assistant, rows), body.select), headers)


async def how_many(parts: GatewayParts, call: Call) -> Answer:
    """POST /assistants/count."""
    return as_json(await count(parts.views, _filter(parts, call.body(AssistantCount))))


async def drawing(parts: GatewayParts, call: Call) -> Answer:
    """GET /assistants/{assistant_id}/graph."""
    return await _told(parts, call, Drawing, xray=_xray(call))


async def schemas(parts: GatewayParts, call: Call) -> Answer:
    """GET /assistants/{assistant_id}/schemas."""
    return await _told(parts, call, Schemas)


async def subgraphs(parts: GatewayParts, call: Call) -> Answer:
    """GET /assistants/{assistant_id}/subgraphs, and those of one namespace."""
    namespace = call.params.get("namespace")
    return await _told(parts, call, Subgraphs, namespace=namespace, recurse=bool(call.flag("recurse")))


async def _told(parts: GatewayParts, call: Call, kind: type[GraphQuery], **more: Any) -> Answer:
    assistant = acting.assistant(parts, _named(call))
    query = kind(
        graph_id=assistant.graph_id, config=assistant.config, context=assistant.context or None, **more
    )
    body: msgspec.Raw = await graphs.ask(parts, query, msgspec.Raw)
    return Answer(200, bytes(body))


def _xray(call: Call) -> bool | int:
    try:
        if (call.text("xray") or "").lstrip("-").isdigit():
            return call.number("xray", 1, 1, DEEPEST)  # here 1 is a depth, not a yes
        return bool(call.flag("xray"))
    except InvalidField:
        raise InvalidField(f"xray: must be true, false or a depth from 1 to {DEEPEST}") from None


def _named(call: Call) -> str:
    return str(call.params["assistant_id"])


def _row(parts: GatewayParts, text: str) -> dict[str, Any]:
    row = by_id(parts.views, "assistants", "assistant_id", parse_uuid(text) or default_assistant_id(text))
    if row is None:
        raise AssistantNotFound(f"assistant_id: assistant or graph '{text[:100]}' not found")
    return row


def _check_graph(parts: GatewayParts, graph_id: str) -> None:
    if graph_id not in parts.graphs:
        raise AssistantNotFound(f"graph_id: graph '{graph_id[:100]}' not found")


def _filter(parts: GatewayParts, body: AssistantCount) -> Filter:
    if body.graph_id is not None:
        _check_graph(parts, body.graph_id)
    wanted = Filter(ASSISTANTS)
    wanted.equal("graph_id", body.graph_id)
    wanted.named(body.name)
    wanted.metadata(body.metadata)
    return wanted
