"""Assistants and what their graphs look like, as clients see them."""

from typing import Any
from uuid import UUID

import msgspec

from contracts.api import Json


class AssistantVersionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one version of an assistant says. Instants are ISO 8601 with an offset."""

    assistant_id: UUID
    graph_id: str
    name: str
    description: str | None
    config: Json
    context: Json
    metadata: Json
    version: int
    created_at: str


class AssistantAnswer(AssistantVersionAnswer, frozen=True, kw_only=True):
    """An assistant, with the fields of the version that is in force."""

    updated_at: str
    user_id: str


class GraphDrawing(msgspec.Struct, frozen=True):
    """Nodes and edges of a graph."""

    nodes: list[Json]
    edges: list[Json]


class GraphSchemas(msgspec.Struct, frozen=True):
    """JSON schemas of a graph; null for one that it does not have."""

    graph_id: str
    input_schema: Json | None = None
    output_schema: Json | None = None
    state_schema: Json | None = None
    config_schema: Json | None = None
    context_schema: Json | None = None


SubgraphSchemas = dict[str, Any]
"""Schemas of the graphs inside a graph, by namespace."""
