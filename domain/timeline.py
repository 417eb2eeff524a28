"""A cron's rules through time, and what becomes of its occurrences that are not decided yet. Pure.

All instants are whole seconds, UTC. A cron's cursor is the newest instant up to which everything is decided.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from math import ceil

import msgspec

from contracts.events import (
    CatchUp,
    CronCreated,
    CronExhausted,
    FiringKind,
    MissedReason,
    OccurrencesMissed,
    Rule,
)
from domain.errors import InvalidSchedule, InvalidTimezone
from domain.schedule import (
    Schedule,
    Zone,
    count_between,
    first_showing,
    local_time,
    newest_before,
    next_after,
    parse_canonical,
    tzdata_version,
    zone,
)

MOST_CAUGHT_UP = 100
"""So many of a cron fire as catch-ups of one halt, the newest ones."""
GRACE_S = 60
"""Up to here an occurrence is merely late and fires as usual."""
FOREVER = (1 << 62) - 1


class Stretch(msgspec.Struct, frozen=True, gc=False):
    """A rule that decides about the instants in (`after`, `until`]; FOREVER: it is in force."""

    after: int
    until: int
    rule: Rule

    @property
    def end(self) -> int:
        """The last instant that may be an occurrence."""
        return self.until if self.rule.end_time is None else min(self.until, end_of(self.rule))


class Timeline(msgspec.Struct, frozen=True, gc=False):
    """What was in force when, oldest first. The last stretch is in force, whatever the cursor is."""

    stretches: tuple[Stretch, ...]

    @property
    def present(self) -> Stretch:
        """The rule in force."""
        return self.stretches[-1]

    def then(self, at: int, rule: Rule, makes_up: CatchUp = "skip") -> "Timeline":
        """With another rule from `at` on; an edit never reaches back behind the one before it. `makes_up` says
        what fires of the pause that it ends.
        """
        last = self.present
        at = max(at, last.after)
        ended = Stretch(last.after, at, last.rule.over(makes_up))
        return Timeline((*self.stretches[:-1], ended, Stretch(at, FOREVER, rule)))

    def behind(self, cursor: int) -> "Timeline":
        """Without what lies before the cursor."""
        kept = tuple(s for s in self.stretches[:-1] if min(s.until, s.end) > max(cursor, s.after))
        return Timeline((*kept, self.present))


class Fire(msgspec.Struct, frozen=True, gc=False):
    """The occurrence becomes a run: as usual, or as a catch-up."""

    due: int
    kind: FiringKind
    local: str  # the wall clock of the rule's zone


class Miss(msgspec.Struct, frozen=True, gc=False):
    """The occurrences in [`first`, `last`] do not fire; `counted_all` is false when there are more."""

    first: int
    last: int
    count: int
    counted_all: bool
    reason: MissedReason
    local: str  # the first and the last on the wall clock of the rule's zone
    last_local: str


class Due(msgspec.Struct, frozen=True, gc=False):
    """One instant of a cron that is to be a run, and what that rests on."""

    cron_id: bytes
    at: int
    local: str
    kind: FiringKind
    coming: int | None  # the cron's next instant; None: it has none
    version: int  # of the cron's stream, as it was followed
    revision: int  # version of its newest event that a client caused
    fires_at: float | None = None  # seconds; None: when it is due
    counts: bool = False  # it is one of its cron's max_runs
    last: CronExhausted | None = None  # what is to be told with the last of them


class Span(msgspec.Struct, frozen=True, gc=False):
    """An undecided part of a stretch: (`after`, `until`]."""

    schedule: Schedule
    place: Zone
    after: int
    until: int
    late: int  # what is due up to here does not fire as usual any more
    active: bool
    makes_up: CatchUp = "skip"  # of a pause


def timeline_of(created: CronCreated, at: int) -> Timeline:
    """The timeline of a cron that was just created."""
    rule = Rule(
        canonical=created.canonical,
        timezone=created.timezone,
        start_time=created.start_time,
        end_time=created.end_time,
        active=created.enabled,
        catch_up=created.catch_up,
        window_s=created.catch_up_window_s,
        jitter_s=created.jitter_s,
        max_runs=created.max_runs,
    )
    return Timeline((Stretch(at, FOREVER, rule),))


def end_of(rule: Rule) -> int:
    """The last instant at which the rule may fire, inclusive."""
    return FOREVER if rule.end_time is None else int(rule.end_time.timestamp())


def start_of(rule: Rule) -> int:
    """The instant strictly after which the rule may fire."""
    return 0 if rule.start_time is None else ceil(rule.start_time.timestamp()) - 1


def resumes_at(rule: Rule) -> int:
    """The first instant at which the rule may fire again by itself: 0 when it may now, FOREVER when it won't."""
    if rule.active:
        return 0
    return FOREVER if rule.until is None else ceil(rule.until.timestamp())


def exhausted(rule: Rule, last: int, runs: int) -> CronExhausted:
    """What is told when the last of its max_runs is the one at that instant: none is due after it."""
    over = msgspec.structs.replace(rule, active=False, until=None, end_time=datetime.fromtimestamp(last, UTC))
    return CronExhausted(rule=over, runs=runs)


def fires_at(rule: Rule, cron_id: bytes, due: int) -> float:
    """When an occurrence fires, seconds: its jitter after it is due, always the same, and before the next is due."""
    if not rule.jitter_s:
        return due
    following = next_after(parse_canonical(rule.canonical), zone(rule.timezone), due)
    most_s = rule.jitter_s if following is None else min(rule.jitter_s, following - due)
    digest = hashlib.blake2b(cron_id + due.to_bytes(8, "big"), digest_size=8).digest()
    return due + int.from_bytes(digest, "big") % (most_s * 1000) / 1000


def shown_at(rule: Rule, wall: int) -> int | None:
    """The first instant at which the clock of the rule's zone has come to that wall time: what was decided up to it
    is decided up to there, whatever the zone's rules were then. None: the schedule does not follow the wall clock.
    """
    if parse_canonical(rule.canonical).is_interval:
        return None
    return first_showing(zone(rule.timezone), wall)


def next_of(rule: Rule, after: int) -> int | None:
    """The rule's first occurrence after the instant; None = there is none, or it lies beyond the end.

    Of a rule that is paused until an instant, the first that will fire; of another paused one as if it were not.
    """
    after = max(after, start_of(rule))
    if rule.until is not None:
        after = max(after, resumes_at(rule) - 1)
    found = next_after(parse_canonical(rule.canonical), zone(rule.timezone), after)
    return None if found is None or found > end_of(rule) else found


def newest_of(rule: Rule, after: int, until: int) -> int | None:
    """The rule's newest occurrence in (`after`, `until`], whether it was active or not; None = there is none."""
    try:
        schedule, place = parse_canonical(rule.canonical), zone(rule.timezone)
    except (InvalidSchedule, InvalidTimezone):
        return None
    return newest_before(schedule, place, max(after, start_of(rule)), min(until, end_of(rule)))


def undecided(
    timeline: Timeline, cursor: int, now: float, window_s: int, cron_id: bytes = b""
) -> Iterator[Fire | Miss]:
    """What becomes of the occurrences that come after `cursor` and have their time up to `now`, in their order; each
    is in one decision.

    What is at most GRACE_S late fires as usual. Of older ones those fire as catch-ups that the rule in force
    wants: `latest` the newest one, when none fires as usual; `all` the newest MOST_CAUGHT_UP; `skip` none; and
    never what is older than the rule's window, or `window_s` if it has none. The others are missed. A pause
    that is over is missed, unless its end said what of it is made up for.
    """
    rule = timeline.present.rule
    is_active = resumes_at(rule) <= now
    spans = list(_spans(timeline, cursor, now, cron_id))
    window_start = int(now) - (window_s if rule.window_s is None else rule.window_s)
    usual = [span for span in spans if span.active]
    first = _first_catch_up(usual, window_start, rule.catch_up) if is_active else FOREVER
    passed_over: MissedReason = "skip" if rule.catch_up == "skip" else "coalesced"
    for span in spans:
        if span.active:
            yield from _decided(
                span, max(first, window_start), window_start, passed_over if is_active else "paused"
            )
        elif is_active and span.makes_up != "skip":
            begin = _first_catch_up([span], window_start, span.makes_up)
            yield from _decided(span, max(begin, window_start), window_start, "coalesced")
        else:
            yield from _missed(span, span.until, "paused")


def missed(
    miss: Miss, revision: int, next_at: datetime | None | msgspec.UnsetType = msgspec.UNSET
) -> OccurrencesMissed:
    """The event that records it; `revision` is the version of the cron that is in force."""
    return OccurrencesMissed(
        first=datetime.fromtimestamp(miss.first, UTC),
        last=datetime.fromtimestamp(miss.last, UTC),
        count=miss.count,
        counted_all=miss.counted_all,
        reason=miss.reason,
        next_at=next_at,
        local=miss.local,
        last_local=miss.last_local,
        revision=revision,
        tzdata=tzdata_version(),
    )


def _spans(timeline: Timeline, cursor: int, now: float, cron_id: bytes) -> Iterator[Span]:
    for stretch in timeline.stretches:
        rule, until = stretch.rule, min(int(now), stretch.end)
        after, resumes = max(cursor, stretch.after, start_of(rule)), resumes_at(rule)
        is_open_pause = resumes > now and stretch.until == FOREVER
        if after >= until or is_open_pause:
            continue
        try:
            schedule, place = parse_canonical(rule.canonical), zone(rule.timezone)
        except (InvalidSchedule, InvalidTimezone):
            continue  # the zone is no longer known: nobody can say what it meant
        paused_until = min(until, resumes - 1)
        late = int(now) - GRACE_S - 1
        if after < paused_until:
            yield Span(schedule, place, after, paused_until, late, False, rule.makes_up)
        active = Span(schedule, place, max(after, resumes - 1), until, late, True)
        if active.after < until and rule.jitter_s:
            present = timeline.present if stretch.until < FOREVER else None
            yield from _jittered(active, rule, cron_id, now, present)
        elif active.after < until:
            yield active


def _jittered(span: Span, rule: Rule, cron_id: bytes, now: float, present: Stretch | None) -> Iterator[Span]:
    """The span as far as its occurrences have their time. An edit, by which the `present` stretch began, lets those
    wait no longer that were due before it; if that is a pause, they are paused.
    """

    def reached(at: float) -> int:
        newest = newest_before(span.schedule, span.place, span.after, min(int(at), span.until))
        waits = newest is not None and fires_at(rule, cron_id, newest) > at
        return newest - 1 if newest is not None and waits else int(at)

    late = span.late if present is not None and present.after <= span.late else reached(span.late)
    if present is None:
        yield msgspec.structs.replace(span, until=min(span.until, reached(now)), late=late)
    elif resumes_at(present.rule) <= now:
        yield msgspec.structs.replace(span, late=late)
    else:
        before = min(span.until, reached(present.after))
        yield msgspec.structs.replace(span, until=before, late=late)
        yield msgspec.structs.replace(span, after=max(span.after, before), active=False)


def _decided(span: Span, first: int, window_start: int, passed_over: MissedReason) -> Iterator[Fire | Miss]:
    """What becomes of the span when catch-ups begin at `first`, and are not older than `window_start`."""
    old = min(span.until, span.late)
    last = min(old, first - 1)
    yield from _missed(span, min(last, window_start - 1), "window")
    recent = msgspec.structs.replace(span, after=max(span.after, window_start - 1))
    yield from _missed(recent, last, passed_over)
    yield from _fires(span, max(span.after, first - 1), old, "catch_up")
    yield from _fires(span, max(span.after, span.late), span.until, "schedule")


def _first_catch_up(spans: list[Span], window_start: int, wanted: CatchUp) -> int:
    """The first late instant that is caught up, with all late ones that come after it; FOREVER = none is."""
    if wanted == "skip":
        return FOREVER
    if wanted == "latest":
        newest = _catch_up(spans)
        return FOREVER if newest is None or newest < window_start else newest
    return _newest_few(spans, window_start)


def _newest_few(spans: list[Span], window_start: int) -> int:
    """Where the newest MOST_CAUGHT_UP in the window begin. One by one from the end only when there are more."""
    left = MOST_CAUGHT_UP
    for span in reversed(spans):
        after, until = max(span.after, window_start - 1), min(span.until, span.late)
        count, is_all = count_between(span.schedule, span.place, after, until, left)
        if is_all:
            left -= count
            continue
        at: int | None = until + 1
        for _ in range(left):
            assert at is not None
            at = newest_before(span.schedule, span.place, after, at - 1)
        # What is before it in this span is too much, and so is all that other spans have before it.
        return until + 1 if at is None else at
    return window_start


def _catch_up(spans: list[Span]) -> int | None:
    """The newest late occurrence; None when a later one fires as usual, or when there is none."""
    newest = None
    for span in spans:
        usual = next_after(span.schedule, span.place, max(span.after, span.late))
        if usual is not None and usual <= span.until:
            return None
        found = newest_before(span.schedule, span.place, span.after, min(span.until, span.late))
        newest = newest if found is None else found
    return newest


def _fires(span: Span, after: int, until: int, kind: FiringKind) -> Iterator[Fire]:
    # One by one: whoever asks needs the first of them, and asks again when that is decided.
    due = next_after(span.schedule, span.place, after)
    while due is not None and due <= until:
        yield Fire(due, kind, local_time(span.place, due).isoformat())
        due = next_after(span.schedule, span.place, due)


def _missed(span: Span, until: int, reason: MissedReason) -> Iterator[Miss]:
    """The occurrences of the span up to `until`."""
    first = next_after(span.schedule, span.place, span.after)
    if first is None or first > until:
        return
    last = newest_before(span.schedule, span.place, span.after, until)
    assert last is not None
    count, counted_all = count_between(span.schedule, span.place, span.after, until)
    locals_ = (local_time(span.place, at).isoformat() for at in (first, last))
    yield Miss(first, last, count, counted_all, reason, *locals_)
