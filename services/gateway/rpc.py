"""Messages of the Model Context Protocol: taken out of a body, and each answered, or begun."""

from typing import Any, TypeVar

import msgspec

from contracts import mcp
from contracts.api import StatelessRunCreate
from contracts.mcp import RpcAnswer, RpcError, RpcFailure, RpcId, RpcMessage, RpcResult
from domain.errors import InvalidField, Refused
from services.gateway.answers import tools as answers
from services.gateway.bodies import decoded, readable
from services.gateway.commands import runs as commands
from services.gateway.commands.runs import new_address
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.gateway.queries import tools as queries
from services.gateway.queries.graphs import GraphsUnavailable
from services.gateway.queries.runs import RunAddress
from services.kit.commands import Conflict
from services.kit.eventlog import LogUnavailable

T = TypeVar("T")
MOST_MESSAGES = 100
"""In one batch."""
UNAVAILABLE = (GraphsUnavailable, LogUnavailable, Conflict)
"""It can be tried again; nothing is wrong with the request."""
_json = msgspec.json.Decoder[Any](Any)


class RpcRefused(Exception):
    """A message can't be answered with a result: the code of JSON-RPC, and the id of the message if it has one."""

    def __init__(self, code: int, message: str, rpc_id: RpcId | None = None, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.rpc_id, self.data = code, rpc_id, data

    @property
    def failure(self) -> RpcFailure:
        """As its answer."""
        return RpcFailure(id=self.rpc_id, error=RpcError(code=self.code, message=str(self), data=self.data))


class RpcCall(msgspec.Struct, frozen=True):
    """A tool that was called: the answer comes when the run has ended."""

    id: RpcId
    run: RunAddress


class RpcBody(msgspec.Struct, frozen=True):
    """What a body asks: its requests, without what wants no answer."""

    requests: list[RpcMessage]
    is_batch: bool = False


# --- the body -------------------------------------------------------------------------------------------


def body_of(data: bytes, version: str | None) -> RpcBody:
    """The requests of a body, by what the client says of its version. Raises RpcRefused."""
    try:
        value = decoded(_json, data)
    except InvalidField as exc:
        raise RpcRefused(mcp.PARSE_ERROR, f"Parse error: {str(exc).removeprefix('body: ')}") from None
    if not isinstance(value, list):
        message = _message(value)
        if message.method != "initialize":  # which asks for a version
            _check_version(version, _id_of(value))
        return RpcBody(_requests([message]))
    _check_version(version, None)
    if (version or mcp.UNNAMED_VERSION) not in mcp.WITH_BATCHES:
        raise RpcRefused(mcp.INVALID_REQUEST, f"Batches are not part of version {version}: send one message")
    if not 1 <= len(value) <= MOST_MESSAGES:
        raise RpcRefused(mcp.INVALID_REQUEST, f"A batch has 1 to {MOST_MESSAGES} messages")
    return RpcBody(_requests([_message(one) for one in value]), is_batch=True)


def _check_version(version: str | None, rpc_id: RpcId | None) -> None:
    if version is not None and version not in mcp.VERSIONS:
        known = ", ".join(mcp.VERSIONS)
        raise RpcRefused(
            mcp.UNSUPPORTED_VERSION,
            f"MCP-Protocol-Version: '{version[:32]}' is none of {known}",
            rpc_id,
            {"supported": list(mcp.VERSIONS), "requested": version[:32]},
        )


def _message(value: Any) -> RpcMessage:
    try:
        message = msgspec.convert(value, RpcMessage)
    except msgspec.ValidationError as exc:
        raise RpcRefused(mcp.INVALID_REQUEST, readable(str(exc)), _id_of(value)) from None
    if isinstance(message.method, str):
        if message.id is None:
            raise RpcRefused(mcp.INVALID_REQUEST, "id: must be a string or a whole number")
    elif isinstance(message.id, msgspec.UnsetType) or (message.result is message.error):
        raise RpcRefused(mcp.INVALID_REQUEST, "method: required field is missing", _id_of(value))
    return message


def _requests(messages: list[RpcMessage]) -> list[RpcMessage]:
    """Those that want an answer. What is only told changes nothing here, and nothing is ever asked of a client."""
    return [m for m in messages if isinstance(m.method, str) and not isinstance(m.id, msgspec.UnsetType)]


def _id_of(value: Any) -> RpcId | None:
    try:
        return msgspec.convert(value.get("id"), RpcId) if isinstance(value, dict) else None
    except msgspec.ValidationError:
        return None


# --- a message ------------------------------------------------------------------------------------------


async def answer(parts: GatewayParts, caller: Caller, message: RpcMessage) -> RpcAnswer | RpcCall:
    """What a request comes to, or what it has begun."""
    assert isinstance(message.id, str | int)
    try:
        result = await _result(parts, caller, message)
    except RpcRefused as exc:
        return RpcRefused(exc.code, str(exc), message.id, exc.data).failure
    except UNAVAILABLE as exc:
        return RpcRefused(mcp.INTERNAL_ERROR, str(exc), message.id).failure
    if isinstance(result, RunAddress):
        return RpcCall(message.id, result)
    return RpcResult(id=message.id, result=result)


async def _result(parts: GatewayParts, caller: Caller, message: RpcMessage) -> Any:
    match message.method:
        case "initialize":
            return _initialized(parts, _params(message, mcp.McpInitialize))
        case "ping":
            return {}
        case "tools/list":
            return await _tools(parts, _params(message, mcp.McpToolsList))
        case "tools/call":
            return await _called(parts, caller, _params(message, mcp.McpToolsCall))
        case method:
            raise RpcRefused(mcp.METHOD_NOT_FOUND, f"Method not found: {str(method)[:100]}")


def _params(message: RpcMessage, kind: type[T]) -> T:
    try:
        return msgspec.convert(message.params or {}, kind)
    except msgspec.ValidationError as exc:
        raise RpcRefused(mcp.INVALID_PARAMS, f"params.{readable(str(exc))}") from None


def _initialized(parts: GatewayParts, asked: mcp.McpInitialize) -> dict[str, Any]:
    version = asked.protocol_version
    return {
        "protocolVersion": version if version in mcp.VERSIONS else mcp.VERSIONS[0],
        "capabilities": {"tools": {"listChanged": False}},
        "serverInfo": {"name": "cronledger", "title": "Cronledger", "version": parts.version},
    }


async def _tools(parts: GatewayParts, asked: mcp.McpToolsList) -> mcp.McpTools:
    try:
        return await queries.page(parts, asked.cursor)
    except InvalidField as exc:
        raise RpcRefused(mcp.INVALID_PARAMS, f"params.{exc}") from None


async def _called(
    parts: GatewayParts, caller: Caller, asked: mcp.McpToolsCall
) -> RunAddress | mcp.McpToolResult:
    """The run that was begun; or, for the model to read, why none was."""
    assistant = await queries.called(parts, asked.name)
    if assistant is None:
        raise RpcRefused(mcp.INVALID_PARAMS, f"Unknown tool: {asked.name[:100]}")
    body = StatelessRunCreate(
        assistant_id=str(assistant.assistant_id), input=asked.arguments or {}, context=asked.context
    )
    address = new_address(None)
    try:
        await commands.check(parts, body)
        await commands.request(parts, caller, body, address)
    except Refused as exc:
        return answers.failed(str(exc))
    return address
