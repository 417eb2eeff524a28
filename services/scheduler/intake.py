"""What the read model and the log say of the crons, into the timer."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

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
from domain.timeline import FOREVER, Stretch, Timeline, shown_at, timeline_of
from projections.crons import rule_of
from services.kit.eventlog import EventLog
from services.kit.lifecycle import FAULTS
from services.kit.logs import Log
from services.kit.reads import read
from services.kit.views import Row, Views
from services.scheduler.firing import YIELD_EVERY, Firing
from services.scheduler.plans import SQL, Plans
from services.scheduler.timer import Timer

PAGE = 500
KEPT_S = 20
"""How long what others decide is kept due here: four times as long as a dead one's lease goes on. The groups of their
crons are so much behind.
"""
BEHIND_S = 0.5
"""When to look again whether the read model has come far enough."""
UNSETTLED_S = 300.0
"""When to look again at one of others' crons that has no place in a group."""
TZDATA = re.compile(r"\d{4}[a-z]+", re.ASCII)
FAILED = ("run.failed.", "run.timed_out.")
_undecided = msgspec.json.Decoder(list[tuple[int, int, Rule]])
log_ = Log("scheduler")


class Intake:
    """Loads every cron, then follows the log. What is raised in between is found again by the next call."""

    def __init__(self, log: EventLog, views: Views, timer: Timer, plans: Plans, firing: Firing) -> None:
        self._log, self._views, self._timer, self._plans, self._firing = log, views, timer, plans, firing
        self._position: int | None = None
        self.tzdata = ""
        """The newest that anything was planned by."""
        self.waits = ""
        """What the load waits for."""

    async def load(self, now: float) -> bool:
        """Take the crons from the read model, twice is harmless; false when it has not come far enough yet."""
        if self._position is None:
            self._position = await read(self._log, self._log.head)
        self.waits = f"the read model of the crons has not come to position {self._position}"
        if await read(self._views, lambda: self._views.position("crons")) < self._position:
            return False
        self.waits = ""
        last = b""
        while rows := await read(self._views, lambda: self._views.all(SQL["crons"], (last, PAGE))):  # noqa: B023
            await self.take(rows, now)
            last = rows[-1]["cron_id"]
        log_.info("scheduler.loaded", crons=len(self._timer), position=self._position)
        return True

    async def refresh(self, cron_ids: Sequence[bytes], now: float) -> None:
        """Take these anew, as far as the read model has what is known of them here."""
        query = SQL["crons_of"].format(marks=",".join("?" * len(cron_ids)))
        rows = await read(self._views, lambda: self._views.all(query, cron_ids)) if cron_ids else []
        known = [row for row in rows if row["version"] >= self._timer.version(row["cron_id"]) > 0]
        for cron_id in {*cron_ids} - {row["cron_id"] for row in known}:
            if self._timer.stands_apart(cron_id):
                self._timer.look(cron_id, now + BEHIND_S)
        await self.take(known, now)

    async def take(self, rows: Sequence[Row], now: float) -> None:
        """Hold the crons of these rows; what was known of them is forgotten."""
        for n, row in enumerate(rows):
            try:
                self._take(row, now)
            except FAULTS as exc:
                self._firing.set_aside(row["cron_id"], exc)
            if n % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def follow(self) -> None:
        """Bring the timer up to the log's head."""
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
        is_ours, partition = self._timer.is_ours(cron_id), self._timer.partition(cron_id)
        if left or not self._is_settled(cron_id, int(now) if is_ours else int(now) - KEPT_S):
            again_s = KEPT_S if row["since"] > now - KEPT_S else UNSETTLED_S
            self._timer.look(cron_id, now if is_ours else now + again_s)
        if rule.active and is_moved:
            partition.moved.add(cron_id)
        if rule.active and row["pause_after_failures"] is not None and row["failures"]:
            partition.failing[cron_id] = (0, "")

    def _is_settled(self, cron_id: bytes, now: int) -> bool:
        """Whether a cron that was just taken in has its place already, because it is not behind."""
        try:
            return self._timer.settle(cron_id, now)
        except (InvalidSchedule, InvalidTimezone, *FAULTS):
            return False  # the look will tell

    def _planned_by(self, version: str) -> None:
        if TZDATA.fullmatch(version):
            self.tzdata = max(self.tzdata, version)

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
            cron_id, cause = body.cron_id.bytes, f"{recorded.stream_id}/{recorded.version}"
            self._timer.partition(cron_id).failing[cron_id] = (recorded.position, cause)

    def _apply(self, recorded: Recorded) -> None:
        cron_id, version, body = recorded.stream_id.bytes, recorded.version, recorded.body
        if version <= self._timer.version(cron_id):
            return
        at, partition = int(recorded.meta.at.timestamp()), self._timer.partition(cron_id)
        if isinstance(body, CronCreated | CronUpdated | CronResumed | CronRescheduled):
            self._planned_by(body.tzdata)
        partition.moved.discard(cron_id)
        self._firing.aside.pop(cron_id, None)  # it is told anew when it is no better
        if isinstance(body, CronCreated):
            self._timer.hold(cron_id, timeline_of(body, at), at, version, version, 0)
            self._timer.look(cron_id, 0.0)
        elif isinstance(body, CronDeleted):
            self._timer.remove(cron_id)
            partition.failing.pop(cron_id, None)
        elif self._timer.holds(cron_id):
            if isinstance(body, OccurrencesMissed):
                self._timer.decided(cron_id, int(body.last.timestamp()))
            elif isinstance(body, CronRescheduled) and body.decided is not None:
                self._timer.decided(cron_id, int(body.decided.timestamp()))
            elif isinstance(body, RuleEvent):
                self._timer.edited(cron_id, body, recorded.meta.at, recorded.position)
            if isinstance(body, CronUpdated) and body.pause_after_failures is not msgspec.UNSET:
                partition.failing[cron_id] = (recorded.position, f"{recorded.stream_id}/{version}")
            by_client = isinstance(body, CronUpdated | CronPaused | CronResumed)
            self._timer.seen(cron_id, version, version if by_client else 0)
