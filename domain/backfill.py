"""A backfill: occurrences of a cron that lie in the past, and are to have runs after all."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from math import ceil
from typing import Literal
from uuid import UUID

import msgspec

from contracts.events import BackfillCancelled, BackfillFinished, BackfillInclude, BackfillRequested, Overlap
from contracts.ledger import Append, Body, Recorded
from domain.changes import Changes
from domain.cron import Cron, aware
from domain.errors import BackfillNotFound, InvalidField
from domain.identity import backfill_id_of, run_id_of
from domain.overlap import agreed
from domain.schedule import next_after, parse_canonical, zone
from domain.timeline import end_of, start_of

BackfillState = Literal["running", "finished", "cancelled"]
MOST = 1000
"""Occurrences of one backfill."""
MOST_LOOKED_AT = 10_000
"""With a limit so many are looked at: the first may all have had a run."""


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """A backfill as its events left it."""

    backfill_id: UUID
    version: int
    request: BackfillRequested
    state: BackfillState = "running"

    def run_id(self, due: int) -> UUID:
        """The run of that instant: its ordinary one, or one of this backfill."""
        cron_id = self.request.cron_id
        if self.request.include == "unfired":
            return run_id_of(cron_id, due)
        return backfill_id_of(cron_id, self.backfill_id, due)


class RequestBackfill(msgspec.Struct, frozen=True, kw_only=True, tag="backfill.request"):
    """Let the occurrences in [`start`, `end`) have runs, the first `limit` of them. `overlap` None: as the cron has it."""

    backfill_id: UUID
    start: datetime
    end: datetime
    include: BackfillInclude = "unfired"
    overlap: Overlap | None = None
    limit: int | None = None
    note: str = ""


class BackfillPlan(msgspec.Struct, frozen=True):
    """What a backfill comes to: the instants that are to have runs (seconds, oldest first), and how many had one."""

    planned: tuple[int, ...]
    already_fired: int


def backfill_of(backfill_id: UUID, events: Iterable[Recorded]) -> Backfill | None:
    """The backfill that the events of its stream tell of; None when there is none."""
    found: Backfill | None = None
    for recorded in events:
        body = recorded.body
        if isinstance(body, BackfillRequested):
            found = Backfill(backfill_id=backfill_id, version=recorded.version, request=body)
        elif found is not None and isinstance(body, BackfillFinished | BackfillCancelled):
            state: BackfillState = "finished" if isinstance(body, BackfillFinished) else "cancelled"
            found = msgspec.structs.replace(found, version=recorded.version, state=state)
    return found


def candidates(cron: Cron, command: RequestBackfill, now: datetime) -> tuple[int, ...]:
    """The occurrences that the cron's schedule of today has in the stretch; a pause does not matter.

    Raises InvalidField.
    """
    start, end = aware(command.start, "start"), aware(command.end, "end")
    if start >= end:
        raise InvalidField("end: must be after start")
    if end > now:
        raise InvalidField("end: must not lie in the future")
    most = MOST if command.limit is None else MOST_LOOKED_AT
    found = tuple(islice(_between(cron, start, end), most + 1))
    if len(found) > MOST and command.limit is None:
        raise InvalidField(
            f"end: over {MOST} occurrences lie in the stretch; ask for a shorter one, or for the first by `limit`"
        )
    return found[:most]


def planned(
    cron: Cron, command: RequestBackfill, due: Iterable[int], has_run: Iterable[UUID]
) -> BackfillPlan:
    """Which of the occurrences are to have runs, when these run ids are runs already. Raises InvalidField."""
    if command.overlap is not None:
        agreed(command.overlap, None, on_thread=cron.thread_id is not None)
    due = tuple(due)
    if command.include == "all":
        return BackfillPlan(due[: command.limit], 0)
    fired = frozenset(has_run)
    left = tuple(at for at in due if run_id_of(cron.cron_id, at) not in fired)
    return BackfillPlan(left[: command.limit], len(due) - len(left))


def request(cron: Cron, command: RequestBackfill, plan: BackfillPlan, tzdata: str) -> Changes:
    """What is stored of it; nothing when there is nothing to run."""
    if not plan.planned:
        return Changes()
    requested = BackfillRequested(
        cron_id=cron.cron_id,
        user_id=cron.user_id,
        start=aware(command.start, "start"),
        end=aware(command.end, "end"),
        include=command.include,
        overlap=command.overlap,
        planned=plan.planned,
        already_fired=plan.already_fired,
        revision=cron.revision,
        tzdata=tzdata,
        note=command.note,
    )
    return Changes(appends=(Append(command.backfill_id, 0, (requested,)),))


def cancel(
    backfill: Backfill | None, cron_id: UUID, reason: Literal["request", "cron_deleted"] = "request"
) -> Changes:
    """No more of it begins; nothing when it is over. Raises BackfillNotFound."""
    if backfill is None or backfill.request.cron_id != cron_id:
        raise BackfillNotFound("Backfill not found")
    return _over(backfill, BackfillCancelled(cron_id=cron_id, reason=reason))


def finish(backfill: Backfill) -> Changes:
    """Each of its occurrences has had its turn."""
    return _over(backfill, BackfillFinished(cron_id=backfill.request.cron_id))


def _over(backfill: Backfill, body: Body) -> Changes:
    if backfill.state != "running":
        return Changes()
    return Changes(appends=(Append(backfill.backfill_id, backfill.version, (body,)),))


def _between(cron: Cron, start: datetime, end: datetime) -> Iterator[int]:
    """Occurrences in [start, end)."""
    schedule, place = parse_canonical(cron.canonical), zone(cron.timezone)
    first, last = ceil(start.timestamp()), min(ceil(end.timestamp()) - 1, end_of(cron.rule))
    at = next_after(schedule, place, max(first - 1, start_of(cron.rule)))
    while at is not None and at <= last:
        yield at
        at = next_after(schedule, place, at)
