"""Writes into a thread's state. A run that no client sees carries each out: order and recovery are the runs'."""

from typing import Any
from uuid import UUID

from contracts.api import Superstep
from domain import requests
from domain.changes import Changes
from domain.errors import GraphFailed, InvalidField, Refused, RunNotFound, ThreadBusy
from domain.request import check_write, updates_of
from domain.requests import RunPlan
from services.gateway.commands import acting
from services.gateway.commands.acting import Asks
from services.gateway.commands.endings import stop_run
from services.gateway.parts import GatewayParts
from services.gateway.queries.graphs import GraphsUnavailable
from services.gateway.queries.search import by_id

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


async def write(parts: GatewayParts, call: Asks, thread_id: UUID, run_id: UUID, plan: RunPlan) -> None:
    """Ask for the write. Raises ThreadBusy, LaneFull, ThreadNotFound."""

    def decide() -> Changes:
        metadata = acting.thread(parts, thread_id).metadata
        line = requests.Line(lane=acting.lane(parts, thread_id))
        return requests.write_state(plan, run_id, line, metadata, parts.clock.now())

    await acting.act(parts, call, thread_id, decide)


async def written(
    parts: GatewayParts, call: Asks, thread_id: UUID, run_id: UUID, field: str
) -> dict[str, Any]:
    """The row of the run once the write is done; after a minute it is given up and withdrawn.

    Raises InvalidField (naming `field`) when the graph refused it, ThreadBusy when another run came in its
    place, GraphsUnavailable, GraphFailed.
    """
    deadline = parts.clock.monotonic_s() + WRITTEN_S
    while True:
        row = by_id(parts.views, "runs", "run_id", run_id)
        if row is None:
            _still_there(parts, thread_id, run_id)
        elif row["phase"] == "ended":
            break
        left = deadline - parts.clock.monotonic_s()
        if left <= 0:
            await stop_run(parts, call, thread_id, run_id, "the write was given up")
            raise GraphsUnavailable(f"No worker wrote the state in {WRITTEN_S:g} s; try again.")
        await parts.changed(min(left, LOOK_AGAIN_S))
    refused = _refusal(row, field)
    if refused is not None:
        raise refused
    return row


def _still_there(parts: GatewayParts, thread_id: UUID, run_id: UUID) -> None:
    """Raises ThreadNotFound or ThreadBusy when the write will never be done."""
    acting.thread(parts, thread_id)
    try:
        acting.run(parts, thread_id, run_id)
    except RunNotFound:
        raise ThreadBusy("The state was not written: a run took its place.") from None


def _refusal(row: dict[str, Any], field: str) -> Refused | GraphsUnavailable | None:
    if row["status"] == "error" and row["error"] not in OUR_FAULT:
        return InvalidField(f"{field}: the graph refused it: {row['error']}: {row['message']}")
    if row["status"] == "interrupted":
        return ThreadBusy(f"The state was not written: {row['cancel_reason'] or 'it was stopped'}")
    if row["status"] != "success":
        return GraphsUnavailable(f"The state was not written: {row['message'] or row['status']}; try again.")
    if row["checkpoint"] is None:
        return GraphFailed("The graph keeps no checkpoint of what was written.")
    return None
