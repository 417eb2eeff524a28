"""Answers that follow a run: its stream, its values, its stop; and what becomes of it when the client leaves."""

from collections.abc import AsyncIterator
from typing import Any

from litestar import Response

from contracts.answers.runs import RunAnswer
from services.gateway.answers.values import Row
from services.gateway.commands.endings import stop_run
from services.gateway.envelope import Caller
from services.gateway.handlers import JSON
from services.gateway.parts import GatewayParts
from services.gateway.queries.runs import RunAddress
from services.gateway.streams import frames, joins
from services.gateway.streams.channels import Listener
from services.gateway.streams.frames import EventChoice, Mark
from services.gateway.streams.response import Pieces
from services.gateway.streams.run_stream import RunStream

GONE = "the client went away"


def streamed(
    parts: GatewayParts,
    caller: Caller,
    address: RunAddress,
    listener: Listener,
    choice: EventChoice,
    *,
    since: Mark | None = None,
    whole: bool = False,
    cancels: bool = False,
) -> Response[bytes]:
    """The run's events as they come."""
    stream = RunStream(parts, listener, choice, since=since, whole=whole)

    def over(has_left: bool) -> None:
        stream.close()
        _left(parts, caller, address, cancels=cancels and has_left)

    headers = {**frames.HEADERS, "Location": address.path + "/stream", "Content-Location": address.path}
    return Pieces(stream.pieces(), over, headers=headers, media_type=frames.MEDIA_TYPE)


def waited(
    parts: GatewayParts, caller: Caller, address: RunAddress, *, cancels: bool = False
) -> Response[Any]:
    """What the run comes to, when it has."""
    return _document(parts, caller, address, joins.values(parts, address.run_id), cancels=cancels)


def stopped(parts: GatewayParts, caller: Caller, address: RunAddress, before: Row) -> Response[RunAnswer]:
    """The run, when it has stopped."""
    document: Response[Any] = _document(
        parts, caller, address, joins.stopped(parts, address.run_id, before), cancels=False
    )
    return document


def _document(
    parts: GatewayParts,
    caller: Caller,
    address: RunAddress,
    pieces: AsyncIterator[bytes],
    *,
    cancels: bool,
) -> Response[Any]:
    headers = {"Location": address.path + "/join", "Content-Location": address.path}

    def over(has_left: bool) -> None:
        _left(parts, caller, address, cancels=cancels and has_left)

    return Pieces(pieces, over, headers=headers, media_type=JSON)


def _left(parts: GatewayParts, caller: Caller, address: RunAddress, *, cancels: bool) -> None:
    if cancels:
        parts.background.spawn(stop_run(parts, caller, address.thread_id, address.run_id, GONE))
