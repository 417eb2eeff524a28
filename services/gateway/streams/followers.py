"""Answers that follow a run: its stream, its values, its stop; and what becomes of it when the client leaves."""

from collections.abc import AsyncIterator

from services.gateway.commands.acting import Asks
from services.gateway.commands.endings import stop_run
from services.gateway.commands.runs import Asked
from services.gateway.http import Answer
from services.gateway.parts import GatewayParts
from services.gateway.streams import frames, joins
from services.gateway.streams.channels import Listener
from services.gateway.streams.frames import Mark, Wanted
from services.gateway.streams.run_stream import RunStream

GONE = "the client went away"


def streamed(
    parts: GatewayParts,
    call: Asks,
    asked: Asked,
    listener: Listener,
    wanted: Wanted,
    *,
    since: Mark | None = None,
    whole: bool = False,
    cancels: bool = False,
) -> Answer:
    """The run's events as they come."""
    stream = RunStream(parts, listener, wanted, since=since, whole=whole)

    def over(has_left: bool) -> None:
        stream.close()
        _left(parts, call, asked, cancels=cancels and has_left)

    headers = {**frames.HEADERS, "Location": asked.path + "/stream", "Content-Location": asked.path}
    return Answer(200, headers=headers, media_type=frames.MEDIA_TYPE, pieces=stream.pieces(), over=over)


def waited(parts: GatewayParts, call: Asks, asked: Asked, *, cancels: bool = False) -> Answer:
    """What the run comes to, when it has."""
    return _document(parts, call, asked, joins.values(parts, asked.run_id), cancels=cancels)


def stopped(parts: GatewayParts, call: Asks, asked: Asked) -> Answer:
    """An empty object, when the run has stopped."""
    return _document(parts, call, asked, joins.stopped(parts, asked.run_id), cancels=False)


def _document(
    parts: GatewayParts, call: Asks, asked: Asked, pieces: AsyncIterator[bytes], *, cancels: bool
) -> Answer:
    headers = {"Location": asked.path + "/join", "Content-Location": asked.path}

    def over(has_left: bool) -> None:
        _left(parts, call, asked, cancels=cancels and has_left)

    return Answer(200, headers=headers, pieces=pieces, over=over)


def _left(parts: GatewayParts, call: Asks, asked: Asked, *, cancels: bool) -> None:
    if cancels:
        parts.background.spawn(stop_run(parts, call, asked.thread_id, asked.run_id, GONE))
