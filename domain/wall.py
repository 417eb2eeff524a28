"""Wall times that a schedule matches, found by scanning bits. A wall time is seconds since 1970 on a clock
without zone: no gaps, no overlaps.
"""

from datetime import date
from functools import lru_cache

import msgspec

DAY = 86_400
EPOCH_ORDINAL = 719_163  # date(1970, 1, 1).toordinal()
SEARCH_MONTHS = 41 * 12
"""41 years hold every pair of 29 February and weekday, the year 2100 included."""


class DayRule(msgspec.Struct, frozen=True, kw_only=True):
    """Which days of a month match. `both`: month day and weekday must match, else one of them is enough."""

    days: int
    last_day: bool
    weekdays: int
    nth: frozenset[tuple[int, int]]
    last_weekdays: int
    both: bool

    def mask(self, first_weekday: int, length: int) -> int:
        """Bit d is set when day d (from 1) matches, for a month whose 1st is `first_weekday` (0 = Sunday)."""
        days = self.days & ((1 << length + 1) - 1)
        if self.last_day:
            days |= 1 << length
        weekdays = 0
        for day in range(1, length + 1):
            weekday = (first_weekday + day - 1) % 7
            if (
                self.weekdays >> weekday & 1
                or (weekday, (day + 6) // 7) in self.nth
                or (self.last_weekdays >> weekday & 1 and day + 7 > length)
            ):
                weekdays |= 1 << day
        return days & weekdays if self.both else days | weekdays


@lru_cache(maxsize=2048)
def month_of(year: int, month: int) -> tuple[int, int, int]:
    """(days since 1970 of its 1st, weekday of its 1st with 0 = Sunday, length)."""
    first = date(year, month, 1).toordinal()
    following = date(year + month // 12, month % 12 + 1, 1).toordinal()
    return first - EPOCH_ORDINAL, first % 7, following - first


def lowest(mask: int, start: int) -> int:
    """The lowest set bit from `start` on, -1 when there is none."""
    rest = mask >> start
    return start + (rest & -rest).bit_length() - 1 if rest else -1


class WallSchedule:
    """The wall times of a schedule."""

    __slots__ = ("_day_masks", "_day_rule", "_first", "_months", "_times", "is_interval", "never")

    def __init__(
        self, times: tuple[int, int, int], months: int, day_rule: DayRule, *, is_interval: bool
    ) -> None:
        self._times = times
        self._months = months
        self._day_rule = day_rule
        self._day_masks: dict[int, int] = {}
        second, minute, hour = (lowest(mask, 0) for mask in times)
        self._first = hour * 3600 + minute * 60 + second
        self.is_interval = is_interval
        self.never = self._day_from(10_957) is None  # from 2000-01-01

    def next_wall(self, wall: int) -> int | None:
        """The first matching wall time at or after `wall`; None when there is none within 41 years."""
        day, second = divmod(wall, DAY)
        found = self._day_from(day)
        if found is None:
            return None
        if found == day:
            inside = self._time_from(second)
            if inside >= 0:
                return day * DAY + inside
            found = self._day_from(day + 1)
            if found is None:
                return None
        return found * DAY + self._first

    def _time_from(self, second: int) -> int:
        """The first matching second of the day at or after `second`, -1 when there is none."""
        seconds, minutes, hours = self._times
        hour, rest = divmod(second, 3600)
        minute, sec = divmod(rest, 60)
        if hours >> hour & 1:
            if minutes >> minute & 1:
                found = lowest(seconds, sec)
                if found >= 0:
                    return hour * 3600 + minute * 60 + found
            found = lowest(minutes, minute + 1)
            if found >= 0:
                return hour * 3600 + found * 60 + lowest(seconds, 0)
        found = lowest(hours, hour + 1)
        return found * 3600 + self._first % 3600 if found >= 0 else -1

    def _day_from(self, day: int) -> int | None:
        try:
            start = date.fromordinal(day + EPOCH_ORDINAL)
            year, month, of_month = start.year, start.month, start.day
            for _ in range(SEARCH_MONTHS):
                if self._months >> month & 1:
                    first, weekday, length = month_of(year, month)
                    found = lowest(self._mask(weekday, length), of_month)
                    if found >= 0:
                        return first + found - 1
                of_month = 1
                year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        except (ValueError, OverflowError):  # past the year 9999
            return None
        return None

    def _mask(self, weekday: int, length: int) -> int:
        key = weekday * 32 + length
        mask = self._day_masks.get(key)
        if mask is None:
            mask = self._day_masks[key] = self._day_rule.mask(weekday, length)
        return mask
