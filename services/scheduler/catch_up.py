"""What becomes of occurrences that nobody decided in time. Pure."""

from datetime import UTC, datetime

import msgspec

from contracts.events import MissedReason
from domain.cron import RecordMissed
from domain.schedule import Schedule, Zone, count_between, newest_before, next_after, occurrences

GRACE_S = 60
"""Up to here an occurrence is merely late and fires as usual."""


class Backlog(msgspec.Struct, frozen=True):
    """What to do about the undecided occurrences of one cron."""

    missed: tuple[RecordMissed, ...]  # in order; they move the cursor
    catch_up: int | None  # seconds: fire this one, as a catch-up
    late: tuple[int, ...]  # seconds, oldest first: fire these as usual


def backlog(schedule: Schedule, place: Zone, cursor: int, until: int, now: int, window_s: int) -> Backlog:
    """Decide about the occurrences in (`cursor`, `until`], where `until` is at most `now`.

    The newest one fires if it is not older than the window; with several in the grace, all of those fire.
    """
    edge = max(cursor, min(until, now - GRACE_S - 1))
    late = tuple(occurrences(schedule, place, edge, until))
    newest = newest_before(schedule, place, cursor, edge)
    if newest is None:
        return Backlog((), None, late)
    fires = not late and newest >= now - window_s
    last_missed = newest - 1 if fires else newest
    return Backlog(
        _missed(schedule, place, cursor, last_missed, now - window_s), newest if fires else None, late
    )


def _missed(
    schedule: Schedule, place: Zone, cursor: int, last: int, window_start: int
) -> tuple[RecordMissed, ...]:
    """The stretch in (`cursor`, `last`], told apart where the window begins."""
    edge = min(last, max(cursor, window_start - 1))
    parts = (
        _stretch(schedule, place, cursor, edge, "window"),
        _stretch(schedule, place, edge, last, "coalesced"),
    )
    return tuple(part for part in parts if part is not None)


def _stretch(
    schedule: Schedule, place: Zone, after: int, until: int, reason: MissedReason
) -> RecordMissed | None:
    first = next_after(schedule, place, after)
    if first is None or first > until:
        return None
    newest = newest_before(schedule, place, after, until)
    assert newest is not None
    count, counted_all = count_between(schedule, place, after, until)
    return RecordMissed(
        first=datetime.fromtimestamp(first, UTC),
        last=datetime.fromtimestamp(newest, UTC),
        count=count,
        counted_all=counted_all,
        reason=reason,
    )
