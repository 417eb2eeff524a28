"""Answers that come in pieces: streams of a run, its values when it has ended; and what becomes of it when clients leave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from contracts.answers.runs import RunAnswer
from services.gateway.answers import runs as answers
from services.gateway.answers.values import Row, maybe_json
from services.gateway.commands.endings import stop_run
from services.gateway.envelope import Caller
from services.gateway.handlers import JSON
from services.gateway.parts import GatewayParts
from services.gateway.queries import runs
from services.gateway.queries.results import result
from services.gateway.queries.runs import RunAddress
from services.gateway.queries.search import by_id
from services.gateway.streams import frames
from services.gateway.streams.channel import Mark
from services.gateway.streams.cursor import Cursor, Ended, Events, Gap
from services.gateway.streams.frames import EventChoice
from services.gateway.streams.outcomes import Outcome
from services.gateway.streams.protocol import ChannelChoice, Shape
from services.gateway.streams.tape import Tape, TapeStep
from services.kit.logs import Log

Over = Callable[[bool], None]
GONE = "the client went away"
log_ = Log("gateway")
HEARTBEAT_S = KEEP_ALIVE_S = 5.0
AGAIN_S = 0.5
SENT_BYTES = 64 << 10
"""Handed to the server at a time: it holds no more for a client that does not read."""
TAKEN_S = 60.0
"""A client that has not taken so many bytes in that time is cut off, and comes back where it was."""


class CutOff(Exception):
    """The pieces end here, and are not all: the connection is cut, so that the client comes back."""


class Pieces(Response[bytes]):
    """The framework's form of it. `over` is called once, with whether the client left before the end."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        over: Over,
        *,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        super().__init__(b"", headers=dict(headers), media_type=media_type)
        self._pieces, self._over = pieces, over

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        return _Sending(
            self._pieces,
            self._over,
            status_code=self.status_code or 200,
            headers=self.headers,
            media_type=self.media_type,
        )


class _Sending(ASGIResponse):
    """Sends the pieces as they come, and watches the client meanwhile."""

    _should_set_content_length = False

    def __init__(self, pieces: AsyncIterator[bytes], over: Over, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pieces, self._over = pieces, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_left = False
        try:
            await self.start_response(send)
            if scope.get("method") == "HEAD":
                await _send(send, b"", more=False)
            else:
                has_left = await self._send_while_there(receive, send)
        finally:
            self._over(has_left)

    async def _send_while_there(self, receive: Receive, send: Send) -> bool:
        """Send everything; True when the client went away before. Raises what the pieces raise."""
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            has_left = not sending.done()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if not has_left:
            sending.result()
        return has_left

    async def _send_all(self, send: Send) -> None:
        try:
            await self._send_pieces(send)
        except CutOff:
            pass  # a stream that ends in good order would be taken for a whole one
        except TimeoutError:
            log_.warning(
                "gateway.client_cut_off", why=f"it took less than {SENT_BYTES} bytes in {TAKEN_S:g} s"
            )

    async def _send_pieces(self, send: Send) -> None:
        async for piece in self._pieces:
            for start in range(0, len(piece), SENT_BYTES):
                async with asyncio.timeout(TAKEN_S):
                    await _send(send, piece[start : start + SENT_BYTES], more=True)
        await _send(send, b"", more=False)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


# --- of a run -----------------------------------------------------------------------------------------


def streamed(
    parts: GatewayParts,
    caller: Caller,
    address: RunAddress,
    cursor: Cursor,
    choice: EventChoice,
    *,
    cancels: bool,
) -> Response[bytes]:
    """The run's events as they come."""

    def over(has_left: bool) -> None:
        cursor.close()
        _left(parts, caller, address, cancels=cancels and has_left)

    pieces = _events(parts, cursor, choice)
    return Pieces(pieces, over, headers=_headers(address, "stream"), media_type=frames.MEDIA_TYPE)


def ended(address: RunAddress, outcome: Outcome) -> Response[bytes]:
    """The stream of a run that is over, for a client that wants only what comes from now on."""
    headers = _headers(address, "stream")
    return Response(frames.of_end(outcome), headers=headers, media_type=frames.MEDIA_TYPE)


async def _events(parts: GatewayParts, cursor: Cursor, choice: EventChoice) -> AsyncIterator[bytes]:
    """One or more frames at a time, heartbeats between; it ends with the run."""
    while not cursor.is_cut_off:
        steps = await cursor.next(HEARTBEAT_S)
        if not steps and not cursor.is_cut_off:
            yield frames.HEARTBEAT
        for step in steps:
            match step:
                case Events():
                    yield frames.of_events(step, choice)
                case Gap():
                    yield frames.of_gap(step, choice)
                    if step.before is None:
                        yield await parts.read(lambda: _milestones(parts, cursor.run_id, choice))
                case Ended():
                    yield frames.of_end(step.outcome)
                    return


def _milestones(parts: GatewayParts, run_id: UUID, choice: EventChoice) -> bytes:
    """What can still be told of a run that has ended and whose last events are forgotten."""
    row = by_id(parts.views, "runs", "run_id", run_id)
    if row is None:
        return b""
    told = frames.frame("metadata", {"run_id": run_id, "attempt": row["attempt"]})
    modes = answers.kwargs_of(row, parts.log.blob).stream_mode
    if "values" in modes and choice.has("values") and row["output"] is not None:
        told += frames.frame("values", answers.values_of(row, parts.log.blob))
    return told


# --- of a thread --------------------------------------------------------------------------------------


def protocol(tape: Tape, choice: ChannelChoice, since: int) -> Response[bytes]:
    """The events of a thread behind a number, by the event streaming protocol."""
    shape = Shape()

    async def shown(step: TapeStep) -> bytes:
        return b"".join(e.frame for e in shape.of(step) if e.seq > since and choice.has(e))

    return _taped(tape, shown)


def thread(parts: GatewayParts, tape: Tape, modes: frozenset[str], since: Mark | None) -> Response[bytes]:
    """The events of all runs of a thread behind one of them."""
    is_all = "run_modes" in modes
    choice = EventChoice(() if is_all else ("metadata",), with_ids=True)

    async def shown(step: TapeStep) -> bytes:
        run, what = step
        if run.kind == "state":
            is_told = isinstance(what, Ended) and "state_update" in modes
            return await parts.read(lambda: _written(parts, run.run_id)) if is_told else b""
        if not modes - {"state_update"}:
            return b""
        match what:
            case Events():
                new = what if since is None else frames.behind(what, since)
                return b"" if new is None else frames.of_events(new, choice)
            case Gap():
                return frames.of_gap(what, choice) if is_all else b""
            case Ended(outcome=outcome):
                done = frames.frame("metadata", {"status": "run_done", "run_id": run.run_id})
                return frames.of_end(outcome) + done if is_all and outcome.status == "error" else done
        return b""

    return _taped(tape, shown)


def _taped(tape: Tape, shown: Callable[[TapeStep], Awaitable[bytes]]) -> Response[bytes]:
    def over(_: bool) -> None:
        tape.close()

    return Pieces(_of_tape(tape, shown), over, headers=frames.HEADERS, media_type=frames.MEDIA_TYPE)


async def _of_tape(tape: Tape, shown: Callable[[TapeStep], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    """What is shown of a tape, heartbeats between."""
    while not tape.is_cut_off:
        steps = await tape.next(HEARTBEAT_S)
        piece = b"".join([await shown(step) for step in steps])
        if piece or (not steps and not tape.is_cut_off):
            yield piece or frames.HEARTBEAT
    raise CutOff


def _written(parts: GatewayParts, run_id: UUID) -> bytes:
    """That the state of a thread was written from outside, and at which checkpoint."""
    row = by_id(parts.views, "runs", "run_id", run_id)
    point = None if row is None else maybe_json(row["checkpoint"])
    return frames.frame("state_update", {"checkpoint": point})


# --- when it has ended ------------------------------------------------------------------------------------


def waited(parts: GatewayParts, caller: Caller, address: RunAddress, *, cancels: bool) -> Response[Any]:
    """What the run comes to, when it has."""

    def document() -> Any:
        return result(parts, address.run_id)

    return _document(parts, caller, address, document, cancels=cancels)


def stopped(parts: GatewayParts, caller: Caller, address: RunAddress, before: Row) -> Response[RunAnswer]:
    """The run, when it has stopped."""

    def document() -> RunAnswer:
        return runs.stopped(parts, before)

    answer: Response[Any] = _document(parts, caller, address, document, cancels=False)
    return answer


def _document(
    parts: GatewayParts,
    caller: Caller,
    address: RunAddress,
    document: Callable[[], Any],
    *,
    cancels: bool,
) -> Response[Any]:
    def over(has_left: bool) -> None:
        _left(parts, caller, address, cancels=cancels and has_left)

    pieces = _when_ended(parts, address.run_id, document)
    return Pieces(pieces, over, headers=_headers(address, "join"), media_type=JSON)


def _headers(address: RunAddress, follow: str) -> dict[str, str]:
    told = {"Location": f"{address.path}/{follow}", "Content-Location": address.path}
    return told if follow == "join" else frames.HEADERS | told


async def until_ended(parts: GatewayParts, run_id: UUID) -> AsyncIterator[bytes]:
    """A line feed every five seconds, which JSON may begin with, until the run has ended or is gone."""
    while not await parts.ends.wait(run_id, KEEP_ALIVE_S):
        yield b"\n"
    while await parts.live.outcome_of(run_id) is None:
        await parts.changed(AGAIN_S)  # the read models lag behind the request


async def _when_ended(parts: GatewayParts, run_id: UUID, document: Callable[[], Any]) -> AsyncIterator[bytes]:
    """Line feeds until the run has ended, then one JSON document."""
    async for piece in until_ended(parts, run_id):
        yield piece
    yield msgspec.json.encode(await parts.read(document))


def _left(parts: GatewayParts, caller: Caller, address: RunAddress, *, cancels: bool) -> None:
    if cancels:
        parts.background.spawn(stop_run(parts, caller, address.thread_id, address.run_id, GONE))
