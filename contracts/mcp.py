"""The Model Context Protocol as `/mcp` speaks it: messages of JSON-RPC 2.0, tools, and what calling one came to."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from contracts.api import Json

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Revisions of the protocol whose requests mean the same here, newest first."""
WITH_BATCHES = frozenset({"2025-03-26"})
"""The one in which a body may be several messages. It is what a client speaks that names none in its header."""
UNNAMED_VERSION = "2025-03-26"
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = (
    -32700,
    -32600,
    -32601,
    -32602,
    -32603,
)
UNSUPPORTED_VERSION = -32022
"""Of the protocol; its data are `{supported, requested}`. Clients of later revisions then fall back to these."""
RpcId = str | Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)]


class RpcMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A request (a method and an id), a notification (a method), or the response to one that was never sent."""

    jsonrpc: Literal["2.0"]
    id: RpcId | None | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Json | None = None
    result: Any = UNSET
    error: Any = UNSET


class McpInitialize(msgspec.Struct, frozen=True, rename="camel"):
    """Params of `initialize`; what the client can do changes nothing here."""

    protocol_version: str


class McpToolsList(msgspec.Struct, frozen=True):
    """Params of `tools/list`."""

    cursor: str | None = None


class McpToolsCall(msgspec.Struct, frozen=True):
    """Params of `tools/call`: the input of the graph and, beyond the protocol, its context."""

    name: str
    arguments: Json | None = None
    context: Json | None = None


class RpcResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a request came to."""

    jsonrpc: Literal["2.0"] = "2.0"
    id: RpcId
    result: Any


class RpcError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request came to nothing."""

    code: int
    message: str
    data: Any = None


class RpcFailure(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that came to nothing; without an id when it is not known which."""

    jsonrpc: Literal["2.0"] = "2.0"
    id: RpcId | None
    error: RpcError


RpcAnswer = RpcResult | RpcFailure


class McpTool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An assistant as a tool. Its name is of letters, digits, `_` and `-`, at most 64 of them."""

    name: str
    title: str
    description: str | None = None
    input_schema: Json
    annotations: Json


class McpTools(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Result of `tools/list`: a page, which may be empty and not the last."""

    tools: list[McpTool]
    next_cursor: str | UnsetType = UNSET


class McpText(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A piece of what a tool says."""

    text: str


class McpToolResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Result of `tools/call`."""

    content: list[McpText]
    structured_content: msgspec.Raw | UnsetType = UNSET  # the final values as an object; of success only
    is_error: bool = False
