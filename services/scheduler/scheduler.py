"""The scheduler: follows the crons of the log, sleeps until the next instant, fires it."""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from uuid import UUID

from domain.schedule import tzdata_version
from domain.timeline import GRACE_S, Due
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Part, Supervised
from services.kit.reads import read
from services.kit.settings import Settings
from services.kit.tenure import Membership
from services.kit.views import Views
from services.scheduler.backfills import Backfills
from services.scheduler.backlog import Backlog
from services.scheduler.firing import BLOCK, Counts, Firing
from services.scheduler.intake import Intake
from services.scheduler.partitions import EVERY, Group, partitions_of
from services.scheduler.plans import Plans
from services.scheduler.standby import Standby
from services.scheduler.timer import Timer

POLL_S = 0.25
PART = 5000
LOAD_S = 120.0
STALLED_S = 10.0
LEASE = "scheduler"
LEASE_S = 5.0
"""Of one that decides: after its death the others begin within this, after its end in order within 0.25 s."""
HANGS_S = 30.0
"""After so long without a step that was done, or a part of what is due, it may keep the lease no longer."""
AGAIN_S = 1.0
BUSY_S = 0.01
"""Between two steps of what can be done in steps."""
AHEAD_S = 2.0
"""Up to here a host's clock that is ahead of the store's is believed."""
MOST_SKEW_S = 5.0
_partitions_of = lru_cache(16)(partitions_of)


class Scheduler:
    """Fires what is due in its partitions. Two that decide the same are harmless: an occurrence is decided once.

    Each step looks at what is due, then at a block of those that stand apart, then at what others decide. What
    raises in between leaves every cursor behind what is not stored, so that the next step finds the same.
    """

    name = "scheduler"

    def __init__(
        self, log: EventLog, views: Views, clock: Clock, settings: Settings, members: Membership | None = None
    ) -> None:
        """`members` are the schedulers that share the crons; without them it is this one that decides all."""
        self._members = members
        self._log, self._views, self._clock = log, views, clock
        self._timer = Timer()
        if members is not None:
            self._timer.own(frozenset(), 0.0, 0)
        plans = Plans(log, views)
        self._firing = Firing(log, plans, self._timer, clock)
        self._intake = Intake(log, views, self._timer, plans, self._firing)
        self._standby = Standby(log, views, clock, self._timer, self._intake)
        self._backlog = Backlog(log, views, clock, settings, self._firing, self._timer)
        self._backfills = Backfills(log, views, clock, self._timer, lambda: self._held)
        # By itself: a lease is not to end because there is much to load or to fire.
        self._renewing = Supervised("scheduler.lease", self._renew, AGAIN_S)
        self.parts: Sequence[Part] = self._backfills.parts
        if members is not None:
            self.parts = (self._renewing, *self.parts)
        self._highest = self._progressed_s = 0.0
        self._skew_s = 0.0  # of the host's clock, to the store's
        self._wake, self._loaded = asyncio.Event(), asyncio.Event()
        self._loop = Supervised("scheduler", self._step, AGAIN_S)
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def started(self) -> bool:
        """True while it fires, or stands by."""
        return self._loop.started and self._loaded.is_set()

    @property
    def partitions(self) -> frozenset[int]:
        """Those that it decides now."""
        return self._timer.ours

    @property
    def failing(self) -> str:
        """'' when it fires, else why not."""
        due = self._timer.next_due()
        late_s = 0.0 if due is None else self._clock.wall_s() - due
        late = f"due for {late_s:.0f} s and not fired" if late_s > STALLED_S else ""
        if not late and (waiting_s := self._standby.waiting_s) > STALLED_S:
            late = f"taking crons over for {waiting_s:.0f} s"
        return self._loop.failing or self._held or self._intake.waits or late

    @property
    def notice(self) -> str:
        """How many crons are passed over because they can't be dealt with, and why the first of them."""
        aside = self._firing.aside
        first = next(iter(aside), None)
        return "" if first is None else f"{len(aside)} crons set aside: {UUID(bytes=first)}: {aside[first]}"

    @property
    def counts(self) -> Counts:
        """What has happened since the start."""
        return self._firing.counts

    async def start(self) -> None:
        """Load the crons and begin to fire. Raises TimeoutError when they can't be loaded."""
        if self._unsubscribe is not None:
            return
        self._unsubscribe = self._log.on_commit(lambda _: self._wake.set())
        try:
            await self._loop.start()
            async with asyncio.timeout(LOAD_S):
                await self._loaded.wait()
            await self._backfills.start()
            if self._members is not None:
                await self._renewing.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End; what is undecided is decided at the next start."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
            await self._backfills.stop()
            await self._loop.stop()
            if self._members is not None:
                self._timer.own(frozenset(), 0.0, 0)
                await self._renewing.stop()
                await self._members.release()

    # --- the loop ---------------------------------------------------------------------------------

    async def _step(self) -> None:
        self._wake.clear()
        if not self._loaded.is_set() and not await self._intake.load(await self._now()):
            await self._clock.wait(self._wake, POLL_S)
            return
        self._loaded.set()
        self._progressed()
        await self._intake.follow()
        now, wanted = await self._now(), self._wanted
        self._lose(self._timer.ours - wanted, now)
        if wanted:
            await self._fire_due(int(now))
            await self._backlog.look(await self._now())
            await self._backlog.reschedule()
            await self._backlog.pause_failing(await self._now())
        await self._standby.keep_up(wanted, await self._now())
        self._progressed()
        await self._sleep()

    def _progressed(self) -> None:
        self._progressed_s = self._clock.monotonic_s()

    async def _renew(self) -> None:
        assert self._members is not None
        # One that gets nothing done any more, or may decide nothing, must not keep the others from it.
        if self._clock.monotonic_s() - self._progressed_s < HANGS_S and not self._held:
            await self._members.renew()
        else:
            await self._members.release()
            await asyncio.sleep(AGAIN_S)

    @property
    def _wanted(self) -> frozenset[int]:
        """The partitions that are its own by what it knows of the others."""
        if self._held:
            return frozenset()
        return EVERY if self._members is None else _partitions_of(self._members.name, self._members.members)

    def _lose(self, partitions: frozenset[int], now: float) -> None:
        """Others decide these from now on."""
        if partitions:
            self._timer.own(self._timer.ours - partitions, now, 0)
            for cron_id in [c for c in self._firing.aside if not self._timer.is_ours(c)]:
                del self._firing.aside[cron_id]

    @property
    def _held(self) -> str:
        """Why it may decide nothing for now, '' when it may: another scheduler knows better."""
        if abs(self._skew_s) > MOST_SKEW_S:
            return f"the clock of this host is {self._skew_s:+.0f} s beside the store's"
        if self._intake.tzdata > tzdata_version():
            return f"the crons are planned by tzdata {self._intake.tzdata}, and this is {tzdata_version()}"
        return ""

    async def _fire_due(self, now: int) -> None:
        while groups := self._timer.due(now):
            recent: list[Group] = []
            for group in groups:
                assert group.next is not None
                if now - group.next <= GRACE_S:
                    recent.append(group)
                    continue
                self._timer.scatter(group, BLOCK, self._highest, await read(self._log, self._log.head))
                await asyncio.sleep(0)
            await self._fire_groups(recent)
            for group in recent:
                self._timer.advance(group)

    async def _fire_groups(self, groups: Sequence[Group]) -> None:
        """All that is due, across the groups: it shares blocks and commits."""
        # By parts, because to line up 100,000 at once blocks for 200 ms; the oldest first, and nobody is always the last.
        parts = [(group, start) for group in groups for start in range(0, len(group.members), PART)]
        parts.sort(key=lambda part: (part[0].next, hash((id(part[0]), part[1], part[0].next))))
        dues: list[Due] = []
        for group, start in parts:
            dues += self._timer.dues(group, start, start + PART)
            if len(dues) >= PART:
                await self._firing.fire(_shuffled(dues))
                self._progressed()
                dues = []
        await self._firing.fire(_shuffled(dues))

    async def _sleep(self) -> None:
        now = await self._now()
        looks = [self._timer.next_due(), self._timer.next_look(), now if self._backlog.has_moved else None]
        looks.append(now + BUSY_S if self._standby.is_busy else None)
        until = min([now + POLL_S, *(at for at in looks if at is not None)])
        if until > now:
            await self._clock.wait(self._wake, until - now)
        else:
            await asyncio.sleep(0)

    async def _now(self) -> float:
        """Seconds that have come by the host's clock and by the store's; never backwards."""
        stores = await read(self._log, self._log.clock)
        wall = self._clock.wall_s()
        self._skew_s = wall - stores.timestamp()
        if abs(self._skew_s) <= MOST_SKEW_S:
            self._highest = max(self._highest, min(wall, stores.timestamp() + AHEAD_S))
        return self._highest


def _shuffled(dues: list[Due]) -> list[Due]:
    return sorted(dues, key=lambda due: (due.at, hash((due.cron_id, due.at))))
