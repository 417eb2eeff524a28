"""The crons that other schedulers decide: kept ready, and taken over when they decide them no longer."""

import asyncio

import msgspec

from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.logs import Log
from services.kit.reads import read
from services.kit.views import Views
from services.scheduler.intake import KEPT_S, PAGE, Intake
from services.scheduler.partitions import partition_of
from services.scheduler.plans import SQL
from services.scheduler.timer import Timer

COMPARED = 5000
"""Cursors that are compared in one go."""
log_ = Log("scheduler")


class Takeover(msgspec.Struct):
    """Partitions that are to be ours, and how far they have been compared with the read model."""

    partitions: frozenset[int]
    since_s: float
    position: int
    last: bytes = b""


class Standby:
    """Others' crons stay in their groups, as if their owner had decided all that is older than KEPT_S.

    Nobody's word is taken for it: before a partition is ours, each of its cursors is compared with the read model,
    as far as that was when its owner had gone. What he left undecided is then looked at alone, and what was due in
    the last seconds is decided by whole groups.
    """

    def __init__(self, log: EventLog, views: Views, clock: Clock, timer: Timer, intake: Intake) -> None:
        self._log, self._views, self._clock = log, views, clock
        self._timer, self._intake = timer, intake
        self._takeover: Takeover | None = None
        self.is_busy = False
        """There is more to do than was done in the last step."""

    @property
    def waiting_s(self) -> float:
        """How long there have been partitions that should be ours and are not."""
        return 0.0 if self._takeover is None else self._clock.monotonic_s() - self._takeover.since_s

    async def keep_up(self, wanted: frozenset[int], now: float) -> None:
        """A step towards having the `wanted` partitions; the others are kept ready."""
        await self._follow_groups(int(now) - KEPT_S)
        others = self._timer.other_partitions
        cron_ids = self._timer.to_look_at(now, PAGE, others) if others else []
        await self._intake.refresh(cron_ids, now)
        self.is_busy = len(cron_ids) == PAGE
        await self._take_over(wanted, now)

    async def _follow_groups(self, until: int) -> None:
        taken = frozenset[int]() if self._takeover is None else self._takeover.partitions
        while groups := self._timer.due_elsewhere(until, taken):
            for group in groups:
                self._timer.pass_over(group)
                await asyncio.sleep(0)

    async def _take_over(self, wanted: frozenset[int], now: float) -> None:
        gained = wanted - self._timer.ours
        if not gained:
            self._takeover = None
            return
        if self._takeover is None or self._takeover.partitions != gained:
            # What the former owner has stored is in the log by now; whatever comes later changes nothing.
            head = await read(self._log, self._log.head)
            self._takeover = Takeover(gained, self._clock.monotonic_s(), head)
        takeover = self._takeover
        if await read(self._views, lambda: self._views.position("crons")) < takeover.position:
            return
        self.is_busy = True
        if await self._compared(takeover, now):
            log_.info("scheduler.takes_over", partitions=len(gained), of=len(wanted), crons=len(self._timer))
            self._timer.own(wanted, now, takeover.position)
            self._takeover = None

    async def _compared(self, takeover: Takeover, now: float) -> bool:
        """Compare a page; whether it was the last one."""
        page = (takeover.last, COMPARED)
        rows = await read(self._views, lambda: self._views.all(SQL["active_cursors"], page))
        behind: list[bytes] = []
        for row in rows:
            cron_id, cursor = row["cron_id"], row["cursor"]
            if partition_of(cron_id) not in takeover.partitions or not self._timer.is_grouped(cron_id):
                continue
            if cursor < self._timer.cursor(cron_id):
                behind.append(cron_id)
            self._timer.decided(cron_id, cursor)
        for start in range(0, len(behind), PAGE):
            await self._intake.refresh(behind[start : start + PAGE], now)
        if rows:
            takeover.last = rows[-1]["cron_id"]
        return len(rows) < COMPARED
