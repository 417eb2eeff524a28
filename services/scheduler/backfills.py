"""Backfills: occurrences that lie in the past become runs, one by one, beside what is due."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import msgspec

from contracts.events import (
    BackfillCancelled,
    BackfillFinished,
    BackfillRequested,
    OccurrenceMissed,
    OccurrenceSkipped,
)
from contracts.ledger import Meta, Recorded
from domain import backfill as backfills
from domain.backfill import Backfill
from domain.changes import Changes
from domain.decisions import Occurrence, RunPlan, skip
from domain.identity import thread_id_beside, thread_id_of
from domain.overlap import agreed
from domain.schedule import local_time, tzdata_version, zone
from domain.timeline import Due
from services.kit.clock import Clock
from services.kit.eventlog import EventLog, WrongExpectedVersion
from services.kit.follower import Tail
from services.kit.lifecycle import FAULTS, Part, Supervised
from services.kit.logs import Log
from services.kit.reads import read
from services.kit.views import Views
from services.repository import Aggregates
from services.scheduler.firing import GONE, begun, nobodys, threadless
from services.scheduler.plans import SQL, Plans
from services.scheduler.timer import Timer

PACE_S = 0.1
"""Between two runs of a backfill."""
POLL_S = 0.25
ASIDE_S = 30.0
"""How long one is left alone of which an occurrence can't be dealt with."""
PAGE = 500
log_ = Log("scheduler")


class Open(msgspec.Struct):
    """A backfill that goes on: the instants that have not had their turn, and when the next one has it."""

    backfill: Backfill
    left: deque[int]
    next_s: float = 0.0
    is_ours: bool = True
    """Else somebody else goes on with it, and `left` is as it once was."""


class Backfills:
    """Releases the runs of backfills. Two of these on one log are harmless: a run is begun once.

    It advances when a run is stored; what raises in between is tried again, and a restart finds what is left by
    looking at the runs that there are.
    """

    def __init__(
        self, log: EventLog, views: Views, clock: Clock, timer: Timer, held: Callable[[], str]
    ) -> None:
        """`held` says why nothing may be decided for now, '' when it may."""
        self._log, self._views, self._clock, self._timer = log, views, clock, timer
        self._stores, self._held = (log, views), held
        self._open: dict[UUID, Open] = {}
        self._tail = Tail(log, "backfill.")
        self._is_loaded = False
        self._never = asyncio.Event()
        self._loop = Supervised("scheduler.backfills", self._step, 1.0)
        self.parts: Sequence[Part] = (self._loop,)

    async def start(self) -> None:
        """Begin; twice is harmless."""
        await self._loop.start()

    async def stop(self) -> None:
        """End; what is left is released after the next start."""
        await self._loop.stop()

    # --- the loop ---------------------------------------------------------------------------------

    async def _step(self) -> None:
        if not self._is_loaded:
            await self._load()
        await self._tail.follow(self._take)
        now = self._clock.wall_s()
        if self._held():
            await self._clock.wait(self._never, POLL_S)
            return
        for opened in list(self._open.values()):
            await self._look_whose(opened)
        # One that has its turn later than ever was said: the clock was set back.
        ours = [o for o in self._open.values() if o.is_ours]
        for opened in [o for o in ours if not now < o.next_s <= now + ASIDE_S]:
            await self._go_on(opened)
        soonest = min((o.next_s for o in ours), default=now + POLL_S)
        await self._clock.wait(self._never, min(POLL_S, max(0.0, soonest - self._clock.wall_s())))

    async def _load(self) -> None:
        """Take over what goes on from the read model; twice is harmless."""
        await self._tail.reached(self._views, "backfills")
        last = b""
        while rows := await read(self._views, lambda: self._views.all(SQL["backfills"], (last, PAGE))):  # noqa: B023
            for row in rows:
                backfill_id = UUID(bytes=row["backfill_id"])
                found = await read(self._log, lambda: Aggregates(self._log).backfill(backfill_id))  # noqa: B023
                if found is not None and found.state == "running":
                    self._open[backfill_id] = Open(found, await read(self._log, partial(self._left, found)))
            last = rows[-1]["backfill_id"]
        self._is_loaded = True

    async def _take(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            if isinstance(recorded.body, BackfillRequested):
                request = recorded.body
                found = Backfill(backfill_id=recorded.stream_id, version=1, request=request)
                self._open[found.backfill_id] = Open(found, deque(request.planned))
            elif isinstance(recorded.body, BackfillFinished | BackfillCancelled):
                self._open.pop(recorded.stream_id, None)

    def _left(self, found: Backfill) -> deque[int]:
        """The instants that have not had their turn."""
        runs = {at: found.run_id(at) for at in found.request.planned}
        newest = self._log.newest(runs.values())
        return deque(at for at, run_id in runs.items() if not _had_turn(found, newest.get(run_id)))

    # --- one of them ------------------------------------------------------------------------------

    async def _look_whose(self, opened: Open) -> None:
        """Whoever decides the cron releases its backfills."""
        is_ours = self._timer.is_ours(opened.backfill.request.cron_id.bytes)
        if is_ours and not opened.is_ours:
            opened.left = await read(self._log, partial(self._left, opened.backfill))
        opened.is_ours = is_ours

    async def _go_on(self, opened: Open) -> None:
        """Let the next occurrence have its turn. Whatever is wrong with one backfill, others go on."""
        now = self._clock.wall_s()
        try:
            await self._release(opened)
            opened.next_s = now + PACE_S
        except FAULTS as exc:
            log_.error("scheduler.backfill_set_aside", exc, backfill=opened.backfill.backfill_id)
            opened.next_s = now + ASIDE_S

    async def _release(self, opened: Open) -> None:
        """One that has had its turn, from another scheduler say, is waited for all the same: else two would be twice
        as quick.
        """
        found = opened.backfill
        if not opened.left:
            await self._store(backfills.finish(found), found)
            self._open.pop(found.backfill_id, None)
            return
        changes = await read(self._stores, partial(self._changes, found, opened.left[0]))
        if changes is None:
            return  # it can't have its turn yet
        outcome = await self._store(changes, found) if changes else 0
        if isinstance(outcome, WrongExpectedVersion):
            return  # somebody was quicker: it is looked at again
        if any(append.stream_id == found.backfill_id for append in changes.appends):
            self._open.pop(found.backfill_id, None)
        else:
            opened.left.popleft()

    async def _store(self, changes: Changes, found: Backfill) -> int | WrongExpectedVersion:
        cause = f"{found.backfill_id}/1"
        meta = Meta(at=self._clock.now(), actor="scheduler", cause=cause, corr=str(found.backfill_id))
        [outcome] = await self._log.append_many([changes.by(meta)])
        return outcome

    def _changes(self, found: Backfill, at: int) -> Changes | None:
        """What its turn comes to: nothing when it has had it, None when it is not its turn yet."""
        log, request, run_id = Aggregates(self._log), found.request, found.run_id(at)
        cron = log.cron(request.cron_id)
        if cron is None:
            return backfills.cancel(found, request.cron_id, "cron_deleted")
        newest = self._log.newest([run_id]).get(run_id)
        if _had_turn(found, newest):
            return Changes()
        if request.include == "unfired" and not self._is_decided(cron.cron_id, at, told=newest is not None):
            return None
        local = local_time(zone(cron.timezone), at).isoformat()
        due = Due(cron.cron_id.bytes, at, local, "backfill", None, cron.version, cron.revision)
        # Made anew each time: it is asked ten times a second at most, and an assistant may have changed.
        planned = Plans(self._log, self._views).of_stream(due)
        if planned is None:
            return None  # edited this moment
        own = thread_id_of(cron.cron_id, at) if request.include == "unfired" else thread_id_beside(run_id)
        occurrence = Occurrence(
            run_id=run_id,
            thread_id=planned.thread_id or own,
            scheduled_for=datetime.fromtimestamp(at, UTC),
            kind="backfill",
            local=local,
            tzdata=tzdata_version(),
            note=request.note,
            former=0 if newest is None else newest.version,
            backfill_id=found.backfill_id,
        )
        if planned.plan is None:
            return skip(nobodys(due), occurrence, "refused", GONE)
        plan = self._plan(found, planned.plan, cron.version, on_thread=planned.thread_id is not None)
        planned = msgspec.structs.replace(planned, plan=plan)
        changes = begun(log, planned, plan, occurrence, self._clock.now())
        if changes is None:
            return threadless(plan, occurrence)
        told = changes.appends[0].bodies[0]
        is_full = isinstance(told, OccurrenceSkipped) and told.reason == "buffer_full"
        return None if is_full else changes  # while too many wait it waits

    def _is_decided(self, cron_id: UUID, at: int, *, told: bool) -> bool:
        """Whether the schedule has nothing to say of the occurrence any more, or is paused and does not say it."""
        key = cron_id.bytes
        if told or not self._timer.holds(key):
            return told
        return at <= self._timer.cursor(key) or not self._timer.rule(key).active

    def _plan(self, found: Backfill, plan: RunPlan, version: int, *, on_thread: bool) -> RunPlan:
        """The cron's plan, with what the backfill has in place of its overlap."""
        plan = msgspec.structs.replace(plan, cron_version=version)
        if found.request.overlap is None:
            return plan
        both = agreed(found.request.overlap, None, on_thread=on_thread)
        spec = msgspec.structs.replace(plan.spec, multitask_strategy=both.strategy)
        return msgspec.structs.replace(plan, spec=spec, overlap=both.overlap)


def _had_turn(found: Backfill, newest: Recorded | None) -> bool:
    """Whether the occurrence is a run, or was told to be none by this backfill; by its newest event."""
    if newest is None:
        return False
    body = newest.body
    if isinstance(body, OccurrenceSkipped | OccurrenceMissed):
        return body.backfill_id == found.backfill_id
    return True
