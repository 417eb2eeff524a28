"""Assistants as tools of the Model Context Protocol: their names, schemas of what goes in, what a call came to."""

import re
from base64 import b32decode, b32encode
from collections.abc import Collection, Iterator
from typing import Any
from uuid import UUID

import msgspec

from contracts.api import Json
from contracts.mcp import McpText, McpTool, McpToolResult
from domain.assistant import default_assistant_id
from services.gateway.answers.values import Row

PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Names that every model and client takes. The protocol itself allows more."""
CODED = re.compile(r".*_([a-z2-7]{26})", re.DOTALL)
MOST_WORDS = 20
"""Letters of an assistant's name in a tool's: with what clients put in front, 64 must do."""
PAUSED = "The run was interrupted and waits for an answer, which a call of a tool can't give."
OF_SCHEMAS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs"})
"""Keywords whose value has schemas by name."""
NOT_SCHEMAS = frozenset({"default", "const", "enum", "examples", "required"})
DEFINED = "#/$defs/"
MESSAGE: Json = {
    "type": "object",
    "description": "A chat message",
    "properties": {
        "role": {"type": "string", "enum": ["user", "assistant", "system"]},
        "content": {"type": "string"},
    },
    "required": ["role", "content"],
}
"""What a client writes for any of LangChain's classes of messages, whose own schemas take 20 kB."""


def tool(row: Row, input_schema: Json) -> McpTool:
    """The assistant of the row as a tool."""
    assistant_id = UUID(bytes=row["assistant_id"])
    return McpTool(
        name=tool_name(assistant_id, row["graph_id"], row["name"]),
        title=row["name"],
        description=row["description"] or None,
        input_schema=input_schema,
        annotations={"title": row["name"]},
    )


# --- names --------------------------------------------------------------------------------------------


def tool_name(assistant_id: UUID, graph_id: str, name: str) -> str:
    """The assistant's name as a tool: the graph's own for its default one, else words of the name and the id.

    So it is no other's and stays the same whatever else there is.
    """
    if assistant_id == default_assistant_id(graph_id) and PLAIN.fullmatch(graph_id):
        return graph_id
    words = re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")[:MOST_WORDS].rstrip("_")
    return f"{words or 'assistant'}_{_code(assistant_id)}"


def assistant_named(tool: str, graphs: Collection[str]) -> str | None:
    """The assistant of such a name, as an id or a graph; None when it can't be the name of one.

    An assistant that was renamed is known by its former names too.
    """
    if tool in graphs and PLAIN.fullmatch(tool):
        return tool
    found = CODED.fullmatch(tool)
    if found is None:
        return None
    assistant_id = UUID(bytes=b32decode(found[1].upper() + "======"))
    return str(assistant_id) if _code(assistant_id) == found[1] else None


def _code(assistant_id: UUID) -> str:
    return b32encode(assistant_id.bytes).decode().rstrip("=").lower()


# --- schemas ------------------------------------------------------------------------------------------


def tool_schema(schema: Any) -> Json | None:
    """A graph's input schema as a tool has it: an object, in few words; None when no object goes in."""
    if not isinstance(schema, dict):
        return None
    defined = schema.get("$defs", {})
    root = {**defined.get(_name_of(schema), {}), **schema}
    simple: Json = _simple({name: part for name, part in root.items() if name not in ("$defs", "$ref")})
    if simple.get("type", "object") != "object":
        return None
    needed = _reached(simple, defined)
    return {"type": "object", **simple, **({"$defs": needed} if needed else {})}


def _simple(schema: Any) -> Any:
    """The schema without titles, and with messages as clients write them."""
    if isinstance(schema, list):
        return [_simple(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if _is_message(schema):
        return MESSAGE
    simple = {}
    for keyword, value in schema.items():
        if keyword in OF_SCHEMAS and isinstance(value, dict):
            simple[keyword] = {name: _simple(part) for name, part in value.items()}
        elif keyword in NOT_SCHEMAS:
            simple[keyword] = value
        elif keyword != "title":
            simple[keyword] = _simple(value)
    return simple


def _is_message(schema: Json) -> bool:
    """Whether it stands for any message: LangChain's base class, or all of the others."""
    if _name_of(schema) == "BaseMessage":
        return True
    kinds = schema.get("oneOf") or schema.get("anyOf") or []
    names = [_name_of(kind) for kind in kinds if isinstance(kind, dict)]
    return (
        len(names) == len(kinds) > 1 and "HumanMessage" in names and all("Message" in name for name in names)
    )


def _name_of(schema: Json) -> str:
    """The name of the definition that the schema refers to, '' when it does not."""
    reference = schema.get("$ref")
    return reference.removeprefix(DEFINED) if isinstance(reference, str) else ""


def _reached(simple: Json, defined: Json) -> Json:
    """The definitions that the schema needs, simple too."""
    found: Json = {}
    coming = [*_names_in(simple)]
    while coming:
        name = coming.pop()
        if name in defined and name not in found:
            found[name] = _simple(defined[name])
            coming += _names_in(found[name])
    return found


def _names_in(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from _names_in(part)
    elif isinstance(value, dict):
        if name := _name_of(value):
            yield name
        for part in value.values():
            yield from _names_in(part)


# --- results ------------------------------------------------------------------------------------------


def succeeded(values: Any, *, is_paused: bool) -> McpToolResult:
    """What a call came to: the final values as JSON, and as an object."""
    told = msgspec.json.encode(values)
    content = [McpText(told.decode())]
    if is_paused:
        content.append(McpText(PAUSED))
    shown = told if told.startswith(b"{") else b'{"result":' + told + b"}"
    return McpToolResult(content=content, structured_content=msgspec.Raw(shown))


def failed(why: str) -> McpToolResult:
    """That a call came to nothing, for the model to read."""
    return McpToolResult(content=[McpText(why)], is_error=True)
