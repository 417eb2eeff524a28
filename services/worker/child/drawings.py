"""What graphs look like: drawings, schemas, the graphs inside."""

import typing
import warnings
from collections.abc import Callable
from typing import Any

from .refusals import NotFound


async def drawing(graph: Any, ask: dict[str, Any]) -> dict[str, Any]:
    """Nodes and edges; with `xray` those of the graphs inside too, so many levels deep."""
    drawn = (await graph.aget_graph(ask.get("config") or None, xray=ask.get("xray", False))).to_json()
    return {
        "nodes": [node_shown(node) for node in drawn["nodes"]],
        "edges": [edge for edge in drawn["edges"] if edge],
    }


def node_shown(node: dict[str, Any]) -> dict[str, Any]:
    """A node with all three members; LangChain leaves them out where it has nothing to tell."""
    data = node.get("data")
    data = data if isinstance(data, dict) else {"name": data}
    return {
        **node,
        "id": str(node["id"]),
        "type": node.get("type", "schema"),
        "data": {**data, "name": data.get("name") or str(node["id"])},
    }


async def schemas(graph: Any, ask: dict[str, Any]) -> dict[str, Any]:
    """The five schemas of a graph; None where one can't be derived."""
    return {"graph_id": ask["graph_id"], **five(graph)}


async def subgraphs(graph: Any, ask: dict[str, Any]) -> dict[str, Any]:
    """The schemas of the graphs inside, by namespace."""
    namespace = ask.get("namespace")
    found = {
        name: {"graph_id": ask["graph_id"], **five(inner)}
        async for name, inner in graph.aget_subgraphs(namespace=namespace, recurse=bool(ask.get("recurse")))
    }
    if namespace is not None and not found:
        raise NotFound(f"namespace: the graph '{ask['graph_id']}' has no graph inside at '{namespace}'")
    return found


def five(graph: Any) -> dict[str, Any]:
    """Input, output, state, config and context schema of a compiled graph."""
    builder = getattr(graph, "builder", None)
    return {
        "input_schema": derived(graph.get_input_jsonschema, getattr(builder, "input_schema", None)),
        "output_schema": derived(graph.get_output_jsonschema, getattr(builder, "output_schema", None)),
        "state_schema": derived(lambda: state_schema(graph)),
        "config_schema": derived(lambda: config_schema(graph)),
        "context_schema": derived(graph.get_context_jsonschema, getattr(graph, "context_schema", None)),
    }


def derived(schema: Callable[[], Any], kind: Any = None) -> Any:
    """What the function gives, or else what the hints of the class say; None when neither works."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return schema()
    except Exception:
        # Before Python 3.12 pydantic refuses every `typing.TypedDict`.
        if kind is None:
            return None
        return derived(lambda: schema_of_fields(kind.__name__, typing.get_type_hints(kind)))


def state_schema(graph: Any) -> dict[str, Any]:
    """The schema of the whole state: of each channel what may be written to it."""
    kinds = {name: graph.channels[name].UpdateType for name in graph.stream_channels_list}
    return schema_of_fields(graph.get_name("State"), kinds)


def schema_of_fields(title: str, kinds: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with these members, none of them required; odd types may be anything."""
    from pydantic import create_model

    fields: dict[str, Any] = {name: (known_kind(kind), None) for name, kind in kinds.items()}
    schema: dict[str, Any] = create_model(title, **fields).model_json_schema()
    return schema


def known_kind(kind: Any) -> Any:
    """The type if it has a JSON schema, else one that means anything."""
    from pydantic import TypeAdapter

    try:
        TypeAdapter(kind).json_schema()
    except Exception:
        return Any
    return kind


def config_schema(graph: Any) -> Any:
    """The schema of what a run's `configurable` may hold; None when the graph does not say."""
    from pydantic import TypeAdapter

    field = graph.config_schema().model_fields.get("configurable")
    return None if field is None else TypeAdapter(field.annotation).json_schema()
