"""Commands of the event streaming protocol: a run is started, interrupts are answered."""

from typing import Any, TypeVar
from uuid import UUID

import msgspec

from contracts.answers.protocol import CommandDone, CommandError, CommandRejected
from contracts.api import (
    CommandBody,
    InputRespond,
    InterruptResponse,
    ProtocolCommand,
    RunCreate,
    RunStart,
)
from contracts.subjects import RUNEV, run_events_subject
from contracts.work import LiveBatch
from domain.errors import LaneFull, NotFound, Refused, ThreadBusy
from services.gateway.answers.values import Row
from services.gateway.bodies import readable
from services.gateway.commands import runs
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import SQL
from services.gateway.queries.search import by_id
from services.kit.bus.pages import Pages
from services.kit.ids import parse_uuid

SETTLED_S, LOOK_S = 5.0, 0.25
"""How long an answer waits for the run that asks to have come to its end, in the read models too."""
ASKING = frozenset({"input.requested", "values", "updates"})
T = TypeVar("T")
Answer = CommandDone | CommandRejected
_batch_of = msgspec.json.Decoder(LiveBatch).decode


class CommandRefused(Exception):
    """A command that is not carried out, by its code."""

    def __init__(self, code: CommandError, text: str) -> None:
        super().__init__(text)
        self.code: CommandError = code


async def answer(parts: GatewayParts, caller: Caller, thread: str, command: ProtocolCommand) -> Answer:
    """Carry out a command; whatever is wrong with it is told in the answer. Raises LogUnavailable, Conflict."""
    try:
        thread_id = parse_uuid(thread)
        if thread_id is None:
            raise CommandRefused("invalid_argument", "thread_id: Invalid thread ID: must be a UUID")
        return CommandDone(command.id, await _carried_out(parts, caller, thread_id, command))
    except CommandRefused as exc:
        return CommandRejected(command.id, exc.code, str(exc))
    except (ThreadBusy, LaneFull) as exc:
        return CommandRejected(command.id, "unknown_error", str(exc))
    except Refused as exc:
        # Of what a run names, checkpoints alone have no refusal of their own.
        is_point = type(exc) is NotFound
        code: CommandError = "no_such_checkpoint" if is_point else "invalid_argument"
        return CommandRejected(command.id, code, str(exc))


async def _carried_out(
    parts: GatewayParts, caller: Caller, thread_id: UUID, command: ProtocolCommand
) -> dict[str, Any]:
    params = command.params or {}
    match command.method:
        case "run.start":
            # Clients write it in both ways.
            strategy = (
                {"multitaskStrategy": params["multitask_strategy"]} if "multitask_strategy" in params else {}
            )
            return await _start(parts, caller, thread_id, _read(strategy | params, RunStart))
        case "input.respond":
            return await _respond(parts, caller, thread_id, _read(params, InputRespond))
        case "agent.getTree":
            raise CommandRefused("no_such_run", "agent.getTree: no run keeps its tree here")
        case method if method.startswith("subscription."):
            raise CommandRefused("not_supported", f"{method}: subscriptions belong to a WebSocket")
        case method:
            raise CommandRefused("unknown_command", f"Unknown command: {method[:100]}")


async def _start(parts: GatewayParts, caller: Caller, thread_id: UUID, given: RunStart) -> dict[str, Any]:
    point = ((given.config or {}).get("configurable") or {}).get("checkpoint_id")
    if point is not None and (not isinstance(point, str) or parse_uuid(point) is None):
        raise CommandRefused("invalid_argument", "config.configurable.checkpoint_id: must be a UUID")
    row = await _settled(parts, thread_id) if given.input is not None else None
    resumes = row is not None and bool(_asked(row)) and given.multitask_strategy in (None, "enqueue")
    body = RunCreate(
        assistant_id=given.assistant_id,
        input=None if resumes else given.input,
        command=CommandBody(resume=given.input) if resumes else None,
        config=given.config,
        metadata=given.metadata,
        context=given.context,
        multitask_strategy=given.multitask_strategy,
        interrupt_before=given.interrupt_before,
        interrupt_after=given.interrupt_after,
    )
    return {"run_id": await _requested(parts, caller, thread_id, body)}


async def _respond(
    parts: GatewayParts, caller: Caller, thread_id: UUID, given: InputRespond
) -> dict[str, Any]:
    responses = given.responses
    if responses is None and given.interrupt_id is not None:
        responses = [InterruptResponse(interrupt_id=given.interrupt_id, response=given.response)]
    if not responses:
        raise CommandRefused("invalid_argument", "interrupt_id: must be given, or responses")
    # One at a time, lest an interrupt is answered twice.
    async with parts.locks.hold(("respond", thread_id)):
        row = await _settled(parts, thread_id)
        if row is None or row["assistant_id"] is None:
            raise CommandRefused("no_such_run", "The thread has no run that could be answered")
        asked = _asked(row) if row["status"] != "busy" else frozenset()
        for one in responses:
            if one.interrupt_id not in asked:
                raise CommandRefused(
                    "no_such_interrupt",
                    f"interrupt_id: '{one.interrupt_id[:100]}' is unknown, or answered already",
                )
        resume = {one.interrupt_id: one.response for one in responses}
        body = RunCreate(
            assistant_id=str(UUID(bytes=row["assistant_id"])),
            command=CommandBody(resume=resume, update=given.update, goto=given.goto),
            config=given.config,
            metadata=given.metadata,
        )
        return {"run_id": await _requested(parts, caller, thread_id, body)}


async def _requested(parts: GatewayParts, caller: Caller, thread_id: UUID, body: RunCreate) -> str:
    """Ask for a run that streams by the protocol; its id."""
    streaming = msgspec.structs.replace(
        body,
        event_streaming=True,
        stream_subgraphs=True,
        stream_resumable=True,
        if_not_exists="create",
    )
    await runs.check(parts, streaming)
    address = runs.new_address(thread_id)
    await runs.request(parts, caller, streaming, address)
    return str(address.run_id)


def _read(params: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as exc:
        raise CommandRefused("invalid_argument", readable(str(exc))) from None


def _asked(row: Row) -> frozenset[str]:
    """The ids of the interrupts for which the thread waits."""
    tasks = msgspec.json.decode(row["interrupts"]).values()
    return frozenset(one["id"] for interrupts in tasks for one in interrupts)


# --- what was just asked ------------------------------------------------------------------------------


async def _settled(parts: GatewayParts, thread_id: UUID) -> Row | None:
    """The row of the thread; a run that has just asked something may come to its end first. None without a thread."""
    until_s, asking = parts.clock.monotonic_s() + SETTLED_S, None
    while True:
        row = await parts.read(lambda: by_id(parts.views, "threads", "thread_id", thread_id))
        if row is None or row["status"] != "busy" or parts.clock.monotonic_s() >= until_s:
            return row
        working = await _at_work(parts, thread_id)
        if working is None or (working != asking and not await _is_asking(parts, working)):
            return row
        asking = working
        await parts.changed(LOOK_S)


async def _at_work(parts: GatewayParts, thread_id: UUID) -> UUID | None:
    """The run that works on the thread."""
    found = await parts.read(lambda: parts.views.one(SQL["at_work_on_thread"], (thread_id.bytes,)))
    return None if found is None else UUID(bytes=found["run_id"])


async def _is_asking(parts: GatewayParts, run_id: UUID) -> bool:
    """Whether the run has streamed an interrupt: then it is about to end with it."""
    if parts.bus is None:
        return False
    try:
        async for value in Pages(parts.bus, RUNEV.name, run_events_subject(run_id)).rest():
            for event in _batch_of(value.data).events:
                if event.event in ASKING and b"interrupt" in bytes(event.data):
                    return True
    except (ConnectionError, TimeoutError, msgspec.DecodeError):
        return True  # nobody knows: wait
    return False
