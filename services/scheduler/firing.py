"""Occurrences become runs: in blocks, each occurrence once, whoever else tries the same."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from contracts.events import FiringKind, LaneChanged
from contracts.ledger import Meta, Transaction
from domain import cron as crons
from domain.changes import Changes
from domain.cron import Cron, DeleteCron
from domain.identity import run_id_of, thread_id_of
from domain.lane import Lane, evolve
from domain.requests import Line, Occurrence, fire_on_thread, miss, plan_of, request_stateless, skip
from domain.schedule import Zone, local_time, next_after, tzdata_version
from domain.thread import thread_of
from services.kit.clock import Clock
from services.kit.eventlog import EventLog, LogUnavailable, WrongExpectedVersion
from services.scheduler.plans import Due, Plans
from services.scheduler.timer import Group, Timer

BLOCK = 500
YIELD_EVERY = 100
RETRIES = 30
GIVE_UP_S = 600.0
TAKES_PLACE = ("interrupt", "rollback")
"""Strategies by which a firing stops other runs."""
log_ = logging.getLogger("cronledger.scheduler")


class Counts(msgspec.Struct):
    """What has happened since the start. `lateness_ms` are (upper bound, how many)."""

    fired: int = 0
    skipped: int = 0
    duplicates: int = 0
    conflicts: int = 0
    lateness_ms: dict[float, int] = {}

    def late(self, milliseconds: float) -> None:
        """Count one lateness."""
        bound = next(
            (b for b in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0) if milliseconds <= b), float("inf")
        )
        self.lateness_ms[bound] = self.lateness_ms.get(bound, 0) + 1


class Firing:
    """Appends the runs of due crons."""

    def __init__(self, log: EventLog, plans: Plans, timer: Timer, clock: Clock) -> None:
        self._log, self._plans, self._timer, self._clock = log, plans, timer, clock
        self.counts = Counts()

    async def fire_group(self, group: Group, due: int, following: int | None) -> None:
        """Fire an instant for every cron of the group that has not decided it."""
        members = self._timer.members(group, due)
        members.sort(key=lambda cron_id: hash((cron_id, due)))  # nobody is always the last
        for start in range(0, len(members), BLOCK):
            await self.fire_block(members[start : start + BLOCK], group.place, due, following)

    async def fire_block(
        self,
        cron_ids: Sequence[bytes],
        place: Zone,
        due: int,
        following: int | None,
        kind: FiringKind = "schedule",
    ) -> None:
        """Fire one instant for these crons. Returns when each is decided."""
        began = self._clock.monotonic_s()
        while True:
            try:
                await self._try_block(cron_ids, place, due, following, kind)
                return
            except LogUnavailable as exc:
                waited = self._clock.monotonic_s() - began
                until_next = GIVE_UP_S if following is None else following - self._clock.wall_s()
                log_.warning("scheduler.log_unavailable waited_s=%.1f error=%s", waited, exc)
                if waited > max(1.0, min(GIVE_UP_S, until_next)):
                    await self._miss_block(cron_ids, place, due, following, str(exc))
                    return
                await asyncio.sleep(min(1.0, 0.05 + waited / 4))

    async def _try_block(
        self, cron_ids: Sequence[bytes], place: Zone, due: int, following: int | None, kind: FiringKind
    ) -> None:
        known = self._plans.of_block(cron_ids)
        threads = [d.thread_id for d in known.values() if d.thread_id is not None]
        lanes = self._plans.lanes(threads) if threads else {}
        metadata = self._plans.thread_metadata(threads) if threads else {}
        local = local_time(place, due).isoformat()
        built: list[tuple[bytes, Transaction]] = []
        alone: list[bytes] = []
        now = self._clock.now()
        for n, cron_id in enumerate(cron_ids):
            found = known.get(cron_id)
            if found is None or found.plan is None or (found.thread_id and found.thread_id not in metadata):
                alone.append(cron_id)  # the read model does not have it (yet, or any more)
                continue
            if found.thread_id and found.plan.strategy in TAKES_PLACE and lanes[found.thread_id].in_flight:
                alone.append(cron_id)  # whom it stops must be looked at, one by one
                continue
            occurrence = self._occurrence(cron_id, found, due, following, kind, local)
            changes = self._changes(found, occurrence, lanes, metadata.get(occurrence.thread_id, {}), now)
            built.append((cron_id, changes.by(_meta(cron_id, found, occurrence, now))))
            if n % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        outcomes = await self._log.append_many([tx for _, tx in built]) if built else []
        for (cron_id, _), outcome in zip(built, outcomes, strict=True):
            if isinstance(outcome, int):
                self._done(cron_id, due)
            elif outcome.stream_id == run_id_of(UUID(bytes=cron_id), due):
                self.counts.duplicates += 1
                self._timer.decided(cron_id, due)
            else:
                alone.append(cron_id)
        for cron_id in alone:
            await self._fire_alone(cron_id, place, due, following, kind)

    async def _fire_alone(
        self, cron_id: bytes, place: Zone, due: int, following: int | None, kind: FiringKind
    ) -> None:
        """One cron, decided on what the log has this moment, until it fits."""
        local = local_time(place, due).isoformat()
        for attempt in range(RETRIES):
            changes = self._alone(cron_id, due, following, kind, local)
            if changes is None:
                self._timer.decided(cron_id, due)
                return
            try:
                await self._log.append(changes)
            except WrongExpectedVersion as exc:
                if exc.stream_id == run_id_of(UUID(bytes=cron_id), due):
                    self.counts.duplicates += 1
                    self._timer.decided(cron_id, due)
                    return
                self.counts.conflicts += 1
                await asyncio.sleep(0.001 * attempt)
                continue
            self._done(cron_id, due)
            return
        log_.error("scheduler.contended cron=%s due=%d", UUID(bytes=cron_id), due)
        await self._miss_block(
            [cron_id], place, due, following, "the thread was changed by others all the time"
        )

    def _alone(
        self, cron_id: bytes, due: int, following: int | None, kind: FiringKind, local: str
    ) -> Transaction | None:
        found = self._plans.of_stream(cron_id)
        if found is None:
            return None  # deleted: no run
        cron, about = found
        if not may_fire(cron, due):
            return None
        occurrence = self._occurrence(cron_id, about, due, following, kind, local)
        meta = Meta(
            at=self._clock.now(),
            actor="scheduler",
            cause=f"{cron.cron_id}/{cron.revision}",
            corr=str(occurrence.run_id),
        )
        if about.plan is None:
            return self._refused(cron, occurrence, "its assistant is gone").by(meta)
        if about.thread_id is None:
            return request_stateless(about.plan, occurrence, meta.at).by(meta)
        thread = thread_of(about.thread_id, self._log.newest([about.thread_id]).values())
        if thread is None:
            ended = crons.changes(
                cron.cron_id, cron, crons.decide(cron, DeleteCron(reason="thread_deleted"), meta.at)
            )
            gone = skip(
                msgspec.structs.replace(about.plan, cron_version=0),
                occurrence,
                "refused",
                "its thread is gone",
            )
            return (gone + ended).by(meta)
        line = self._plans.line(about.thread_id)
        return fire_on_thread(about.plan, occurrence, line, thread.metadata, meta.at).by(meta)

    def _refused(self, cron: Cron, occurrence: Occurrence, why: str) -> Changes:
        from domain.assistant import Assistant

        nobody = Assistant(assistant_id=cron.assistant_id, version=0, graph_id=cron.graph_id, name="")
        plan = plan_of({}, nobody, cron.user_id, cron_id=cron.cron_id, cron_version=cron.version)
        return skip(plan, occurrence, "refused", why)

    async def _miss_block(
        self, cron_ids: Sequence[bytes], place: Zone, due: int, following: int | None, why: str
    ) -> None:
        known = self._plans.of_block(cron_ids)
        now = self._clock.now()
        for cron_id, found in known.items():
            if found.plan is None:
                continue
            occurrence = self._occurrence(
                cron_id, found, due, following, "schedule", local_time(place, due).isoformat()
            )
            plan = msgspec.structs.replace(found.plan, cron_version=0)
            try:
                await self._log.append(miss(plan, occurrence, why).by(_meta(cron_id, found, occurrence, now)))
            except WrongExpectedVersion:
                self.counts.duplicates += 1
            self._timer.decided(cron_id, due)

    def _changes(
        self,
        found: Due,
        occurrence: Occurrence,
        lanes: dict[UUID, Lane],
        metadata: dict[str, object],
        now: datetime,
    ) -> Changes:
        assert found.plan is not None
        if found.thread_id is None:
            return request_stateless(found.plan, occurrence, now)
        line = Line(lane=lanes[found.thread_id])
        changes = fire_on_thread(found.plan, occurrence, line, metadata, now)
        for append in changes.appends:
            for body in append.bodies:
                if isinstance(body, LaneChanged):  # the next cron of this thread stands behind it
                    lanes[found.thread_id] = evolve(lanes[found.thread_id], body)
        return changes

    def _occurrence(
        self, cron_id: bytes, found: Due, due: int, following: int | None, kind: FiringKind, local: str
    ) -> Occurrence:
        cron = UUID(bytes=cron_id)
        coming = following
        if coming is not None and self._timer.holds(cron_id) and coming > self._timer.end(cron_id):
            coming = None
        return Occurrence(
            run_id=run_id_of(cron, due),
            thread_id=found.thread_id or thread_id_of(cron, due),
            scheduled_for=datetime.fromtimestamp(due, UTC),
            kind=kind,
            local=local,
            tzdata=tzdata_version(),
            next_at=None if coming is None else datetime.fromtimestamp(coming, UTC),
        )

    def _done(self, cron_id: bytes, due: int) -> None:
        self._timer.decided(cron_id, due)
        self.counts.fired += 1
        self.counts.late((self._clock.wall_s() - due) * 1000)


def may_fire(cron: Cron, due: int) -> bool:
    """Whether an instant that was due under the revision that we knew is still to be decided."""
    if cron.end_time is not None and due > cron.end_time.timestamp():
        return False
    if cron.state != "active":
        return cron.paused_at is not None and due <= cron.paused_at.timestamp()
    return True


def following_of(group: Group, due: int) -> int | None:
    """The group's instant after `due`."""
    return next_after(group.schedule, group.place, due)


def _meta(cron_id: bytes, found: Due, occurrence: Occurrence, now: datetime) -> Meta:
    assert found.plan is not None
    cause = f"{UUID(bytes=cron_id)}/{found.plan.revision}"
    return Meta(at=now, actor="scheduler", cause=cause, corr=str(occurrence.run_id))
