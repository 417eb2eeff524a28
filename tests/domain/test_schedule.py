"""Schedules: the promise around clock changes against an oracle that walks minute by minute, and refusals."""

import calendar
from datetime import UTC, datetime, timedelta
from functools import cache
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.croniter_witness import witness_warnings
from domain.errors import InvalidSchedule, InvalidTimezone
from domain.identity import run_id_of, thread_id_of
from domain.schedule import (
    count_between,
    dst_kind,
    local_time,
    newest_before,
    next_after,
    occurrences,
    parse,
    parse_canonical,
    tzdata_version,
    zone,
)

CHANGES = {
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    "Europe/Berlin": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Australia/Lord_Howe": ["2026-04-04T15:00", "2026-10-03T15:30"],
    "Africa/Casablanca": ["2025-02-23T02:00", "2025-04-06T02:00"],
    "America/Havana": ["2026-03-08T05:00", "2025-11-02T05:00"],
    "Africa/Cairo": ["2026-04-23T22:00", "2026-10-29T21:00"],
    "America/Nuuk": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Antarctica/Troll": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Pacific/Chatham": ["2026-04-04T14:00", "2026-09-26T14:00"],
    "Pacific/Apia": ["2011-12-30T10:00"],
    "America/Caracas": ["2016-05-01T07:00", "2007-12-09T07:00"],
    "Asia/Kolkata": ["2026-06-01T00:00"],
}
STARTS = [
    (name, int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()))
    for name, texts in CHANGES.items()
    for text in texts
]


def field(low: int, high: int, *more: str) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    term = st.one_of(
        number.map(str),
        st.tuples(number, number).map(lambda ends: f"{min(ends)}-{max(ends)}"),
        st.tuples(number, number).map(lambda ends: f"{ends[0]}-{ends[1]}"),
        st.tuples(number, number, st.integers(1, 9)).map(lambda t: f"{min(t[:2])}-{max(t[:2])}/{t[2]}"),
        st.tuples(number, st.integers(1, high)).map(lambda t: f"{t[0]}/{t[1]}"),
        st.sampled_from(["*", *more]),
        st.integers(1, high + 5).map(lambda step: f"*/{step}"),
    )
    return st.one_of(st.just("*"), st.lists(term, min_size=1, max_size=3).map(",".join))


SCHEDULES = st.tuples(
    field(0, 59),
    field(0, 23),
    st.one_of(st.just("*"), field(1, 31, "L"), st.just("?")),
    st.one_of(st.just("*"), st.just("*"), field(1, 12, "jan", "mar-oct")),
    st.one_of(st.just("*"), field(0, 7, "mon", "5#3", "2#1", "5L", "L0", "fri-mon")),
).map(" ".join)


@cache
def values(text: str, low: int, high: int) -> frozenset[int]:
    """What a field's text names. Kept: an oracle asks for each minute of days."""
    return frozenset(value for term in text.split(",") for value in values_of(term, low, high))


def values_of(term: str, low: int, high: int) -> set[int]:
    names = {"jan": 1, "mar": 3, "oct": 10, "mon": 1, "fri": 5}
    term, _, step = term.partition("/")
    stride = int(step or 1)
    if term in ("*", "?"):
        return set(range(low, high + 1, stride))
    first, _, last = term.partition("-")
    start = names.get(first) if first in names else int(first)
    assert start is not None
    if not last:
        if not step:
            return {start % 7 if high == 6 else start}
        return set(range(start % 7 if high == 6 else start, high + 1, stride))
    stop = names.get(last) if last in names else int(last)
    assert stop is not None
    listed = (
        range(start, stop + 1, stride)
        if start <= stop
        else [*range(start, max(high, start) + 1), *range(low, stop + 1)]
    )
    return {value % 7 if high == 6 else value for value in listed}


class Oracle:
    """The promise taken literally: the field texts are matched against each minute of the wall clock."""

    def __init__(self, text: str) -> None:
        self.fields = text.split()
        self.interval = self.fields[0][0] == "*" or self.fields[1][0] == "*"

    def matches(self, wall: datetime) -> bool:
        minute, hour, day, month, weekday = self.fields
        if not (self.has(minute, wall.minute, 0, 59) and self.has(hour, wall.hour, 0, 23)):
            return False
        if not self.has(month, wall.month, 1, 12):
            return False
        by_day, by_weekday = self.day(day, wall), self.weekday(weekday, wall)
        if day[0] in "*?" or weekday[0] in "*?":
            return by_day and by_weekday
        return by_day or by_weekday

    def day(self, text: str, wall: datetime) -> bool:
        last = calendar.monthrange(wall.year, wall.month)[1]
        plain = [t for t in text.split(",") if t != "L"]
        return (len(plain) < len(text.split(",")) and wall.day == last) or any(
            self.has(t, wall.day, 1, 31) for t in plain
        )

    def weekday(self, text: str, wall: datetime) -> bool:
        today = (wall.weekday() + 1) % 7
        length = calendar.monthrange(wall.year, wall.month)[1]
        for term in text.split(","):
            if "#" in term:
                day, nth = term.split("#")
                if today == int(day) % 7 and (wall.day - 1) // 7 + 1 == int(nth):
                    return True
            elif "L" in term:
                if today == int(term.replace("L", "")) % 7 and wall.day + 7 > length:
                    return True
            elif self.has(term, today, 0, 6):
                return True
        return False

    def has(self, text: str, value: int, low: int, high: int) -> bool:
        return value in values(text, low, high)

    def after(self, zone_name: str, start: int, minutes: int) -> list[int]:
        """Occurrences in (start, start + minutes], by looking at every minute from a day before."""
        info = ZoneInfo(zone_name)
        begin = start // 60 * 60 - 2 * 86_400
        fired: set[int] = set()
        highest: datetime | None = None
        for instant in range(begin, start + minutes * 60 + 1, 60):
            wall = datetime.fromtimestamp(instant, info).replace(tzinfo=None)
            if self.interval:
                if self.matches(wall):
                    fired.add(instant)
                continue
            if highest is None:
                highest = wall
            while highest < wall:
                highest += timedelta(minutes=1)
                if self.matches(highest):
                    fired.add(instant)
        return sorted(instant for instant in fired if instant > start)


def refused(text: str, *, seconds: bool = False) -> str:
    with pytest.raises(InvalidSchedule) as caught:
        parse(text, seconds=seconds)
    return str(caught.value)


def wraps_with_step(text: str) -> bool:
    try:
        parse(text)
    except InvalidSchedule as exc:
        return "wraps" in str(exc) or "never" in str(exc)
    return False


ORACLE = given(SCHEDULES, st.sampled_from(STARTS), st.integers(-90_000, 50_000))


@settings(max_examples=200, deadline=None)
@ORACLE
def test_promise_holds_against_the_oracle(text: str, change: tuple[str, int], shift: int) -> None:
    check_promise(text, change, shift)


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@ORACLE
def test_promise_holds_at_length(text: str, change: tuple[str, int], shift: int) -> None:
    check_promise(text, change, shift)


def check_promise(text: str, change: tuple[str, int], shift: int) -> None:
    if wraps_with_step(text):
        return
    name, instant = change
    start = instant + shift
    expected = Oracle(text).after(name, start, 1500)
    until = start + 1500 * 60
    assert occurrences(parse(text), zone(name), start, until) == expected


@settings(max_examples=200, deadline=None)
@given(SCHEDULES, st.sampled_from(STARTS), st.integers(-90_000, 90_000))
def test_asking_from_between_gives_the_rest(text: str, change: tuple[str, int], shift: int) -> None:
    if wraps_with_step(text):
        return
    schedule, place = parse(text), zone(change[0])
    listed = occurrences(schedule, place, change[1] + shift, limit=6)
    assert listed == sorted(set(listed))
    for n, epoch in enumerate(listed[:-1]):
        assert next_after(schedule, place, epoch) == listed[n + 1]
        assert next_after(schedule, place, (epoch + listed[n + 1]) // 2) == listed[n + 1]
    if listed:
        first, last = change[1] + shift, listed[-1]
        assert count_between(schedule, place, first, last) == (len(listed), True)
        assert newest_before(schedule, place, first, last) == last
        assert newest_before(schedule, place, first, last - 1) == (listed[-2] if len(listed) > 1 else None)


@settings(max_examples=200, deadline=None)
@given(SCHEDULES, st.sampled_from(STARTS))
def test_leading_zero_second_and_canonical_change_nothing(text: str, change: tuple[str, int]) -> None:
    if wraps_with_step(text):
        return
    schedule, place = parse(text), zone(change[0])
    expected = occurrences(schedule, place, change[1], limit=4)
    again = parse_canonical(schedule.canonical)
    assert again.canonical == schedule.canonical
    assert again.is_interval == schedule.is_interval
    for other in (parse(f"0 {text}", seconds=True), again, parse(text.upper())):
        assert occurrences(other, place, change[1], limit=4) == expected


@pytest.mark.parametrize("text", ["*/10 * * * * *", "30 30 2 * * *", "5,7 0-59/20 1 * * *", "0 0 3 * * *"])
@pytest.mark.parametrize("change", STARTS[:6], ids=str)
def test_six_fields_second_by_second(text: str, change: tuple[str, int]) -> None:
    second, rest = text.split(" ", 1)
    oracle, info = Oracle(rest), ZoneInfo(change[0])
    start, until = change[1] - 3 * 3600, change[1] + 3 * 3600
    begin = start - 7200
    highest = datetime.fromtimestamp(begin, info).replace(tzinfo=None)
    expected: set[int] = set()
    for instant in range(begin, until + 1):
        wall = datetime.fromtimestamp(instant, info).replace(tzinfo=None)
        walls = [wall] if oracle.interval else []
        while not oracle.interval and highest < wall:
            highest += timedelta(seconds=1)
            walls.append(highest)
        if any(oracle.has(second, w.second, 0, 59) and oracle.matches(w) for w in walls):
            expected.add(instant)
    found = occurrences(parse(text, seconds=True), zone(change[0]), start, until)
    assert found == sorted(instant for instant in expected if instant > start)


@settings(max_examples=150, deadline=None)
@given(SCHEDULES, st.integers(1_700_000_000, 1_900_000_000))
def test_agrees_with_cronsim_in_utc(text: str, start: int) -> None:
    """Outside the documented differences: no wrapping range, no step on a single weekday, no '*' in a list."""
    if wraps_with_step(text) or any(mark in text for mark in ("#", "L", "?", "/")) or ",*" in text:
        return
    try:
        theirs = CronSim(text, datetime.fromtimestamp(start, UTC))
        expected = [int(next(theirs).timestamp()) for _ in range(3)]
    except Exception:  # it refuses more than we do
        return
    if any("," in part and "*" in part for part in text.split()):
        return
    assert occurrences(parse(text), zone(None), start, limit=3) == expected


def test_croniter_agrees_on_ordinary_schedules() -> None:
    start = 1_764_000_000
    for text in ("*/5 * * * *", "0 9 * * 1-5", "30 2 1 * *", "0 0 1 1 *", "15 10 * * mon"):
        theirs = croniter(text, datetime.fromtimestamp(start, UTC))
        expected = [int(theirs.get_next(float)) for _ in range(4)]
        assert occurrences(parse(text), zone("Etc/UTC"), start, limit=4) == expected
        assert witness_warnings(parse(text), zone(None), start) == ()


def test_witness_tells_of_a_difference() -> None:
    [sentence] = witness_warnings(parse("0 9-9 * * *"), zone(None), 1_764_000_000)
    assert "croniter" in sentence
    assert parse("0 9-9 * * *").warnings
    assert parse("*/90 * * * *").warnings


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "fields"),
        ("* * * *", "fields"),
        ("* * * * * *", "six fields"),
        ("* * * * * * 2026", "year"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day-of-month"),
        ("* * 32 * *", "day-of-month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day-of-week"),
        ("*/0 * * * *", "step"),
        ("a * * * *", "minute"),
        ("-1 * * * *", "minute"),
        ("1- * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("5-1/2 * * * *", "wraps"),
        ("R * * * *", "R"),
        ("r(1-5) * * * *", "R"),
        ("H * * * *", "H"),
        ("H/10 * * * *", "H"),
        ("0 0 LW * *", "LW"),
        ("0 0 15W * *", "W"),
        ("0 0 L-2 * *", "L"),
        ("? * * * *", "'?'"),
        ("0 0 ?,1 * *", "'?'"),
        ("0 0 * * 5#6", "day-of-week"),
        ("0 0 30 2 *", "never"),
        ("0 0 31 4,6,9,11 *", "never"),
        ("@reboot", "@reboot"),
        ("@every 5m", "@every"),
        ("@often", "alias"),
        ("TZ=Europe/Berlin 0 9 * * *", "timezone"),
        ("CRON_TZ=UTC 0 9 * * *", "timezone"),
        ("\uff10 * * * *", "ASCII"),
        ("0\u00a09 * * *", "ASCII"),
        ("*" * 257, "256"),
        ("9" * 250, "fields"),
        ("9" * 240 + " * * * *", "minute"),
    ],
)
def test_refusals_name_the_field_and_help(text: str, word: str) -> None:
    message = refused(text)
    assert message.startswith("schedule: ")
    assert word in message


def test_day_rule() -> None:
    start = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    both = occurrences(parse("0 0 */2 * 1"), zone(None), start, limit=3)
    assert [datetime.fromtimestamp(e, UTC).day for e in both] == [5, 19, 9]
    either = occurrences(parse("0 0 13 * 5"), zone(None), start, limit=4)
    assert [datetime.fromtimestamp(e, UTC).day for e in either] == [2, 9, 13, 16]


@pytest.mark.parametrize(
    "name", ["", "utc", "europe/berlin", "Mars/Olympus", "../UTC", "+02:00", "Factory", "x" * 65, "zones"]
)
def test_zones_are_exact(name: str) -> None:
    with pytest.raises(InvalidTimezone, match="timezone"):
        zone(name)


def test_rules_come_from_the_pinned_package() -> None:
    assert tzdata_version() == "2026f"
    # British Columbia keeps summer time since these rules; older files of a host say -08:00.
    winter = int(datetime(2026, 12, 15, 12, tzinfo=UTC).timestamp())
    assert local_time(zone("America/Vancouver"), winter).isoformat().endswith("-07:00")


def test_kind_of_a_clock_change() -> None:
    new_york = zone("America/New_York")
    gap = int(datetime(2026, 3, 8, 7, tzinfo=UTC).timestamp())
    assert dst_kind(parse("30 2 * * *"), new_york, gap) == "gap"
    assert dst_kind(parse("0 3 * * *"), new_york, gap) is None
    first_pass = int(datetime(2026, 11, 1, 5, 30, tzinfo=UTC).timestamp())
    assert dst_kind(parse("30 1 * * *"), new_york, first_pass) == "overlap"
    assert dst_kind(parse("30 1 * * *"), new_york, first_pass + 86_400) is None


def test_ids_are_derived_ordered_and_distinct() -> None:
    cron = UUID("01900000-0000-7000-8000-000000000001")
    run = run_id_of(cron, 1_764_000_000)
    assert run == run_id_of(cron, 1_764_000_000)
    assert run.version == 8
    assert run.int >> 80 == 1_764_000_000_000
    assert len({run, thread_id_of(cron, 1_764_000_000), run_id_of(cron, 1_764_000_001)}) == 3
    assert run < run_id_of(cron, 1_764_000_001)
