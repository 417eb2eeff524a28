"""Crons that are looked at one by one: what they missed is told, what is left fires, what is over ends."""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from uuid import UUID

import msgspec

from contracts.events import CronEvent, CronExpired, CronPaused, CronRescheduled, CronResumed, Rule, RuleEvent
from contracts.ledger import Append, Expect, Meta, Transaction
from domain.cron import resume
from domain.errors import InvalidSchedule, InvalidTimezone
from domain.identity import run_id_of
from domain.schedule import occurrences, parse_canonical, tzdata_version, zone
from domain.timeline import (
    GRACE_S,
    Due,
    Fire,
    Miss,
    Timeline,
    exhausted,
    fires_at,
    missed,
    newest_of,
    next_of,
    resumes_at,
    start_of,
    undecided,
)
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.lifecycle import FAULTS
from services.kit.logs import Log
from services.kit.reads import read
from services.kit.settings import Settings
from services.kit.views import Views
from services.scheduler.firing import Firing
from services.scheduler.partitions import NEVER
from services.scheduler.plans import SQL
from services.scheduler.timer import Timer

BLOCK = 200
"""Fewer than of due crons: each look is a dozen calls of the schedule kernel, and due work comes in between."""
YIELD_EVERY = 50
BEHIND_S = 0.5
"""When to look again whether the read model has come far enough."""
PACE_S = 0.1
"""Between two catch-ups of one cron."""
GUARD_S = 10
"""Another scheduler may be storing a run of the last instants of a stretch, and of no older ones."""
log_ = Log("scheduler")


class Look(msgspec.Struct, frozen=True):
    """What a cron needs now: events of its own, the instant up to which these decide, and what fires then."""

    cron_id: bytes
    bodies: tuple[CronEvent, ...] = ()
    until: int = 0
    guards: tuple[Expect, ...] = ()
    fire: Fire | None = None
    coming: int | None = None  # the next instant of the rule in force
    cause: str = ""  # the event that led to it; '': the newest of the cron that a client caused


class Backlog:
    """Looks at those that stand apart in the timer, a block at a time."""

    def __init__(
        self, log: EventLog, views: Views, clock: Clock, settings: Settings, firing: Firing, timer: Timer
    ) -> None:
        self._log, self._views, self._clock, self._settings = log, views, clock, settings
        self._firing, self._timer = firing, timer
        self._backfilled: set[UUID] = set()
        """Runs that were begun before the schedule could tell why it had none."""

    @property
    def has_moved(self) -> bool:
        """Whether there are crons to be told of the new rules of their zone."""
        return any(partition.moved for partition in self._timer.our_partitions)

    async def look(self, now: float) -> None:
        """Look at a block of those whose turn it is. Whatever raises, they are looked at again."""
        cron_ids = await self._sure(self._timer.to_look_at(now, BLOCK), now)
        looks: list[Look] = []
        for n, cron_id in enumerate(cron_ids, 1):
            if (look := self._look(cron_id, now)) is not None:
                looks.append(look)
            if n % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        told = await self._tell([look for look in looks if look.bodies])
        fires = [look for look in looks if look.fire and (not look.bodies or look.cron_id in told)]
        for look in fires:
            assert look.fire is not None
            self._timer.apart(look.cron_id).tried = look.fire.due
        await self._firing.fire([self._due(look) for look in fires])

    async def reschedule(self) -> None:
        """Tell of a block of crons what the new rules of their zone mean for them."""
        looks: list[Look] = []
        moved = chain.from_iterable(partition.moved for partition in self._timer.our_partitions)
        for cron_id in list(islice(moved, BLOCK)):
            try:
                at = next_of(self._timer.rule(cron_id), self._timer.cursor(cron_id))
            except (InvalidSchedule, InvalidTimezone, *FAULTS):
                self._timer.partition(cron_id).moved.discard(
                    cron_id
                )  # its zone has no rules any more: blocked, as the look will tell
                continue
            decided = _instant(self._timer.cursor(cron_id))
            body = CronRescheduled(next_at=_instant(at), tzdata=tzdata_version(), decided=decided)
            looks.append(Look(cron_id, (body,)))
        for cron_id in await self._tell(looks):
            self._timer.partition(cron_id).moved.discard(cron_id)

    async def pause_failing(self, now: float) -> None:
        """Pause those of which as many runs in a row have failed as they allow."""
        failing = chain.from_iterable(partition.failing.items() for partition in self._timer.our_partitions)
        some = dict(islice(failing, BLOCK))
        if not some:
            return
        position = await read(self._views, lambda: self._views.position("crons"))
        known = [cron_id for cron_id, (needed, _) in some.items() if needed <= position]
        query = SQL["failing"].format(marks=",".join("?" * len(known)))
        rows = await read(self._views, lambda: self._views.all(query, known)) if known else []
        looks = [
            self._pause(row["cron_id"], row["failures"], int(now), some[row["cron_id"]][1])
            for row in rows
            if row["version"] == self._timer.version(row["cron_id"])
        ]
        # Who was edited meanwhile is asked about again.
        again = {row["cron_id"] for row in rows} - await self._tell(looks)
        for cron_id in set(known) - again:
            self._timer.partition(cron_id).failing.pop(cron_id, None)

    def _pause(self, cron_id: bytes, failures: int, now: int, cause: str) -> Look:
        rule = self._timer.rule(cron_id)
        newest = newest_of(rule, self._timer.cursor(cron_id), now)
        paused = CronPaused(
            rule=msgspec.structs.replace(rule, active=False),
            newest=_instant(newest),
            note=f"it paused itself: its last {failures} runs failed",
        )
        return Look(cron_id, (paused,), cause=cause)

    async def _sure(self, cron_ids: Sequence[bytes], now: float) -> list[bytes]:
        """Those whose cursor is known. Of others another scheduler may know more, while this one stood still: its
        cursors are taken over, as soon as the read model has come so far; until then they are put off alone.
        """
        apart = {cron_id: self._timer.apart(cron_id) for cron_id in cron_ids}
        position = 0
        if any(a.sure for a in apart.values()):
            position = await read(self._views, lambda: self._views.position("crons"))
        doubted = [cron_id for cron_id, a in apart.items() if 0 < a.sure <= position]
        query = SQL["cursors"].format(marks=",".join("?" * len(doubted)))
        for row in await read(self._views, lambda: self._views.all(query, doubted)) if doubted else ():
            self._timer.decided(row["cron_id"], row["cursor"])
            apart[row["cron_id"]].runs = max(row["counted"], apart[row["cron_id"]].runs or 0)
        for cron_id in doubted:
            apart[cron_id].sure = 0
        for cron_id in (c for c, a in apart.items() if a.sure):
            self._timer.look(cron_id, now + BEHIND_S)
        return [cron_id for cron_id, a in apart.items() if not a.sure]

    def _look(self, cron_id: bytes, now: float) -> Look | None:
        try:
            return self._needs(cron_id, now) or self._rest(cron_id, int(now))
        except (InvalidSchedule, InvalidTimezone) as exc:
            # Never UTC by default: it would fire at a wrong hour and nobody would know.
            log_.error("scheduler.blocked", cron=UUID(bytes=cron_id), error=exc)
            self._timer.look(cron_id, NEVER)
        except FAULTS as exc:
            self._firing.set_aside(cron_id, exc)
        return None

    def _needs(self, cron_id: bytes, now: float) -> Look | None:
        """What is undecided: stretches to be told, then the first one that fires; None when nothing is."""
        apart, cursor = self._timer.apart(cron_id), self._timer.cursor(cron_id)
        timeline, present = apart.timeline, apart.timeline.present.rule
        if present.max_runs is not None and (apart.runs or 0) >= present.max_runs:
            return Look(cron_id, (exhausted(present, cursor, apart.runs or 0),)) if present.active else None
        if not present.active and resumes_at(present) <= now:
            newest = newest_of(present, timeline.present.after, int(now))
            return Look(cron_id, (resume(present, _instant(newest), _moment(int(now))),))
        misses: list[Miss] = []
        fire: Fire | None = None
        for decision in undecided(timeline, cursor, now, self._settings.catch_up_window_s, cron_id):
            if isinstance(decision, Fire):
                fire = decision
                break
            misses.append(decision)
        if not misses and fire is None:
            return None
        coming = next_of(present, int(now))
        if fire is not None and not self._is_ripe(cron_id, fire, now, coming):
            fire = None
        next_at = _instant(coming) if present.active else msgspec.UNSET
        return Look(
            cron_id,
            tuple(missed(miss, self._timer.revision(cron_id), next_at) for miss in misses),
            misses[-1].last if misses else 0,
            tuple(
                guard
                for guard in _guards(cron_id, timeline, misses, apart.tried)
                if guard.stream_id not in self._backfilled
            ),
            fire,
            coming,
        )

    def _is_ripe(self, cron_id: bytes, fire: Fire, now: float, coming: int | None) -> bool:
        """Catch-ups are spread, lest a restart begins every agent at once, and those of one cron are paced; before the next occurrence
        the first of them is.
        """
        if fire.kind != "catch_up":
            return True
        apart = self._timer.apart(cron_id)
        if apart.ripe[0] != fire.due:
            share = int.from_bytes(hashlib.blake2b(cron_id, digest_size=4).digest(), "big") / 2**32
            ready = now + share * self._settings.catch_up_spread_s
            ready = ready if coming is None else min(ready, coming - 1.0)
            if apart.ripe[1] > now - GRACE_S:  # one of several: those before it were spread
                ready = max(now, apart.ripe[1] + PACE_S)
            apart.ripe = (fire.due, ready)
        if apart.ripe[1] <= now:
            return True
        self._timer.look(cron_id, apart.ripe[1])
        return False

    def _rest(self, cron_id: bytes, now: int) -> Look | None:
        """Nothing is undecided: it goes to its group, or rests, or is over."""
        if self._timer.settle(cron_id, now):
            return None
        present = self._timer.apart(cron_id).timeline.present
        if (resumes := resumes_at(present.rule)) > now:
            self._timer.look(cron_id, float(resumes))
            return None
        coming = next_of(present.rule, self._timer.cursor(cron_id))
        if coming is not None and now < start_of(present.rule):
            self._timer.look(cron_id, float(start_of(present.rule)))
            return None
        if present.after > now:
            self._timer.look(cron_id, now + 1.0)  # edited by a clock that is ahead of ours
            return None
        if coming is not None:
            at = fires_at(present.rule, cron_id, coming)
            self._timer.look(cron_id, at if at > now else now + 1.0)
            return None
        self._timer.look(cron_id, 0.0)
        return Look(cron_id, (CronExpired(rule=msgspec.structs.replace(present.rule, active=False)),))

    async def _tell(self, looks: Sequence[Look]) -> set[bytes]:
        """Append to the crons' own streams, all in one commit; the crons of which it is stored."""
        told: set[bytes] = set()
        meta_at = self._clock.now()
        txs = [self._transaction(look, meta_at) for look in looks]
        outcomes = await self._log.append_many(txs) if txs else []
        for look, outcome in zip(looks, outcomes, strict=True):
            if isinstance(outcome, int):
                told.add(look.cron_id)
                self._told(look, meta_at, outcome)
            elif outcome.stream_id != UUID(bytes=look.cron_id):
                # Somebody else fired one of them; of a backfill no cursor will tell.
                events = await read(self._log, partial(self._log.stream, outcome.stream_id))
                if events and getattr(events[0].body, "backfill_id", None) is not None:
                    self._backfilled.add(outcome.stream_id)
                self._timer.apart(look.cron_id).sure = await read(self._log, self._log.head)
        return told

    def _told(self, look: Look, at: datetime, position: int) -> None:
        self._timer.decided(look.cron_id, look.until)
        last, version = look.bodies[-1], self._timer.version(look.cron_id) + len(look.bodies)
        is_revision = isinstance(last, CronPaused | CronResumed)
        self._timer.seen(look.cron_id, version, version if is_revision else 0)
        if isinstance(last, RuleEvent):
            self._timer.edited(look.cron_id, last, at, position)

    def _transaction(self, look: Look, at: datetime) -> Transaction:
        cron_id, version = UUID(bytes=look.cron_id), self._timer.version(look.cron_id)
        cause = look.cause or f"{cron_id}/{self._timer.revision(look.cron_id)}"
        meta = Meta(at=at, actor="scheduler", cause=cause, corr=str(cron_id))
        return Transaction(meta=meta, appends=(Append(cron_id, version, look.bodies),), expects=look.guards)

    def _due(self, look: Look) -> Due:
        assert look.fire is not None
        timer, fire, apart = self._timer, look.fire, self._timer.apart(look.cron_id)
        present, planned = apart.timeline.present.rule, _rule_at(apart.timeline, fire.due)
        runs = None if present.max_runs is None else (apart.runs or 0) + 1
        return Due(
            look.cron_id,
            fire.due,
            fire.local,
            fire.kind,
            look.coming,
            timer.version(look.cron_id),
            timer.revision(look.cron_id),
            fires_at(planned, look.cron_id, fire.due) if planned.jitter_s else None,
            runs is not None,
            exhausted(present, fire.due, runs) if runs is not None and runs == present.max_runs else None,
        )


def _rule_at(timeline: Timeline, due: int) -> Rule:
    return next(stretch.rule for stretch in timeline.stretches if stretch.after < due <= stretch.until)


def _guards(cron_id: bytes, timeline: Timeline, misses: Sequence[Miss], tried: int) -> Iterator[Expect]:
    """That nobody has fired the last ones of a stretch, nor we the one that we have tried. Nobody fires what is paused,
    unless it waited for its time.
    """
    for miss in misses:
        rule = _rule_at(timeline, miss.last)
        if miss.first <= tried <= miss.last:
            yield Expect(run_id_of(UUID(bytes=cron_id), tried), 0)
        if miss.reason == "paused" and not rule.jitter_s:
            continue
        schedule, place = parse_canonical(rule.canonical), zone(rule.timezone)
        after = max(miss.first - 1, miss.last - GUARD_S)
        for due in occurrences(schedule, place, after, miss.last):
            if due != tried:
                yield Expect(run_id_of(UUID(bytes=cron_id), due), 0)


def _instant(epoch: int | None) -> datetime | None:
    return None if epoch is None else _moment(epoch)


def _moment(epoch: int) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)
