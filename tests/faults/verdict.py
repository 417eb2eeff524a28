"""What must hold whatever failed, read off the ledger and the read models alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec

from contracts.codec import EventCodec
from contracts.events import (
    CronCreated,
    CronDeleted,
    CronExpired,
    CronPaused,
    CronResumed,
    CronUpdated,
    LaneChanged,
    OccurrenceMissed,
    OccurrenceSkipped,
    OccurrencesMissed,
    RunRequested,
    RunRolledBack,
    RunStarted,
    Settled,
)
from contracts.ledger import Recorded
from domain.schedule import occurrences, parse_canonical, zone
from services.kit.eventlog.sqlite import SqliteReader

Counts = dict[UUID, Counter[int]]
MOST = 100_000


def ledger(path: Path) -> list[Recorded]:
    """Every event of a ledger file, read beside whoever writes it."""
    reader = SqliteReader(path, EventCodec())
    try:
        return reader.read(0, 1_000_000)
    finally:
        reader.close_readers()


class Rule:
    """When a cron is due, as its events say one after the other. Seconds since the epoch throughout."""

    def __init__(self, created: CronCreated, at: int) -> None:
        self._canonical, self._timezone, self._end = created.canonical, created.timezone, created.end_time
        self._since, self._paused = at, not created.enabled
        self.due: set[int] = set()
        self.covered: set[int] = set()  # by a pause that goes on: told of when it is resumed
        self.edges: set[int] = set()
        self.deleted = False

    def take(self, event: Recorded) -> None:
        """Go on to the next event of its stream."""
        if isinstance(event.body, OccurrencesMissed):
            return
        at = int(event.meta.at.timestamp())
        self.reach(at)
        self.edges.add(at + 1)  # what came due while the change was on its way into the log may have fired
        match event.body:
            case CronUpdated() as body:
                self._change(body)
            case CronPaused() | CronExpired():
                self._paused = True
            case CronResumed():
                self.due |= self.covered
                self.covered, self._paused = set(), False
            case CronDeleted():
                self._paused = self.deleted = True

    def reach(self, until: int) -> None:
        """Count what is due up to then."""
        if until <= self._since:
            return
        last = until if self._end is None else min(until, int(self._end.timestamp()))
        found = occurrences(parse_canonical(self._canonical), zone(self._timezone), self._since, last, MOST)
        (self.covered if self._paused else self.due).update(found)
        self._since = until

    def _change(self, body: CronUpdated) -> None:
        if body.canonical is not msgspec.UNSET:
            self._canonical = body.canonical
        if body.timezone is not msgspec.UNSET:
            self._timezone = body.timezone
        if body.end_time is not msgspec.UNSET:
            self._end = body.end_time


def rules(recorded: Iterable[Recorded], until: int) -> dict[UUID, Rule]:
    """What each cron that ever was is due at, up to `until`."""
    found: dict[UUID, Rule] = {}
    for event in recorded:
        if isinstance(event.body, CronCreated):
            found[event.stream_id] = Rule(event.body, int(event.meta.at.timestamp()))
        elif event.topic.startswith("cron.") and event.stream_id in found:
            found[event.stream_id].take(event)
    for rule in found.values():
        rule.reach(until)
    return found


def told(recorded: Iterable[Recorded], due: dict[UUID, Rule]) -> Counts:
    """Cron -> how often the ledger tells of each second: fired, skipped or missed."""
    counts: Counts = {cron_id: Counter() for cron_id in due}
    for event in recorded:
        match event.body:
            case (
                RunRequested(cron_id=UUID() as cron, scheduled_for=at)
                | OccurrenceSkipped(cron_id=UUID() as cron, scheduled_for=at)
                | OccurrenceMissed(cron_id=UUID() as cron, scheduled_for=at)
            ) if at is not None:
                counts[cron][int(at.timestamp())] += 1
            case OccurrencesMissed() as body:
                counts[event.stream_id].update(_stretch(body, counts[event.stream_id], due[event.stream_id]))
    return counts


def fired(recorded: Iterable[Recorded]) -> dict[UUID, set[int]]:
    """Cron -> the seconds for which it has a run."""
    found: dict[UUID, set[int]] = defaultdict(set)
    for event in recorded:
        match event.body:
            case RunRequested(cron_id=UUID() as cron, scheduled_for=at) if at is not None:
                found[cron].add(int(at.timestamp()))
    return found


def _stretch(body: OccurrencesMissed, known: Counter[int], rule: Rule) -> list[int]:
    """The seconds that a block of missed ones means; those decided one by one are not of it, if it counts so."""
    first, last = int(body.first.timestamp()), int(body.last.timestamp())
    every = [at for at in sorted(rule.due | rule.covered) if first <= at <= last]
    fresh = [at for at in every if not known[at]]
    return fresh if len(fresh) == body.count else every


def untrue(recorded: list[Recorded], until: int) -> list[str]:
    """What the ledger tells wrongly of occurrences up to then; empty when each is told once, and no later one."""
    due = rules(recorded, until)
    ran = fired(recorded)
    faults: list[str] = []
    for cron_id, counts in told(recorded, due).items():
        rule = due[cron_id]
        doubled = sorted(at for at, times in counts.items() if times > 1)
        strange = sorted((ran[cron_id] | counts.keys() - rule.covered) - rule.due - rule.edges)
        for word, ats in (("lost", _lost(rule, counts)), ("doubled", doubled), ("strange", strange)):
            if ats:
                faults.append(f"{word}: {len(ats)} of cron {cron_id}, {', '.join(map(shown, ats[:5]))}")
    return faults


def untold(recorded: list[Recorded], until: int) -> int:
    """How many occurrences up to then the ledger does not tell of yet; it may go on to later ones."""
    due = rules(recorded, until)
    return sum(len(_lost(due[cron_id], counts)) for cron_id, counts in told(recorded, due).items())


def _lost(rule: Rule, counts: Counter[int]) -> list[int]:
    lost = sorted(rule.due - counts.keys())
    # What was undecided when it was deleted is not due to anybody any more.
    return [at for at in lost if at < max(counts, default=0)] if rule.deleted else lost


def shown(at: int) -> str:
    """An instant as a reader of a failure wants it."""
    return f"{datetime.fromtimestamp(at, UTC):%d. %H:%M:%S}"


def unsettled(recorded: list[Recorded]) -> list[str]:
    """Runs that have no outcome or several, and lanes that are not empty."""
    ends = Counter(e.stream_id for e in recorded if isinstance(e.body, Settled | RunRolledBack))
    requested = {e.stream_id for e in recorded if isinstance(e.body, RunRequested)}
    lanes = {e.stream_id: e.body for e in recorded if isinstance(e.body, LaneChanged)}
    return [
        *_beside(recorded),
        *(f"run {run_id} has no outcome" for run_id in requested - ends.keys()),
        *(f"run {run_id} has {many} outcomes" for run_id, many in ends.items() if many > 1),
        *(f"run {run_id} was never asked for" for run_id in ends.keys() - requested),
        *(
            f"lane of {lane.thread_id or lane.cron_id} holds {lane.in_flight}"
            for lane in lanes.values()
            if lane.in_flight
        ),
    ]


def _beside(recorded: list[Recorded]) -> list[str]:
    """Runs that began while another one of their thread, or of their cron that lets one run at a time, was not over."""
    owners: dict[UUID, list[UUID]] = {}
    at_work: dict[UUID, set[UUID]] = defaultdict(set)
    faults: list[str] = []
    for event in recorded:
        match event.body:
            case RunRequested() as body:
                own = [] if body.temporary else [body.thread_id]
                crons = [body.cron_id] if body.cron_lane and body.cron_id else []
                owners[event.stream_id] = own + crons
            case RunStarted():
                for owner in owners.get(event.stream_id, ()):
                    others = at_work[owner] - {event.stream_id}
                    faults += [f"run {event.stream_id} ran beside {other} of {owner}" for other in others]
                    at_work[owner].add(event.stream_id)
            case Settled() | RunRolledBack():
                for owner in owners.get(event.stream_id, ()):
                    at_work[owner].discard(event.stream_id)
    return faults
