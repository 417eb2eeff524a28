"""A cron's rules through time, and what becomes of its occurrences that are not decided yet. Pure.

All instants are whole seconds, UTC. A cron's cursor is the newest instant up to which everything is decided.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from math import ceil

import msgspec

from contracts.events import CronCreated, FiringKind, MissedReason, OccurrencesMissed, Rule
from domain.errors import InvalidSchedule, InvalidTimezone
from domain.schedule import (
    Schedule,
    Zone,
    count_between,
    local_time,
    newest_before,
    next_after,
    parse_canonical,
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

    def then(self, at: int, rule: Rule) -> "Timeline":
        """With another rule from `at` on; an edit never reaches back behind the one before it."""
        last = self.present
        at = max(at, last.after)
        ended = Stretch(last.after, at, last.rule)
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


class Due(msgspec.Struct, frozen=True, gc=False):
    """One instant of a cron that is to be a run, and what that rests on."""

    cron_id: bytes
    at: int
    local: str
    kind: FiringKind
    coming: int | None  # the cron's next instant; None: it has none
    version: int  # of the cron's stream, as it was followed
    revision: int  # version of its newest event that a client caused


class Span(msgspec.Struct, frozen=True, gc=False):
    """The undecided part of a stretch: (`after`, `until`]."""

    schedule: Schedule
    place: Zone
    after: int
    until: int
    active: bool


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
    )
    return Timeline((Stretch(at, FOREVER, rule),))


def end_of(rule: Rule) -> int:
    """The last instant at which the rule may fire, inclusive."""
    return FOREVER if rule.end_time is None else int(rule.end_time.timestamp())


def start_of(rule: Rule) -> int:
    """The instant strictly after which the rule may fire."""
    return 0 if rule.start_time is None else ceil(rule.start_time.timestamp()) - 1


def next_of(rule: Rule, after: int) -> int | None:
    """The rule's first occurrence after the instant; None = there is none, or it lies beyond the end."""
    found = next_after(parse_canonical(rule.canonical), zone(rule.timezone), max(after, start_of(rule)))
    return None if found is None or found > end_of(rule) else found


def newest_of(rule: Rule, after: int, until: int) -> int | None:
    """The rule's newest occurrence in (`after`, `until`], whether it was active or not; None = there is none."""
    try:
        schedule, place = parse_canonical(rule.canonical), zone(rule.timezone)
    except (InvalidSchedule, InvalidTimezone):
        return None
    return newest_before(schedule, place, max(after, start_of(rule)), min(until, end_of(rule)))


def undecided(timeline: Timeline, cursor: int, now: int, window_s: int) -> Iterator[Fire | Miss]:
    """What becomes of the occurrences in (`cursor`, `now`], in their order; each is in one decision.

    What is at most GRACE_S late fires as usual. Of older ones those fire as catch-ups that the rule in force
    wants: `latest` the newest one, when none fires as usual; `all` the newest MOST_CAUGHT_UP; `skip` none; and
    never what is older than the rule's window, or `window_s` if it has none. The others are missed, and a pause
    that is over is missed.
    """
    spans = list(_spans(timeline, cursor, now))
    rule = timeline.present.rule
    edge = now - GRACE_S - 1
    window_start = now - (window_s if rule.window_s is None else rule.window_s)
    first = max(_first_catch_up(spans, edge, window_start, rule), window_start)
    passed_over = _passed_over(rule)
    for span in spans:
        if not span.active:
            yield from _missed(span, span.until, "paused")
            continue
        old = min(span.until, edge)
        last = min(old, first - 1)
        yield from _missed(span, min(last, window_start - 1), "window")
        recent = msgspec.structs.replace(span, after=max(span.after, window_start - 1))
        yield from _missed(recent, last, passed_over)
        yield from _fires(span, max(span.after, first - 1), old, "catch_up")
        yield from _fires(span, max(span.after, edge), span.until, "schedule")


def missed(miss: Miss, next_at: datetime | None | msgspec.UnsetType = msgspec.UNSET) -> OccurrencesMissed:
    """The event that records it."""
    return OccurrencesMissed(
        first=datetime.fromtimestamp(miss.first, UTC),
        last=datetime.fromtimestamp(miss.last, UTC),
        count=miss.count,
        counted_all=miss.counted_all,
        reason=miss.reason,
        next_at=next_at,
    )


def _spans(timeline: Timeline, cursor: int, now: int) -> Iterator[Span]:
    for stretch in timeline.stretches:
        rule, until = stretch.rule, min(now, stretch.end)
        after = max(cursor, stretch.after, start_of(rule))
        is_open_pause = not rule.active and stretch.until == FOREVER
        if after >= until or is_open_pause:
            continue
        try:
            schedule, place = parse_canonical(rule.canonical), zone(rule.timezone)
        except (InvalidSchedule, InvalidTimezone):
            continue  # the zone is no longer known: nobody can say what it meant
        yield Span(schedule, place, after, until, rule.active)


def _first_catch_up(spans: list[Span], edge: int, window_start: int, rule: Rule) -> int:
    """The first instant up to the edge that is caught up, with all that come after it; FOREVER = none is."""
    if not rule.active or rule.catch_up == "skip":
        return FOREVER
    if rule.catch_up == "latest":
        newest = _catch_up(spans, edge)
        return FOREVER if newest is None or newest < window_start else newest
    return _newest_few(spans, edge, window_start)


def _newest_few(spans: list[Span], edge: int, window_start: int) -> int:
    """Where the newest MOST_CAUGHT_UP in the window begin. One by one from the end only when there are more."""
    left = MOST_CAUGHT_UP
    for span in reversed([span for span in spans if span.active]):
        after, until = max(span.after, window_start - 1), min(span.until, edge)
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


def _passed_over(rule: Rule) -> MissedReason:
    """Why what is in the window and no catch-up does not fire."""
    if not rule.active:
        return "paused"
    return "skip" if rule.catch_up == "skip" else "coalesced"


def _catch_up(spans: list[Span], edge: int) -> int | None:
    """The newest occurrence up to the edge; None when a later one fires, or when there is none."""
    newest = None
    for span in spans:
        if not span.active:
            continue
        late = next_after(span.schedule, span.place, max(span.after, edge))
        if late is not None and late <= span.until:
            return None
        found = newest_before(span.schedule, span.place, span.after, min(span.until, edge))
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
    yield Miss(first, last, count, counted_all, reason)
