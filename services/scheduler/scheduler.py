"""The scheduler: follows the crons of the log, sleeps until the next instant, fires it."""

import asyncio
import hashlib
import heapq
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from uuid import UUID

from contracts.events import (
    CronCreated,
    CronDeleted,
    CronExpired,
    CronPaused,
    CronResumed,
    CronUpdated,
    OccurrencesMissed,
)
from contracts.ledger import Meta, Recorded, Transaction
from domain import cron as crons
from domain.cron import Cron, ExpireCron, RecordMissed, RescheduleCron, cron_of
from domain.errors import InvalidSchedule, InvalidTimezone
from domain.schedule import next_after, tzdata_version
from services.kit.clock import Clock
from services.kit.commands import execute
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Supervised
from services.kit.settings import Settings
from services.kit.views import Views
from services.scheduler.catch_up import GRACE_S, backlog
from services.scheduler.firing import BLOCK, Counts, Firing
from services.scheduler.plans import Plans
from services.scheduler.timer import Group, Timer

POLL_S = 0.25
PAGE = 1000
CRONS = """
SELECT cron_id, canonical, timezone, cursor, end_at, version, tzdata, next_at
FROM crons WHERE state = 'active'
"""
log_ = logging.getLogger("cronledger.scheduler")


class Scheduler:
    """Fires what is due. Two of them on one log are harmless: an occurrence is decided once."""

    def __init__(self, log: EventLog, views: Views, clock: Clock, settings: Settings) -> None:
        self._log, self._views, self._clock, self._settings = log, views, clock, settings
        self._timer = Timer()
        self._plans = Plans(log, views)
        self._firing = Firing(log, self._plans, self._timer, clock)
        self._delayed: list[tuple[float, bytes, int]] = []  # catch-ups that wait for their turn
        self._behind: set[bytes] = set()
        self._position = 0
        self._highest = 0.0
        self._wake = asyncio.Event()
        self._loop = Supervised("scheduler", self._step)
        self._unsubscribe: Callable[[], None] | None = None
        self._loaded = False

    @property
    def healthy(self) -> str:
        """'' when it fires, else why not."""
        return self._loop.failing or ("" if self._loaded else "still loading")

    @property
    def counts(self) -> Counts:
        """What has happened since the start."""
        return self._firing.counts

    async def start(self) -> None:
        """Load the crons, then begin to fire."""
        if self._unsubscribe is None:
            self._unsubscribe = self._log.on_commit(lambda _: self._wake.set())
            await self._load()
            await self._loop.start()

    async def stop(self) -> None:
        """End; what is undecided is decided at the next start."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
            await self._loop.stop()

    # --- loading and following --------------------------------------------------------------------

    async def _load(self) -> None:
        head = self._log.head()
        while self._views.position("crons") < head:  # noqa: ASYNC110 - another process may project
            await asyncio.sleep(0.01)
        self._position = head
        now = self._now()
        moved: list[bytes] = []
        for n, row in enumerate(self._views.all(CRONS)):
            end = None if row["end_at"] is None else row["end_at"] // 1_000_000
            self._add(
                row["cron_id"], row["canonical"], row["timezone"], row["cursor"], end, row["version"], now
            )
            if row["tzdata"] != tzdata_version():
                moved.append(row["cron_id"])
            if n % 1000 == 999:
                await asyncio.sleep(0)
        await self._catch_up(now)
        for cron_id in moved:
            await self._reschedule(cron_id)
        await self._expire_all()
        self._loaded = True
        log_.info("scheduler.loaded crons=%d position=%d", len(self._timer), head)

    def _add(
        self,
        cron_id: bytes,
        canonical: str,
        timezone: str | None,
        cursor: int,
        end: int | None,
        version: int,
        now: int,
    ) -> None:
        try:
            self._timer.add(cron_id, canonical, timezone, cursor=cursor, end=end, version=version, now=now)
        except (InvalidSchedule, InvalidTimezone) as exc:
            # Never UTC by default: it would fire at a wrong hour and nobody would know.
            log_.error("scheduler.blocked cron=%s error=%s", UUID(bytes=cron_id), exc)

    async def _follow(self) -> None:
        head = self._log.head()
        while self._position < head:
            events = self._log.read_topics("cron.", self._position, head, PAGE)
            if self._log.read_topics("assistant.", self._position, head, 1):
                self._plans.forget_assistants()
            for recorded in events:
                await self._apply(recorded)
            self._position = events[-1].position if len(events) == PAGE else head

    async def _apply(self, recorded: Recorded) -> None:
        cron_id, at = recorded.stream_id.bytes, int(recorded.meta.at.timestamp())
        if recorded.version <= self._timer.version(cron_id):
            return
        match recorded.body:
            case CronCreated() as body if body.enabled:
                self._join(recorded, body.canonical, body.timezone, body.end_time, at)
            case CronUpdated() | CronPaused() | CronDeleted() | CronExpired() | CronResumed():
                await self._edited(recorded, cron_id, at)
            case OccurrencesMissed() as body:
                self._timer.decided(cron_id, int(body.last.timestamp()))
        self._timer.seen(cron_id, recorded.version)

    async def _edited(self, recorded: Recorded, cron_id: bytes, at: int) -> None:
        if not isinstance(recorded.body, CronDeleted):
            # What was due before the edit is decided as it was planned.
            await self._catch_up(self._now(), [cron_id], until=at)
        cron = cron_of(recorded.stream_id, self._log.stream(recorded.stream_id))
        self_cursor = self._timer.cursor(cron_id) if self._timer.holds(cron_id) else 0
        self._timer.remove(cron_id)
        if cron is None or not cron.is_active:
            return
        cursor = max(int(cron.since.timestamp()), self_cursor)
        self._join(recorded, cron.canonical, cron.timezone, cron.end_time, cursor)
        await self._expire(cron_id)

    def _join(
        self, recorded: Recorded, canonical: str, timezone: str | None, end_time: datetime | None, cursor: int
    ) -> None:
        end = None if end_time is None else int(end_time.timestamp())
        # From the cursor, not from now: an instant may have passed between the command and this line.
        self._add(recorded.stream_id.bytes, canonical, timezone, cursor, end, recorded.version, self._now())
        self._behind.add(recorded.stream_id.bytes)

    # --- the loop ---------------------------------------------------------------------------------

    async def _step(self) -> None:
        self._wake.clear()
        await self._follow()
        now = self._now()
        await self._new_ones(now)
        while (popped := self._timer.pop_due(now)) is not None:
            group, due, following = popped
            if now - due > GRACE_S:
                await self._catch_up(now)  # the clock jumped, or we were suspended: that was downtime
            else:
                await self._firing.fire_group(group, due, following)
            await self._expire_group(group)
            now = self._now()
        await self._fire_delayed(now)
        await self._sleep()

    async def _sleep(self) -> None:
        wall = self._clock.wall_s()
        until = [wall + POLL_S]
        if (due := self._timer.next_due()) is not None:
            until.append(float(due))
        if self._delayed:
            until.append(self._delayed[0][0])
        pause = min(until) - wall
        if pause > 0:
            await self._clock.wait(self._wake, pause)
        else:
            await asyncio.sleep(0)

    def _now(self) -> int:
        """Whole seconds that have come by the host's clock and by the store's; never backwards."""
        wall = min(self._clock.wall_s(), self._log.clock().timestamp() + 2.0)
        self._highest = max(self._highest, wall)
        return int(self._highest)

    # --- what is behind ---------------------------------------------------------------------------

    async def _new_ones(self, now: int) -> None:
        """Crons that joined since the last step: an instant may lie between their cursor and now."""
        behind, self._behind = self._behind, set()
        if behind:
            await self._catch_up(now, behind)

    async def _catch_up(
        self, now: int, cron_ids: Iterable[bytes] | None = None, until: int | None = None
    ) -> None:
        """Decide what is undecided up to `until` (now), by the catch-up policy; of every cron by default."""
        late: dict[int, list[bytes]] = defaultdict(list)
        for n, cron_id in enumerate(list(self._timer if cron_ids is None else cron_ids)):
            if self._timer.holds(cron_id):
                await self._look_back(cron_id, now, now if until is None else until, late)
            if n % 500 == 499:
                await asyncio.sleep(0)
        await self._fire_late(late)

    async def _look_back(self, cron_id: bytes, now: int, until: int, late: dict[int, list[bytes]]) -> None:
        group, cursor = self._timer.group(cron_id), self._timer.cursor(cron_id)
        until = min(until, self._timer.end(cron_id))
        first = next_after(group.schedule, group.place, cursor)
        if first is None or first > until:
            return
        window_s = self._settings.catch_up_window_s
        found = backlog(group.schedule, group.place, cursor, until, now, window_s)
        if found.missed:
            await self._record_missed(cron_id, found.missed)
        if found.catch_up is not None:
            heapq.heappush(self._delayed, (now + self._spread_s(cron_id), cron_id, found.catch_up))
            self._timer.decided(cron_id, found.catch_up)
        for due in found.late:
            late[due].append(cron_id)

    async def _fire_late(self, late: dict[int, list[bytes]]) -> None:
        for due in sorted(late):
            groups: dict[int, list[bytes]] = defaultdict(list)
            for cron_id in late[due]:
                groups[id(self._timer.group(cron_id))].append(cron_id)
            for members in groups.values():
                group = self._timer.group(members[0])
                following = next_after(group.schedule, group.place, due)
                for start in range(0, len(members), BLOCK):
                    await self._firing.fire_block(members[start : start + BLOCK], group.place, due, following)

    async def _fire_delayed(self, now: int) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            _, cron_id, due = heapq.heappop(self._delayed)
            if self._timer.holds(cron_id):
                group = self._timer.group(cron_id)
                following = next_after(group.schedule, group.place, max(due, now))
                await self._firing.fire_block([cron_id], group.place, due, following, "catch_up")

    def _spread_s(self, cron_id: bytes) -> float:
        share = int.from_bytes(hashlib.blake2b(cron_id, digest_size=4).digest(), "big") / 2**32
        return share * self._settings.catch_up_spread_s

    async def _record_missed(self, cron_id: bytes, missed: tuple[RecordMissed, ...]) -> None:
        def decide() -> Transaction | None:
            stream = self._log.stream(UUID(bytes=cron_id))
            cron = cron_of(UUID(bytes=cron_id), stream)
            told = [e.body.last for e in stream if isinstance(e.body, OccurrencesMissed)]
            fresh = [m for m in missed if not told or m.first > max(told)]
            if cron is None or not fresh:
                return None
            events = [event for m in fresh for event in crons.decide(cron, m, self._clock.now())[0]]
            return crons.changes(cron.cron_id, cron, (events, ())).by(self._meta(cron))

        await execute(self._log, decide, attempts=10)
        self._timer.decided(cron_id, int(missed[-1].last.timestamp()))

    # --- ends and new rules -----------------------------------------------------------------------

    async def _expire_all(self) -> None:
        for cron_id in list(self._timer):
            await self._expire(cron_id)

    async def _expire_group(self, group: Group) -> None:
        for cron_id in self._timer.ended(group):
            await self._expire(cron_id)

    async def _expire(self, cron_id: bytes) -> None:
        """Disable a cron that has no occurrence left before its end."""
        if not self._timer.holds(cron_id) or any(entry[1] == cron_id for entry in self._delayed):
            return
        group, end = self._timer.group(cron_id), self._timer.end(cron_id)
        coming = next_after(group.schedule, group.place, self._timer.cursor(cron_id))
        if coming is not None and coming <= end:
            return

        def decide() -> Transaction | None:
            cron = cron_of(UUID(bytes=cron_id), self._log.stream(UUID(bytes=cron_id)))
            if cron is None or not cron.is_active or cron.version > self._timer.version(cron_id) > 0:
                return None
            decision = crons.decide(cron, ExpireCron(), self._clock.now())
            return crons.changes(cron.cron_id, cron, decision).by(self._meta(cron))

        if await execute(self._log, decide) is not None:
            self._timer.remove(cron_id)

    async def _reschedule(self, cron_id: bytes) -> None:
        """The zone's rules have changed since the cron was last looked at: tell what it means now."""

        def decide() -> Transaction | None:
            cron = cron_of(UUID(bytes=cron_id), self._log.stream(UUID(bytes=cron_id)))
            if cron is None or cron.tzdata == tzdata_version() or not self._timer.holds(cron_id):
                return None
            group = self._timer.group(cron_id)
            epoch = next_after(group.schedule, group.place, self._timer.cursor(cron_id))
            coming = None if epoch is None else datetime.fromtimestamp(epoch, UTC)
            decision = crons.decide(cron, RescheduleCron(next_at=coming), self._clock.now())
            return crons.changes(cron.cron_id, cron, decision).by(self._meta(cron))

        await execute(self._log, decide)

    def _meta(self, cron: Cron) -> Meta:
        cause = f"{cron.cron_id}/{cron.revision}"
        return Meta(at=self._clock.now(), actor="scheduler", cause=cause, corr=str(cron.cron_id))
