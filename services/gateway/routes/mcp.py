"""/mcp: assistants as tools of the Model Context Protocol, by its Streamable HTTP transport without sessions."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Controller, Request, Response, delete
from litestar.exceptions import NotFoundException, PermissionDeniedException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, Reference, RequestBody

from contracts.answers.system import Problem
from contracts.mcp import INVALID_REQUEST, RpcAnswer, RpcFailure, RpcMessage, RpcResult
from services.gateway import rpc
from services.gateway.commands.endings import stop_run
from services.gateway.envelope import UNWELCOME, Caller, is_welcome
from services.gateway.handlers import JSON, By, Parts, encoded, nothing, posts
from services.gateway.parts import GatewayParts
from services.gateway.queries import tools
from services.gateway.rpc import RpcCall, RpcRefused
from services.gateway.streams.answer import GONE, Pieces, until_ended

VERSION = "mcp-protocol-version"
TAKEN = ("application/json", "text/event-stream")
"""Answers are JSON. Clients must take both, and some name only the second."""
RESPONSES = {
    202: ResponseSpec(None, description="Nothing in it wanted an answer."),
    400: ResponseSpec(RpcFailure, description="It is no message, or none of a version that is spoken here."),
    403: ResponseSpec(Problem, description="The page may not call the server."),
}


@dataclass
class McpOperation(Operation):
    """Describes the body, which the framework does not decode: what is wrong with it is told by JSON-RPC."""

    def __post_init__(self) -> None:
        message = Reference(f"#/components/schemas/{RpcMessage.__name__}")
        self.request_body = RequestBody({JSON: OpenAPIMediaType(message)}, required=True)


class McpController(Controller):
    """Assistants as tools."""

    path = "/mcp"
    tags = ["mcp"]

    @posts(
        summary="Send a message of the Model Context Protocol",
        responses=RESPONSES,
        operation_class=McpOperation,
    )
    async def send_message(
        self, request: Request[Any, Any, Any], parts: Parts, caller: By
    ) -> Response[RpcAnswer | list[RpcAnswer]]:
        """Assistants are tools; a call is a run with a thread of its own that is waited for."""
        if bytes(request.scope.get("raw_path", b"")).partition(b"?")[0].endswith(b"/"):
            return nothing(307, {"Location": "../mcp"})
        if not is_welcome(request):  # its browser would only keep the answer from it
            raise PermissionDeniedException(UNWELCOME)
        try:
            _check_accept(request)
            body = rpc.body_of(await request.body(), request.headers.get(VERSION))
        except RpcRefused as exc:
            return Response(exc.failure, status_code=400, media_type=JSON)
        answers = [await rpc.answer(parts, caller, message) for message in body.requests]
        if not answers:
            return nothing(202)
        if any(isinstance(answer, RpcCall) for answer in answers):
            return _called(parts, caller, answers, is_batch=body.is_batch)
        return encoded(msgspec.json.encode(answers if body.is_batch else answers[0]))

    @delete(summary="There are no sessions", status_code=404, include_in_schema=False)
    async def end_session(self) -> None:
        """So none can be ended."""
        raise NotFoundException


def _check_accept(request: Request[Any, Any, Any]) -> None:
    if not any(request.accept.accepts(kind) for kind in TAKEN):
        raise RpcRefused(INVALID_REQUEST, f"Accept: must have {' or '.join(TAKEN)}")


def _called(
    parts: GatewayParts, caller: Caller, answers: Sequence[RpcAnswer | RpcCall], *, is_batch: bool
) -> Response[Any]:
    """The answers when the runs that were begun have ended; those are stopped when the client leaves."""
    calls = [answer for answer in answers if isinstance(answer, RpcCall)]

    async def pieces() -> AsyncIterator[bytes]:
        told = list[RpcAnswer]()
        for answer in answers:
            if isinstance(answer, RpcCall):
                async for piece in until_ended(parts, answer.run.run_id):
                    yield piece
                answer = await _result(parts, answer)
            told.append(answer)
        yield msgspec.json.encode(told if is_batch else told[0])

    def over(has_left: bool) -> None:
        for call in calls if has_left else ():
            parts.background.spawn(stop_run(parts, caller, call.run.thread_id, call.run.run_id, GONE))

    return Pieces(pieces(), over, headers={}, media_type=JSON)


async def _result(parts: GatewayParts, call: RpcCall) -> RpcResult:
    return RpcResult(id=call.id, result=await parts.read(lambda: tools.outcome(parts, call.run.run_id)))
