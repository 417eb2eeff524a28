"""Schedule and zone to instants: what a cron means, clock changes included.

Interval schedules (minute or hour starts with `*`) fire at each instant whose wall clock matches. Fixed-time
schedules fire when the wall clock first reaches or passes each matching wall time: once in an overlap, right
after a gap. Everything is a pure function of schedule, zone, tzdata and the instant asked from.
"""

from datetime import datetime, timedelta, timezone
from typing import Literal

from domain.cron_grammar import Schedule, parse, parse_canonical
from domain.errors import InvalidSchedule, InvalidTimezone
from domain.zones import LATEST, Zone, is_known, tzdata_version, zone

LONGEST_OVERLAP = 2 * 86_400
"""Seconds; the largest step back of any wall clock is a day (the date line)."""
MOST_OFFSET = 16 * 3600
"""Seconds; no wall clock was ever that far from UTC."""
STEPS_BACK = (60, 3600, 86_400, 32 * 86_400, 366 * 86_400, 41 * 366 * 86_400)

__all__ = [
    "InvalidSchedule",
    "InvalidTimezone",
    "Schedule",
    "Zone",
    "count_between",
    "dst_kind",
    "first_showing",
    "is_known",
    "local_time",
    "newest_before",
    "next_after",
    "occurrences",
    "parse",
    "parse_canonical",
    "tzdata_version",
    "zone",
]


def next_after(schedule: Schedule, place: Zone, epoch: int) -> int | None:
    """The first occurrence strictly after `epoch` (seconds, UTC); None when there is none in 41 years."""
    if epoch >= LATEST:
        return None
    if schedule.is_interval:
        return _next_interval(schedule, place, epoch)
    return _next_fixed(schedule, place, epoch)


def occurrences(
    schedule: Schedule, place: Zone, after: int, until: int | None = None, limit: int = 10_000
) -> list[int]:
    """Occurrences in (`after`, `until`], oldest first, `limit` at most."""
    found: list[int] = []
    epoch: int | None = after
    while len(found) < limit:
        assert epoch is not None
        epoch = next_after(schedule, place, epoch)
        if epoch is None or (until is not None and epoch > until):
            break
        found.append(epoch)
    return found


def count_between(
    schedule: Schedule, place: Zone, after: int, until: int, limit: int = 10_000
) -> tuple[int, bool]:
    """How many occurrences are in (`after`, `until`], and whether that is all of them (it stops at `limit`)."""
    count = 0
    epoch: int | None = after
    while True:
        assert epoch is not None
        epoch = next_after(schedule, place, epoch)
        if epoch is None or epoch > until:
            return count, True
        if count == limit:
            return count, False
        count += 1


def newest_before(schedule: Schedule, place: Zone, after: int, until: int) -> int | None:
    """The newest occurrence in (`after`, `until`]; None when there is none. Cheap for any distance."""
    for step in STEPS_BACK:
        start = max(after, until - step)
        found = next_after(schedule, place, start)
        if found is not None and found <= until:
            return _last_until(schedule, place, found, until)
        if start == after:
            return None
    return None


def local_time(place: Zone, epoch: int) -> datetime:
    """The wall clock at the instant, with its offset."""
    offset = timezone(timedelta(seconds=place.offset_at(epoch)))
    return datetime.fromtimestamp(epoch, offset)


def dst_kind(schedule: Schedule, place: Zone, epoch: int) -> Literal["gap", "overlap"] | None:
    """Whether the occurrence stands for a skipped wall time, or its wall time is shown twice."""
    index = place.segment(epoch)
    wall = epoch + place.offsets[index]
    if index > 0:
        shift = place.offsets[index] - place.offsets[index - 1]
        start = place.starts[index]
        skipped = schedule.next_wall(start + place.offsets[index - 1])
        if (
            not schedule.is_interval
            and shift > 0
            and epoch == start
            and skipped is not None
            and skipped < wall
        ):
            return "gap"
        if epoch < start - shift:
            return "overlap"
    end = place.end(index, epoch + LONGEST_OVERLAP)
    if end - epoch <= LONGEST_OVERLAP and place.offset_at(end) + end <= wall:
        return "overlap"
    return None


def _next_interval(schedule: Schedule, place: Zone, epoch: int) -> int | None:
    start = epoch + 1
    index = place.segment(start)
    while True:
        offset = place.offsets[index]
        wall = schedule.next_wall(start + offset)
        if wall is None:
            return None
        found = wall - offset
        end = place.end(index, found)
        if found < end:
            return found if found <= LATEST else None
        start = end
        index = place.segment(start)


def _next_fixed(schedule: Schedule, place: Zone, epoch: int) -> int | None:
    wall = schedule.next_wall(_highest_wall(place, epoch) + 1)
    if wall is None:
        return None
    found = _showing(place, wall, epoch + 1)
    return found if found <= LATEST else None


def first_showing(place: Zone, wall: int) -> int:
    """The first instant at which the wall clock has come to that wall time."""
    return _showing(place, wall, wall - MOST_OFFSET)


def _showing(place: Zone, wall: int, begin: int) -> int:
    index = place.segment(begin)
    while True:
        found = max(place.starts[index], wall - place.offsets[index])
        end = place.end(index, found)
        if found < end:
            return found
        index = place.segment(end)


def _highest_wall(place: Zone, epoch: int) -> int:
    """The highest wall time that the clock has shown up to the instant."""
    index = place.segment(epoch)
    highest = epoch + place.offsets[index]
    while index > 0 and epoch - place.starts[index] < LONGEST_OVERLAP:
        last_before = place.starts[index] - 1
        index -= 1
        highest = max(highest, last_before + place.offsets[index])
    return highest


def _last_until(schedule: Schedule, place: Zone, found: int, until: int) -> int:
    while True:
        following = next_after(schedule, place, found)
        if following is None or following > until:
            return found
        found = following
