"""Writes into a thread's state. A run that no client sees carries each out: order and recovery are the runs'."""

from typing import Any
from uuid import UUID

from contracts.api import Superstep
from domain import decisions
from domain.decisions import Line, RunPlan
from domain.errors import GraphFailed, InvalidField, Refused, RunNotFound, ThreadBusy
from domain.spec import check_write, updates_of
from services.gateway.answers.values import Row
from services.gateway.commands.endings import stop_run
from services.gateway.commands.execution import act
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.gateway.queries.graphs import GraphsUnavailable
from services.gateway.queries.search import by_id
from services.repository import Aggregates

WRITTEN_S = 60.0
LOOK_AGAIN_S = 1.0
OUR_FAULT = frozenset({"WorkerLost", "InputErased"})
"""Failures of a run that say nothing about what it was asked to write."""


def checked(supersteps: list[Superstep]) -> list[list[dict[str, Any]]]:
    """The supersteps as a run carries them. Raises InvalidField."""
    for number, superstep in enumerate(supersteps):
        for write in superstep.updates:
            try:
                check_write(write)
            except InvalidField as exc:
                raise InvalidField(f"supersteps[{number}].updates: {exc}") from None
    return [updates_of(superstep.updates) for superstep in supersteps]


async def ask(parts: GatewayParts, caller: Caller, thread_id: UUID, run_id: UUID, plan: RunPlan) -> None:
    """Ask for the write. Raises ThreadBusy, LaneFull, ThreadNotFound."""
    await act(
        parts,
        caller,
        thread_id,
        lambda log: (log.thread(thread_id).metadata, Line(lane=log.lane(thread_id))),
        lambda found: decisions.write_state(plan, run_id, found[1], found[0], parts.clock.now()),
    )


async def written(parts: GatewayParts, caller: Caller, thread_id: UUID, run_id: UUID, field: str) -> Row:
    """The row of the run once the write is done; after a minute it is given up and withdrawn.

    Raises InvalidField (naming `field`) when the graph refused it, ThreadBusy when another run came in its
    place, GraphsUnavailable, GraphFailed.
    """
    deadline = parts.clock.monotonic_s() + WRITTEN_S
    while True:
        row = await parts.read(lambda: by_id(parts.views, "runs", "run_id", run_id))
        if row is None:
            await parts.repository.load(lambda log: _still_there(log, thread_id, run_id))
        elif row["phase"] == "ended":
            break
        left = deadline - parts.clock.monotonic_s()
        if left <= 0:
            await stop_run(parts, caller, thread_id, run_id, "the write was given up")
            raise GraphsUnavailable(f"No worker wrote the state in {WRITTEN_S:g} s; try again.")
        await parts.changed(min(left, LOOK_AGAIN_S))
    refused = _refusal(row, field)
    if refused is not None:
        raise refused
    return row


def _still_there(log: Aggregates, thread_id: UUID, run_id: UUID) -> None:
    """Raises ThreadNotFound or ThreadBusy when the write will never be done."""
    log.thread(thread_id)
    try:
        log.run(thread_id, run_id)
    except RunNotFound:
        raise ThreadBusy("The state was not written: a run took its place.") from None


def _refusal(row: Row, field: str) -> Refused | GraphsUnavailable | None:
    if row["status"] == "error" and row["error"] not in OUR_FAULT:
        return InvalidField(f"{field}: the graph refused it: {row['error']}: {row['message']}")
    if row["status"] == "interrupted":
        return ThreadBusy(f"The state was not written: {row['cancel_reason'] or 'it was stopped'}")
    if row["status"] != "success":
        return GraphsUnavailable(f"The state was not written: {row['message'] or row['status']}; try again.")
    if row["checkpoint"] is None:
        return GraphFailed("The graph keeps no checkpoint of what was written.")
    return None
