"""Assistants that are looked for, their versions, and what their graphs look like."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec

from contracts.answers.assistants import AssistantAnswer, AssistantVersionAnswer
from contracts.api import AssistantCount, AssistantSearch, AssistantVersions
from contracts.queries import GraphQuery
from domain.assistant import Assistant, default_assistant_id
from domain.errors import AssistantNotFound, InvalidField
from projections import assistants as assistant_rows
from services.gateway.answers import assistants as answers
from services.gateway.answers.values import Row
from services.gateway.parts import GatewayParts
from services.gateway.queries import fold, graphs, search
from services.gateway.queries.filters import ASSISTANTS, VERSIONS, Filter
from services.kit.ids import parse_uuid


def by_name(parts: GatewayParts, text: str) -> AssistantAnswer:
    """The assistant of that id, or the default one of that graph. Raises AssistantNotFound."""
    return answers.assistant(_row(parts, text))


def just_made(parts: GatewayParts, assistant_id: UUID) -> AssistantAnswer:
    """The same of one that the read models may not have come to. Raises AssistantNotFound."""
    row = fold.row(parts, assistant_rows, "assistants", assistant_id)
    return answers.assistant(row or _row(parts, str(assistant_id)))


async def matching(parts: GatewayParts, wanted: AssistantSearch) -> tuple[Iterator[Any], dict[str, str]]:
    """The assistants of a page in their order, and its pagination headers. Raises AssistantNotFound."""
    part = search.page(wanted.limit, wanted.offset, wanted.sort_by or "created_at", wanted.sort_order)
    keys, headers = await search.search(parts.views, filter_of(parts, wanted), part)
    rows = search.rows_of(parts.views, search.row_query(ASSISTANTS), keys)
    return search.chosen(map(answers.assistant, rows), wanted.select), headers


async def versions(
    parts: GatewayParts, text: str, wanted: AssistantVersions
) -> tuple[Iterator[AssistantVersionAnswer], dict[str, str]]:
    """The versions of an assistant, newest first. Raises AssistantNotFound."""
    found, row = Filter(VERSIONS), await parts.read(lambda: _row(parts, text))
    found.equal("assistant_id", row["assistant_id"])
    found.holds("metadata", wanted.metadata)  # of one assistant
    part = search.page(wanted.limit, wanted.offset, "version", "desc")
    keys, headers = await search.search(parts.views, found, part)
    rows = search.rows_of(parts.views, search.row_query(VERSIONS), keys)
    return map(answers.assistant_version, rows), headers


def filter_of(parts: GatewayParts, wanted: AssistantCount) -> Filter:
    """What is to be met. Raises AssistantNotFound."""
    if wanted.graph_id is not None:
        check_graph(parts, wanted.graph_id)
    found = Filter(ASSISTANTS)
    found.equal("graph_id", wanted.graph_id)
    found.named(wanted.name)
    found.metadata(wanted.metadata)
    return found


def check_graph(parts: GatewayParts, graph_id: str) -> None:
    """Raises AssistantNotFound unless the project has the graph."""
    if graph_id not in parts.graphs:
        raise AssistantNotFound(f"graph_id: graph '{graph_id[:100]}' not found")


def served(parts: GatewayParts, assistant: Assistant) -> Assistant:
    """The assistant, if the project has its graph. Raises InvalidField."""
    if assistant.graph_id not in parts.graphs:
        known = ", ".join(parts.graphs)
        raise InvalidField(
            f"assistant_id: the project has no graph '{assistant.graph_id[:100]}'; graphs are {known}"
        )
    return assistant


async def look(parts: GatewayParts, text: str, kind: type[GraphQuery], **more: Any) -> bytes:
    """What the graph of an assistant looks like, as JSON. Raises AssistantNotFound, and what `ask` raises."""
    assistant = await parts.repository.load(lambda log: log.assistant(text))
    query = kind(graph_id=assistant.graph_id, config=assistant.config, context=assistant.context, **more)
    return bytes(await graphs.ask(parts, query, msgspec.Raw))


def _row(parts: GatewayParts, text: str) -> Row:
    assistant_id = parse_uuid(text) or default_assistant_id(text)
    row = search.by_id(parts.views, "assistants", "assistant_id", assistant_id)
    if row is None:
        raise AssistantNotFound(f"assistant_id: assistant or graph '{text[:100]}' not found")
    return row
