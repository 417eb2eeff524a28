"""Runs, on a thread and on their own: ask for one or many, list, read, wait for, watch, stop, delete."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, Response
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from contracts.answers.runs import RunAnswer, RunStatusShown
from contracts.api import RunCreate, RunsCancel, StatelessRunCreate
from domain.errors import InvalidField, NotSupported, Refused, RunNotFound
from services.gateway.commands import runs as commands
from services.gateway.commands.runs import Action, new_address
from services.gateway.envelope import Caller, uuid_of
from services.gateway.handlers import By, Limit, Offset, Parts, deletes, many, posts, reads
from services.gateway.parts import GatewayParts
from services.gateway.queries import runs as queries
from services.gateway.queries.runs import RunAddress, RunFilter, address_of
from services.gateway.streams import answer, frames
from services.gateway.streams.channel import BEGINNING
from services.gateway.streams.cursor import Cursor
from services.gateway.streams.frames import EventChoice

REQUESTED = "cancelled by request"
MOST_REASON = 1000
MOST_RUNS = 1000
"""In one batch: they are one transaction."""
AT_ONCE = 16
EVENTS = {
    200: ResponseSpec(
        str, media_type=frames.MEDIA_TYPE, generate_examples=False, description="Server-sent events."
    )
}
Status = Annotated[RunStatusShown | None, Parameter(description="only runs of this status")]
Select = Annotated[list[str] | None, Parameter(description="keys of the objects, may be repeated")]
OfCron = Annotated[str | None, Parameter(query="cron_id", description="only runs of this cron")]
Behind = Annotated[
    str | None, Parameter(description="go on behind this place: the X-Pagination-Next of a page before")
]
Leaving = Annotated[bool, Parameter(description="whether the run is stopped when the client goes away")]
Modes = Annotated[
    list[str] | None,
    Parameter(description="only events of these modes: repeated, a JSON array, or with commas"),
]
Namespaces = Annotated[list[str] | None, Parameter(query="namespace", description="not supported")]
LastEvent = Annotated[
    str | None,
    Parameter(header="last-event-id", description="go on behind this event; -1, 0 or -: from the first"),
]
Wait = Annotated[bool, Parameter(description="whether to answer when it has stopped")]
HowStopped = Annotated[str, Parameter(description="`interrupt`, or `rollback`: undo it too")]
Reason = Annotated[str, Parameter(description="why, for the run and the ledger")]


class ThreadRunController(Controller):
    """Runs of a thread."""

    path = "/threads/{thread_id:str}/runs"
    tags = ["runs"]

    @posts(summary="Start a run")
    async def create_run(
        self, parts: Parts, caller: By, thread_id: UUID, data: RunCreate
    ) -> Response[RunAnswer]:
        """In the background; it takes its place on the thread by its multitask strategy."""
        return await _created(parts, caller, data, thread_id)

    @posts("/stream", summary="Start a run and stream its events", responses=EVENTS)
    async def create_run_and_stream(
        self, parts: Parts, caller: By, thread_id: UUID, data: RunCreate, namespaces: Namespaces = None
    ) -> Response[bytes]:
        """Server-sent events until it has ended."""
        return await _streamed(parts, caller, data, thread_id, namespaces)

    @posts("/wait", summary="Start a run and wait for its final values")
    async def create_run_and_wait(
        self, parts: Parts, caller: By, thread_id: UUID, data: RunCreate
    ) -> Response[Any]:
        """Line feeds keep the connection alive until the values come."""
        return await _waited(parts, caller, data, thread_id)

    @reads(summary="The runs of a thread")
    async def list_runs(
        self,
        parts: Parts,
        thread_id: UUID,
        limit: Limit = 10,
        offset: Offset = 0,
        status: Status = None,
        select: Select = None,
    ) -> Response[list[RunAnswer]]:
        """Newest first."""
        found = await parts.read(
            lambda: queries.of_thread(parts, thread_id, status, select or (), limit, offset)
        )
        return await many(parts, found)

    @reads("/{run_id:str}", summary="Get a run of a thread")
    async def get_run(self, parts: Parts, thread_id: UUID, run_id: UUID) -> RunAnswer:
        """The run with what it was asked to do and what it came to."""
        return await parts.read(lambda: queries.shown(parts, run_id, thread_id))

    @reads("/{run_id:str}/join", summary="Wait until a run of a thread has ended")
    async def join_run(
        self,
        parts: Parts,
        caller: By,
        thread_id: UUID,
        run_id: UUID,
        cancel_on_disconnect: Leaving = False,
    ) -> Response[Any]:
        """Its final values."""
        return await _joined(parts, caller, run_id, thread_id, cancels=cancel_on_disconnect)

    @reads("/{run_id:str}/stream", summary="Stream the events of a run of a thread", responses=EVENTS)
    async def stream_run(
        self,
        parts: Parts,
        caller: By,
        thread_id: UUID,
        run_id: UUID,
        stream_mode: Modes = None,
        cancel_on_disconnect: Leaving = False,
        namespaces: Namespaces = None,
        last_event_id: LastEvent = None,
    ) -> Response[bytes]:
        """From now on, or behind the event that the client saw last."""
        _check_namespaces(namespaces)
        choice, cancels = frames.modes_of(stream_mode or ()), cancel_on_disconnect
        return await _watched(parts, caller, run_id, thread_id, choice, last_event_id, cancels=cancels)

    @posts("/{run_id:str}/cancel", summary="Stop a run")
    async def cancel_run(
        self,
        parts: Parts,
        caller: By,
        thread_id: UUID,
        run_id: UUID,
        wait: Wait = False,
        action: HowStopped = "interrupt",
        reason: Reason = REQUESTED,
    ) -> Response[RunAnswer]:
        """The run; with `wait` when it has stopped, and line feeds until then."""
        address, why = RunAddress(run_id, thread_id), _reason(reason)
        before = await parts.read(lambda: queries.visible(parts, run_id, thread_id))
        await commands.cancel(parts, caller, address, _action(action), why)
        if wait:
            return answer.stopped(parts, caller, address, before)
        return Response(await parts.read(lambda: queries.stopped(parts, before)))

    @deletes("/{run_id:str}", summary="Delete a run")
    async def delete_run(self, parts: Parts, caller: By, thread_id: UUID, run_id: UUID) -> None:
        """One in flight is stopped first."""
        row = await parts.read(lambda: queries.visible(parts, run_id, thread_id))
        await commands.delete(parts, caller, address_of(row))


class RunController(Controller):
    """Runs with a thread of their own, and runs wherever they are."""

    path = "/runs"
    tags = ["runs"]

    @posts(summary="Start a run with a thread of its own")
    async def create_stateless_run(
        self, parts: Parts, caller: By, data: StatelessRunCreate
    ) -> Response[RunAnswer]:
        """In the background; the thread goes with the run unless it is to be kept."""
        return await _created(parts, caller, data, None)

    @reads(summary="Runs of all threads")
    async def list_all_runs(
        self,
        parts: Parts,
        status: Status = None,
        cron: OfCron = None,
        limit: Limit = 10,
        cursor: Behind = None,
        select: Select = None,
    ) -> Response[list[RunAnswer]]:
        """Newest first. `X-Pagination-Next` is the cursor of the next page, absent on the last one."""
        wanted = RunFilter(status, None if cron is None else uuid_of("cron_id", cron))
        found, headers = await parts.read(lambda: queries.of_all(parts, wanted, select or (), limit, cursor))
        return await many(parts, found, headers)

    @posts("/stream", summary="Start a run with a thread of its own and stream its events", responses=EVENTS)
    async def create_stateless_run_and_stream(
        self, parts: Parts, caller: By, data: StatelessRunCreate, namespaces: Namespaces = None
    ) -> Response[bytes]:
        """Server-sent events until it has ended."""
        return await _streamed(parts, caller, data, None, namespaces)

    @posts("/wait", summary="Start a run with a thread of its own and wait for its final values")
    async def create_stateless_run_and_wait(
        self, parts: Parts, caller: By, data: StatelessRunCreate
    ) -> Response[Any]:
        """Line feeds keep the connection alive until the values come."""
        return await _waited(parts, caller, data, None)

    @posts("/batch", summary="Start several such runs")
    async def create_batch(self, parts: Parts, caller: By, data: list[StatelessRunCreate]) -> list[RunAnswer]:
        """All of them, or none."""
        if not 1 <= len(data) <= MOST_RUNS:
            raise InvalidField(f"body: must have 1 to {MOST_RUNS} runs")
        for number, body in enumerate(data):
            await _check_numbered(parts, number, body)
        asked = [(new_address(None), body) for body in data]
        await commands.request_all(parts, caller, asked)
        found = await parts.read(lambda: [queries.first_shown(parts, at.run_id) for at, _ in asked])
        return [run for run in found if run is not None]

    @posts("/cancel", summary="Stop runs", status_code=204)
    async def cancel_runs(
        self,
        parts: Parts,
        caller: By,
        data: RunsCancel,
        action: HowStopped = "interrupt",
        reason: Reason = REQUESTED,
    ) -> None:
        """All of a status, or some of a thread."""
        why, how = _reason(reason), _action(action)
        found = await _chosen(parts, data)
        places = asyncio.Semaphore(AT_ONCE)

        async def stopped(address: RunAddress) -> bool:
            async with places:
                return await _stopped(parts, caller, address, how, why)

        if not any(await asyncio.gather(*(stopped(address) for address in found))):
            raise RunNotFound("No runs found to cancel")

    @reads("/{run_id:str}", summary="Get a run")
    async def get_run_by_id(self, parts: Parts, run_id: UUID) -> RunAnswer:
        """Whichever thread it is on."""
        return await parts.read(lambda: queries.shown(parts, run_id))

    @reads("/{run_id:str}/join", summary="Wait until a run has ended")
    async def join_run_by_id(
        self, parts: Parts, caller: By, run_id: UUID, cancel_on_disconnect: Leaving = False
    ) -> Response[Any]:
        """Its final values."""
        return await _joined(parts, caller, run_id, None, cancels=cancel_on_disconnect)

    @reads("/{run_id:str}/stream", summary="Stream the events of a run", responses=EVENTS)
    async def stream_run_by_id(
        self,
        parts: Parts,
        caller: By,
        run_id: UUID,
        stream_mode: Modes = None,
        cancel_on_disconnect: Leaving = False,
        namespaces: Namespaces = None,
        last_event_id: LastEvent = None,
    ) -> Response[bytes]:
        """From now on, or behind the event that the client saw last."""
        _check_namespaces(namespaces)
        choice, cancels = frames.modes_of(stream_mode or ()), cancel_on_disconnect
        return await _watched(parts, caller, run_id, None, choice, last_event_id, cancels=cancels)


# --- ask for one --------------------------------------------------------------------------------------


async def _created(
    parts: GatewayParts, caller: Caller, body: RunCreate, thread_id: UUID | None
) -> Response[RunAnswer]:
    await commands.check(parts, body)
    address = new_address(thread_id)
    await commands.request(parts, caller, body, address)
    shown = await parts.read(lambda: queries.first_shown(parts, address.run_id))
    assert shown is not None
    return Response(shown, headers={"Content-Location": address.path})


async def _streamed(
    parts: GatewayParts,
    caller: Caller,
    body: RunCreate,
    thread_id: UUID | None,
    namespaces: Sequence[str] | None,
) -> Response[bytes]:
    _check_namespaces(namespaces)
    await commands.check(parts, body)
    address = new_address(thread_id)
    # Before it can begin, so that nothing has to be looked for.
    cursor = await Cursor.open(parts.live, address.run_id, BEGINNING, is_new=True)
    try:
        await commands.request(parts, caller, body, address)
    except BaseException:
        cursor.close()
        raise
    choice, cancels = EventChoice(with_ids=bool(body.stream_resumable)), body.on_disconnect == "cancel"
    return answer.streamed(parts, caller, address, cursor, choice, cancels=cancels)


async def _waited(
    parts: GatewayParts, caller: Caller, body: RunCreate, thread_id: UUID | None
) -> Response[Any]:
    await commands.check(parts, body)
    address = new_address(thread_id)
    await commands.request(parts, caller, body, address)
    return answer.waited(parts, caller, address, cancels=body.on_disconnect == "cancel")


async def _check_numbered(parts: GatewayParts, number: int, body: StatelessRunCreate) -> None:
    """Check it, and say of which of the runs it is that something is wrong."""
    try:
        await commands.check(parts, body)
    except Refused as exc:
        raise type(exc)(f"[{number}].{exc}") from None


# --- follow one ---------------------------------------------------------------------------------------


async def _joined(
    parts: GatewayParts, caller: Caller, run_id: UUID, thread_id: UUID | None, *, cancels: bool
) -> Response[Any]:
    row = await parts.read(lambda: queries.visible(parts, run_id, thread_id))
    return answer.waited(parts, caller, address_of(row), cancels=cancels)


async def _watched(
    parts: GatewayParts,
    caller: Caller,
    run_id: UUID,
    thread_id: UUID | None,
    modes: Sequence[str],
    last_event_id: str | None,
    *,
    cancels: bool,
) -> Response[bytes]:
    since = frames.mark_of(last_event_id)
    row, is_resumable = await parts.read(lambda: queries.to_watch(parts, run_id, thread_id))
    address = address_of(row)
    outcome = await parts.live.outcome_of(run_id) if row["phase"] == "ended" else None
    if not is_resumable:
        since = None  # its events have no ids, so nothing tells where to go on
    if since is None and outcome is not None:
        return answer.ended(address, outcome)
    cursor = await Cursor.open(parts.live, address.run_id, since)
    choice = EventChoice(modes, with_ids=is_resumable)
    return answer.streamed(parts, caller, address, cursor, choice, cancels=cancels)


def _check_namespaces(namespaces: Sequence[str] | None) -> None:
    if namespaces:
        raise NotSupported("namespace: not supported; events of graphs inside come with `stream_subgraphs`")


# --- stop some ----------------------------------------------------------------------------------------


def _reason(text: str) -> str:
    if len(text) > MOST_REASON:
        raise InvalidField(f"reason: at most {MOST_REASON} characters are allowed")
    return text


def _action(text: str) -> Action:
    """Anything unknown means interrupt, as clients expect."""
    return "rollback" if text == "rollback" else "interrupt"


async def _stopped(
    parts: GatewayParts, caller: Caller, address: RunAddress, action: Action, reason: str
) -> bool:
    try:
        await commands.cancel(parts, caller, address, action, reason)
    except RunNotFound:
        return False  # it has ended meanwhile
    return True


async def _chosen(parts: GatewayParts, body: RunsCancel) -> list[RunAddress]:
    status = body.status
    if status is not None:
        if body.thread_id is not None or body.run_ids is not None:
            raise InvalidField("status: may not be given together with thread_id or run_ids")
        return await parts.read(lambda: queries.active(parts, status))
    if body.thread_id is None or not body.run_ids:
        raise InvalidField("run_ids: needed with thread_id, unless a status is given")
    thread_id = uuid_of("thread_id", body.thread_id)
    return [RunAddress(uuid_of("run_ids", text), thread_id) for text in dict.fromkeys(body.run_ids)]
