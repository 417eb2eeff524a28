"""The closed grammar of schedules: text to bit masks, or a refusal that says what to write instead."""

import re
from functools import lru_cache

from domain.errors import InvalidSchedule
from domain.wall import DayRule, WallSchedule

MAX_LENGTH = 256
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTHS = {
    name: n
    for n, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], start=1
    )
}
DAYS = {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day-of-month", 1, 31),
    ("month", 1, 12),
    ("day-of-week", 0, 7),
)
TERM = re.compile(r"(?P<first>[0-9a-z]+)(?:-(?P<last>[0-9a-z]+))?(?:/(?P<step>[0-9]+))?")
NTH = re.compile(r"(?P<day>[0-9a-z]+)#(?P<nth>[1-5])")
LAST_DAY = re.compile(r"l(?P<before>[0-7])|(?P<after>[0-7]|[a-z]{3})l")
HELP = (
    (re.compile(r"@reboot"), "'@reboot' is no instant; use a schedule of five fields"),
    (re.compile(r"@every"), "'@every' is not supported; write '*/5 * * * *' for every five minutes"),
    (re.compile(r"(cron_)?tz="), "a zone inside the schedule is not supported; use the field 'timezone'"),
)
TERM_HELP = (
    (re.compile(r"r(\(.*)?"), "'R' (random) is not supported: the same cron must mean the same instants"),
    (re.compile(r"h([/(].*)?"), "'H' (hashed) is not supported; name the value"),
    (re.compile(r"lw|wl"), "'LW' is not supported; use 'L' (last day of the month)"),
    (re.compile(r"[0-9]+w|w[0-9]+|w"), "'W' (nearest weekday) is not supported; use a day of the week"),
    (re.compile(r"l-[0-9]+"), "'L-n' is not supported; use 'L' (last day of the month)"),
)


class Schedule(WallSchedule):
    """A parsed schedule. Equal `canonical` means equal instants; it is itself a valid schedule."""

    __slots__ = ("canonical", "text", "warnings")

    def __init__(self, text: str, fields: "list[_Field]") -> None:
        second, minute, hour, day, month, weekday = fields
        super().__init__(
            (second.mask, minute.mask, hour.mask),
            month.mask,
            DayRule(
                days=day.mask,
                last_day=day.last,
                weekdays=weekday.mask,
                nth=frozenset(weekday.nth),
                last_weekdays=weekday.last_days,
                both=day.starts_open or weekday.starts_open,
            ),
            is_interval=minute.starts_open or hour.starts_open,
        )
        self.text = text
        shown = fields if second.mask != 1 else fields[1:]
        self.canonical = " ".join(field.canonical() for field in shown)
        self.warnings = tuple(warning for field in shown for warning in field.warnings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __repr__(self) -> str:
        return f"Schedule({self.canonical!r})"


def parse(text: str, *, seconds: bool = False) -> Schedule:
    """The schedule that the text means. Six fields (seconds first) only with `seconds`.

    Raises InvalidSchedule, whose text names the field and, where there is one, the way to say it.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidSchedule(f"schedule: at most {MAX_LENGTH} characters are allowed")
    return _parsed(text, seconds)


def parse_canonical(canonical: str) -> Schedule:
    """The schedule of a canonical text, which may be longer than what a client may write."""
    return _parsed(canonical, True)


@lru_cache(maxsize=4096)
def _parsed(text: str, seconds: bool) -> Schedule:
    if not text.isascii():
        raise InvalidSchedule("schedule: only ASCII characters are allowed")
    normal = " ".join(text.lower().split())
    for pattern, word in HELP:
        if pattern.match(normal):
            raise InvalidSchedule(f"schedule: {word}")
    parts = ALIASES.get(normal, normal).split(" ") if normal else []
    schedule = Schedule(text, [_Field(*spec, part) for spec, part in _fields(parts, seconds)])
    if schedule.never:
        raise InvalidSchedule("schedule: day-of-month and month never meet, so it would never fire")
    return schedule


def _fields(parts: list[str], seconds: bool) -> list[tuple[tuple[str, int, int], str]]:
    if parts and parts[0].startswith("@"):
        known = ", ".join(ALIASES)
        raise InvalidSchedule(f"schedule: unknown alias '{parts[0]}'; known are {known}")
    if len(parts) == 6 and not seconds:
        raise InvalidSchedule(
            "schedule: six fields (seconds first) are not allowed on this server; write five, minute first"
        )
    if len(parts) == 7:
        raise InvalidSchedule("schedule: a year field is not supported; use 'end_time'")
    if len(parts) not in (5, 6):
        raise InvalidSchedule(
            f"schedule: {len(parts)} fields; five are needed: minute hour day-of-month month day-of-week"
        )
    padded = parts if len(parts) == 6 else ["0", *parts]
    return list(zip(FIELDS, padded, strict=True))


class _Field:
    """One field: its values as a mask, what is special about it, and how to write it down again."""

    def __init__(self, name: str, low: int, high: int, text: str) -> None:
        self.name, self.low, self.high = name, low, high
        self.top = 6 if name == "day-of-week" else high  # 7 is Sunday too, and no value of its own
        self.mask = 0
        self.last = False
        self.last_days = 0
        self.nth: list[tuple[int, int]] = []
        self.warnings: list[str] = []
        self.starts_open = text.startswith(("*", "?"))
        self.open_step = 0
        for n, term in enumerate(text.split(",")):
            self._term(term, text, first=n == 0)

    def canonical(self) -> str:
        """The field in its one way of writing."""
        if self.starts_open and self.open_step <= 1:
            return "*"
        covered = 0
        terms: list[str] = []
        if self.starts_open:
            terms.append(f"*/{self.open_step}")
            covered = self._stepped(self.low, self.top, self.open_step)
        terms += [str(n) for n in range(self.low, self.top + 1) if (self.mask & ~covered) >> n & 1]
        terms += ["L"] if self.last else []
        terms += [f"{day}#{nth}" for day, nth in sorted(set(self.nth))]
        terms += [f"{day}L" for day in range(7) if self.last_days >> day & 1]
        return ",".join(terms)

    def _term(self, term: str, whole: str, *, first: bool) -> None:
        if term == "?":
            if self.name not in ("day-of-month", "day-of-week") or whole != "?":
                raise self._refused("'?' stands alone, in the day fields only")
            term = "*"
        for pattern, word in TERM_HELP:
            if pattern.fullmatch(term):
                raise self._refused(word)
        if term == "*" or term.startswith("*/"):
            self._open(term, first=first)
        elif not self._special(term):
            self._plain(term)

    def _open(self, term: str, *, first: bool) -> None:
        step = 1 if term == "*" else self._step(term[2:])
        if step > self.top - self.low + 1:
            self.warnings.append(
                f"{self.name}: a step of {step} is wider than the field, so only {self.low} matches"
            )
            step = self.top - self.low + 1
        if first:
            self.open_step = step
        self.mask |= self._stepped(self.low, self.top, step)

    def _special(self, term: str) -> bool:
        if self.name == "day-of-month" and term == "l":
            self.last = True
        elif self.name == "day-of-week" and (match := NTH.fullmatch(term)):
            self.nth.append((self._value(match["day"]) % 7, int(match["nth"])))
        elif self.name == "day-of-week" and (match := LAST_DAY.fullmatch(term)):
            self.last_days |= 1 << self._value(match["before"] or match["after"]) % 7
        else:
            return False
        return True

    def _plain(self, term: str) -> None:
        match = TERM.fullmatch(term)
        if match is None:
            raise self._refused(f"'{term}' is not understood")
        first = self._value(match["first"])
        if match["last"] is None:
            self._from(first, match["step"])
            return
        last = self._value(match["last"])
        if first == last:
            self.warnings.append(
                f"{self.name}: '{term}' is the one value {first} (other cron readers take the whole field)"
            )
        if first > last:
            self._wrapped(first, last, match["step"], term)
            return
        step = self._step(match["step"]) if match["step"] else 1
        self.mask |= self._stepped(first, last, step)

    def _from(self, first: int, step: str | None) -> None:
        if step is None:
            self.mask |= self._bit(first)
        else:
            self.mask |= self._stepped(first % 7 if self.top == 6 else first, self.top, self._step(step))

    def _wrapped(self, first: int, last: int, step: str | None, term: str) -> None:
        if step is not None:
            raise self._refused(f"'{term}': a range that wraps may not have a step; list the values")
        self.mask |= self._stepped(first, self.top, 1) | self._bit(first)
        self.mask |= self._stepped(self.low, last, 1)

    def _stepped(self, first: int, last: int, step: int) -> int:
        mask = 0
        for value in range(first, last + 1, step):
            mask |= self._bit(value)
        return mask

    def _bit(self, value: int) -> int:
        return 1 << (value % 7 if self.top == 6 else value)

    def _value(self, text: str) -> int:
        names = {"month": MONTHS, "day-of-week": DAYS}.get(self.name, {})
        if text in names:
            return names[text]
        if not text.isdigit():
            raise self._refused(f"'{text}' is not understood")
        value = int(text)
        if not self.low <= value <= self.high:
            raise self._refused(f"{value} is not between {self.low} and {self.high}")
        return value

    def _step(self, text: str) -> int:
        if not text.isdigit() or int(text) == 0:
            raise self._refused(f"step '{text}' must be a whole number from 1")
        return int(text)

    def _refused(self, why: str) -> InvalidSchedule:
        return InvalidSchedule(f"schedule: {self.name}: {why}")
