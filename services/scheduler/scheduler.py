"""The scheduler: follows the crons of the log, sleeps until the next instant, fires it."""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from contracts.events import (
    CronCreated,
    CronDeleted,
    CronPaused,
    CronRescheduled,
    CronResumed,
    CronUpdated,
    OccurrencesMissed,
    Rule,
    RuleEvent,
    RunFailed,
    RunTimedOut,
)
from contracts.ledger import Recorded
from domain.errors import InvalidSchedule, InvalidTimezone
from domain.schedule import tzdata_version
from domain.timeline import FOREVER, GRACE_S, Stretch, Timeline, shown_at, timeline_of
from projections.crons import rule_of
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.lifecycle import FAULTS, Part, Supervised
from services.kit.logs import Log
from services.kit.reads import read
from services.kit.settings import Settings
from services.kit.tenure import Tenure
from services.kit.views import Views
from services.scheduler.backfills import Backfills
from services.scheduler.backlog import Backlog
from services.scheduler.firing import BLOCK, YIELD_EVERY, Counts, Firing
from services.scheduler.plans import SQL, Plans
from services.scheduler.timer import Group, Timer

POLL_S = 0.25
PAGE = 500
PART = 5000
LOAD_S = 120.0
STALLED_S = 10.0
LEASE = "scheduler"
LEASE_S = 5.0
"""Of the one that decides: after its death the next one begins within this, after its end in order within 0.25 s."""
HANGS_S = 30.0
"""After so long in one step it may keep the lease no longer."""
KEPT_S = 20
"""How long a scheduler that stands by keeps what was due: four times as long as a dead one's lease goes on."""
AGAIN_S = 1.0
AHEAD_S = 2.0
"""Up to here a host's clock that is ahead of the store's is believed."""
MOST_SKEW_S = 5.0
TZDATA = re.compile(r"\d{4}[a-z]+", re.ASCII)
FAILED = ("run.failed.", "run.timed_out.")
_undecided = msgspec.json.Decoder(list[tuple[int, int, Rule]])
log_ = Log("scheduler")


class ReadModelBehind(Exception):
    """The read model of the crons has not come far enough yet."""


class Scheduler:
    """Fires what is due. Two of them on one log are harmless: an occurrence is decided once.

    Each step looks at what is due, then at a block of those that stand apart. What raises in between leaves
    every cursor behind what is not stored, so that the next step finds the same.
    """

    name = "scheduler"

    def __init__(
        self, log: EventLog, views: Views, clock: Clock, settings: Settings, tenure: Tenure | None = None
    ) -> None:
        """`tenure` says whether it is this one of several that decides; without one it is."""
        self._tenure = tenure
        self.decides = tenure is None
        """Whether it is this one that decides now."""
        self._log, self._views, self._clock = log, views, clock
        self._timer = Timer()
        self._plans = Plans(log, views)
        self._firing = Firing(log, self._plans, self._timer, clock)
        self._backlog = Backlog(log, views, clock, settings, self._firing, self._timer)
        self._backfills = Backfills(log, views, clock, self._timer, lambda: self._held or self._other)
        # By itself: a lease is not to end because there is much to load or to fire.
        self._renewing = Supervised("scheduler.lease", self._renew, AGAIN_S)
        self.parts: Sequence[Part] = self._backfills.parts
        if tenure is not None:
            self.parts = (self._renewing, *self.parts)
        self._position: int | None = None
        self._is_stale = True  # what is known of the crons is to be taken from the read model
        self._highest = self._turned_s = 0.0
        self._skew_s = 0.0  # of the host's clock, to the store's
        self._tzdata = ""  # the newest that anything was planned by
        self._wake, self._loaded = asyncio.Event(), asyncio.Event()
        self._loop = Supervised("scheduler", self._step, AGAIN_S)
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def started(self) -> bool:
        """True while it fires."""
        return self._loop.started and self._loaded.is_set()

    @property
    def failing(self) -> str:
        """'' when it fires, else why not."""
        due = self._timer.next_due()
        late_s = 0.0 if due is None or not self.decides else self._clock.wall_s() - due
        late = f"due for {late_s:.0f} s and not fired" if late_s > STALLED_S else ""
        return self._loop.failing or self._held or late

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
            if self._tenure is not None:
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
            self.decides = self._tenure is None
            if self._tenure is not None:
                await self._renewing.stop()
                await self._tenure.release()

    # --- the loop ---------------------------------------------------------------------------------

    async def _step(self) -> None:
        self._turned_s = self._clock.monotonic_s()
        self._wake.clear()
        if self._is_stale:
            await self._load()
        await self._follow()
        now = await self._now()
        if await self._stands_by(int(now)) or self._held:
            await self._clock.wait(self._wake, POLL_S)
            return
        await self._fire_due(int(now))
        await self._backlog.look(await self._now())
        await self._backlog.reschedule()
        await self._backlog.pause_failing(await self._now())
        await self._sleep()

    async def _renew(self) -> None:
        assert self._tenure is not None
        # One that does not go round any more must not keep the others from it.
        if self._clock.monotonic_s() - self._turned_s < HANGS_S:
            await self._tenure.renew()
        else:
            await asyncio.sleep(AGAIN_S)

    async def _stands_by(self, now: int) -> bool:
        """Whether another scheduler decides. Then this one keeps what was due in the last seconds, so that it can
        decide it all at once when the other one does not.
        """
        if self._tenure is None:
            return False
        was_ours, self.decides = self.decides, self._tenure.held
        if self.decides and not was_ours and not self._held:
            log_.info("scheduler.takes_over", lease=self._tenure.name)
            # Of those that stand apart, and of what the other one left undecided for longer, the read model knows:
            # whatever raises here, it is asked before anything else is decided.
            self._position, self._is_stale = None, True
            await self._fire_due(now)
            await self._load()
            await self._follow()
        elif not self.decides:
            while (group := self._timer.due(now - KEPT_S)) is not None:
                self._timer.pass_over(group)
                await asyncio.sleep(0)
        return not self.decides

    @property
    def _held(self) -> str:
        """Why it may decide nothing for now, '' when it may: another scheduler knows better."""
        if abs(self._skew_s) > MOST_SKEW_S:
            return f"the clock of this host is {self._skew_s:+.0f} s beside the store's"
        if self._tzdata > tzdata_version():
            return f"the crons are planned by tzdata {self._tzdata}, and this is {tzdata_version()}"
        return ""

    @property
    def _other(self) -> str:
        return "" if self.decides else "another scheduler decides"

    async def _fire_due(self, now: int) -> None:
        while (group := self._timer.due(now)) is not None:
            if group.next is not None and now - group.next > GRACE_S:
                self._timer.scatter(group, BLOCK, self._highest, await read(self._log, self._log.head))
                await asyncio.sleep(0)
                continue
            await self._fire_group(group)
            self._timer.advance(group)

    async def _fire_group(self, group: Group) -> None:
        # Nobody is always the last. By parts, because to line up 100,000 at once blocks for 200 ms.
        starts = sorted(range(0, len(group.members), PART), key=lambda start: hash((start, group.next)))
        for start in starts:
            dues = self._timer.dues(group, start, start + PART)
            dues.sort(key=lambda due: hash((due.cron_id, due.at)))
            await self._firing.fire(dues)

    async def _sleep(self) -> None:
        now = await self._now()
        looks = (self._timer.next_due(), self._timer.next_look(), now if self._backlog.moved else None)
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

    # --- loading and following --------------------------------------------------------------------

    async def _load(self) -> None:
        """Take the crons over from the read model; twice is harmless."""
        if self._position is None:
            self._position = await read(self._log, self._log.head)
        if await read(self._views, lambda: self._views.position("crons")) < self._position:
            raise ReadModelBehind(f"waiting for position {self._position}")
        last, now = b"", await self._now()
        while rows := await read(self._views, lambda: self._views.all(SQL["crons"], (last, PAGE))):  # noqa: B023
            for n, row in enumerate(rows):
                try:
                    self._take(row, now)
                except FAULTS as exc:
                    self._firing.set_aside(row["cron_id"], exc)
                if n % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            last = rows[-1]["cron_id"]
        self._is_stale = False
        self._loaded.set()
        log_.info("scheduler.loaded", crons=len(self._timer), position=self._position)

    def _take(self, row: dict[str, Any], now: float) -> None:
        cron_id, rule = row["cron_id"], rule_of(row)
        left = _undecided.decode(row["undecided"] or "[]")
        stretches = (*(Stretch(*parts) for parts in left), Stretch(row["since"], FOREVER, rule))
        self._planned_by(row["tzdata"])
        cursor, versions = row["cursor"], (row["version"], row["revision"])
        is_moved = row["tzdata"] != tzdata_version()
        if is_moved and row["wall"] is not None:
            with suppress(InvalidSchedule, InvalidTimezone):  # blocked, as the look will tell
                cursor = max(cursor, shown_at(rule, row["wall"]) or 0)
        self._timer.hold(cron_id, Timeline(stretches), cursor, *versions, row["counted"])
        if left or not self._backlog.is_settled(cron_id, int(now)):
            self._timer.look(cron_id, now)
        if rule.active and is_moved:
            self._backlog.moved.add(cron_id)
        if rule.active and row["pause_after_failures"] is not None and row["failures"]:
            self._backlog.failing[cron_id] = (0, "")

    def _planned_by(self, version: str) -> None:
        if TZDATA.fullmatch(version):
            self._tzdata = max(self._tzdata, version)

    async def _follow(self) -> None:
        head = await read(self._log, self._log.head)
        assert self._position is not None
        while self._position < head:
            events, failed, assistants = await read(self._log, partial(self._page, self._position, head))
            if assistants:
                self._plans.forget_assistants()
            for recorded in failed:
                self._failed(recorded)
            for recorded in events:
                try:
                    self._apply(recorded)
                except FAULTS as exc:
                    # What it rests on is old: nothing of it can be stored.
                    self._firing.set_aside(recorded.stream_id.bytes, exc)
            self._position = events[-1].position if len(events) == PAGE else head
            await asyncio.sleep(0)

    def _page(self, position: int, head: int) -> tuple[list[Recorded], list[Recorded], bool]:
        """The next events of crons, the failures of runs up to there, and whether an assistant has changed."""
        events = self._log.read_topics("cron.", position, head, PAGE)
        until = events[-1].position if len(events) == PAGE else head
        failed = [
            r for topic in FAILED for r in self._log.read_topics(topic, position, until, until - position)
        ]
        return events, failed, bool(self._log.read_topics("assistant.", position, head, 1))

    def _failed(self, recorded: Recorded) -> None:
        body = recorded.body
        if isinstance(body, RunFailed | RunTimedOut) and body.cron_id is not None:
            cause = f"{recorded.stream_id}/{recorded.version}"
            self._backlog.failing[body.cron_id.bytes] = (recorded.position, cause)

    def _apply(self, recorded: Recorded) -> None:
        cron_id, version, body = recorded.stream_id.bytes, recorded.version, recorded.body
        if version <= self._timer.version(cron_id):
            return
        at = int(recorded.meta.at.timestamp())
        if isinstance(body, CronCreated | CronUpdated | CronResumed | CronRescheduled):
            self._planned_by(body.tzdata)
        self._backlog.moved.discard(cron_id)
        self._firing.aside.pop(cron_id, None)  # it is told anew when it is no better
        if isinstance(body, CronCreated):
            self._timer.hold(cron_id, timeline_of(body, at), at, version, version, 0)
            self._timer.look(cron_id, 0.0)
        elif isinstance(body, CronDeleted):
            self._timer.remove(cron_id)
        elif self._timer.holds(cron_id):
            if isinstance(body, OccurrencesMissed):
                self._timer.decided(cron_id, int(body.last.timestamp()))
            elif isinstance(body, CronRescheduled) and body.decided is not None:
                self._timer.decided(cron_id, int(body.decided.timestamp()))
            elif isinstance(body, RuleEvent):
                self._timer.edited(cron_id, body, recorded.meta.at, recorded.position)
            if isinstance(body, CronUpdated) and body.pause_after_failures is not msgspec.UNSET:
                self._backlog.failing[cron_id] = (recorded.position, f"{recorded.stream_id}/{version}")
            by_client = isinstance(body, CronUpdated | CronPaused | CronResumed)
            self._timer.seen(cron_id, version, version if by_client else 0)
