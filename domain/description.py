"""A schedule in words, where there are right ones."""

from functools import lru_cache

from cron_descriptor import ExpressionDescriptor, Options

from domain.cron_grammar import Schedule

SPANS = (
    ("second", 0, 60),
    ("minute", 0, 60),
    ("hour", 0, 24),
    ("day", 1, 32),
    ("month", 1, 13),
    ("weekday", 0, 7),
)
EVENLY = ("second", "minute", "hour")
"""Of these a step can be said as an interval, if it comes out even at the end of the field."""
RANGE = 3
"""So many values, all in a row, are said as a range; of ranges among others the library says too much."""


def description(schedule: Schedule, timezone: str | None) -> str:
    """`At 09:00, Monday through Friday, Europe/Berlin`; the schedule itself where words would say something else."""
    return f"{_words(schedule.canonical)}, {timezone or 'UTC'}"


@lru_cache(maxsize=4096)
def _words(canonical: str) -> str:
    fields = canonical.split(" ")
    spans = SPANS[-len(fields) :]
    day, weekday = fields[-3], fields[-1]
    if not _is_plain(day, weekday):
        return f"On the schedule {canonical}"
    options = Options()
    options.locale_code = "en_US"  # else whatever the host speaks
    options.use_24hour_time_format = True
    normal = " ".join(_normal(*span, field) for span, field in zip(spans, fields, strict=True))
    return str(ExpressionDescriptor(normal, options).get_description())


def _is_plain(day: str, weekday: str) -> bool:
    """Whether the library's words for the days say what the schedule means.

    It says "or" where a field that begins with `*` makes it "and", leaves it out before special terms, and of
    several of these it tells one.
    """
    if "*" not in (day, weekday) and (day.startswith("*") or weekday.startswith("*") or {*weekday} & {*"L#"}):
        return False
    return not any("," in field and any(c in "L#" for c in field) for field in (day, weekday))


def _normal(name: str, low: int, end: int, field: str) -> str:
    """The field as it is said best: an even step as it is, other values one by one, with ranges."""
    first, *more = field.split(",")
    if first.startswith("*/"):
        step = int(first[2:])
        if name in EVENLY and not more and end % step == 0:
            return field
        values = {*range(low, end, step), *map(int, more)}
    elif all(term.isdigit() for term in (first, *more)):
        values = {int(term) for term in (first, *more)}
    else:
        return field
    ordered = sorted(values)
    if len(ordered) >= RANGE and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}-{ordered[-1]}"
    return ",".join(map(str, ordered))
