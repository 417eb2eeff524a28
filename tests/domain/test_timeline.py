"""What becomes of occurrences that nobody has decided, beside an oracle that looks at each second."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import CatchUp, Rule
from domain.schedule import count_between, occurrences, parse_canonical, zone
from domain.timeline import (
    FOREVER,
    GRACE_S,
    Fire,
    Miss,
    Stretch,
    Timeline,
    end_of,
    fires_at,
    missed,
    newest_of,
    next_of,
    undecided,
)

NOW = int(datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC).timestamp())
DAY = 86_400
CREATED = NOW - 400 * DAY


def rule(
    text: str, *, active: bool = True, zone_name: str | None = None, end: int | None = None, **more: Any
) -> Rule:
    end_time = None if end is None else datetime.fromtimestamp(end, UTC)
    return Rule(canonical=text, timezone=zone_name, end_time=end_time, active=active, **more)


def instant(epoch: int) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


Edit = tuple[int, Rule] | tuple[int, Rule, CatchUp]


def of(first: Rule, *edits: Edit, since: int = CREATED) -> Timeline:
    timeline = Timeline((Stretch(since, FOREVER, first),))
    for edit in edits:
        timeline = timeline.then(*edit)
    return timeline


def told(timeline: Timeline, away_s: int, *, window_s: int = DAY, now: int = NOW) -> list[str]:
    return [
        f"{clock(d.due)} {d.kind}"
        if isinstance(d, Fire)
        else f"{clock(d.first)}-{clock(d.last)} {d.count} {d.reason}"
        for d in undecided(timeline, NOW - away_s, now, window_s)
    ]


def clock(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%H:%M:%S")


HOURLY, HALVES, PAUSED = rule("0 * * * *"), rule("*/30 * * * *"), rule("*/30 * * * *", active=False)


@pytest.mark.parametrize(
    ("timeline", "away_s", "wanted"),
    [
        pytest.param(of(rule("0 9 * * *")), 3600, [], id="nothing was due"),
        pytest.param(
            of(rule("*/3 * * * * *")), 5, ["12:00:27 schedule", "12:00:30 schedule"], id="a hiccup is late"
        ),
        pytest.param(
            of(rule("59 * * * *")),
            7200,
            ["10:59:00-10:59:00 1 coalesced", "11:59:00 catch_up"],
            id="the newest one fires",
        ),
        pytest.param(
            of(rule("* * * * *")),
            600,
            ["11:51:00-11:59:00 9 coalesced", "12:00:00 schedule"],
            id="with a late one the older are missed",
        ),
        pytest.param(
            of(rule("0 0 1 * *")), 40 * DAY, ["00:00:00-00:00:00 1 window"], id="older than the window"
        ),
        pytest.param(
            of(HOURLY),
            3 * DAY,
            ["13:00:00-12:00:00 48 window", "13:00:00-11:00:00 23 coalesced", "12:00:00 schedule"],
            id="the window splits the stretch",
        ),
        pytest.param(
            of(HALVES, (NOW - 1500, rule("0 0 1 1 *"))),
            3600,
            ["11:30:00 catch_up"],
            id="due before an edit",
        ),
        pytest.param(
            of(HALVES, (NOW - 1500, PAUSED)),
            3600,
            ["11:30:00-11:30:00 1 paused"],
            id="paused since: told, not fired",
        ),
        pytest.param(
            of(HALVES, (NOW - 10, PAUSED)),
            1700,
            ["12:00:00 schedule"],
            id="paused a moment after it was due",
        ),
        pytest.param(
            of(HALVES, (NOW - 3000, PAUSED), (NOW - 900, HALVES)),
            4000,
            ["11:00:00-11:00:00 1 coalesced", "11:30:00-11:30:00 1 paused", "12:00:00 schedule"],
            id="a pause that is over",
        ),
        pytest.param(of(PAUSED), 40 * DAY, [], id="a pause that lasts"),
        pytest.param(
            of(rule("*/20 * * * *", end=NOW - 1800)),
            3600,
            ["11:20:00 catch_up"],
            id="it fires late, but not beyond its end",
        ),
        pytest.param(
            of(rule("*/30 * * * *", zone_name="Atlantis/Capital"), (NOW - 1500, HALVES)),
            3600,
            ["12:00:00 schedule"],
            id="a zone that nobody knows any more",
        ),
    ],
)
def test_told(timeline: Timeline, away_s: int, wanted: list[str]) -> None:
    assert told(timeline, away_s) == wanted


SKIP = rule("*/20 * * * *", catch_up="skip")
ALL = rule("*/20 * * * *", catch_up="all")


@pytest.mark.parametrize(
    ("timeline", "away_s", "wanted"),
    [
        pytest.param(
            of(SKIP),
            7200,
            ["10:20:00-11:40:00 5 skip", "12:00:00 schedule"],
            id="nothing is caught up, and late is not missed",
        ),
        pytest.param(
            of(rule("40 * * * *", catch_up="skip")),
            3600,
            ["11:40:00-11:40:00 1 skip"],
            id="not even the newest",
        ),
        pytest.param(
            of(ALL),
            3600,
            ["11:20:00 catch_up", "11:40:00 catch_up", "12:00:00 schedule"],
            id="each is caught up, and the late one fires as usual",
        ),
        pytest.param(
            of(rule("*/20 * * * *", catch_up="all", window_s=1800)),
            3600,
            ["11:20:00-11:20:00 1 window", "11:40:00 catch_up", "12:00:00 schedule"],
            id="each in the window of the cron",
        ),
        pytest.param(
            of(rule("0 0 1 * *", window_s=40 * DAY)), 40 * DAY, ["00:00:00 catch_up"], id="a longer window"
        ),
        pytest.param(
            of(rule("40 * * * *", window_s=0)), 3600, ["11:40:00-11:40:00 1 window"], id="no window at all"
        ),
        pytest.param(
            of(rule("0 * * * *", window_s=0)), 1800, ["12:00:00 schedule"], id="late is late without a window"
        ),
        pytest.param(
            of(rule("*/20 * * * *", catch_up="all", start_time=instant(NOW - 1830))),
            7200,
            ["11:40:00 catch_up", "12:00:00 schedule"],
            id="what is before the start is not missed",
        ),
        pytest.param(
            of(rule("*/20 * * * *", start_time=instant(NOW - 30))),
            7200,
            ["12:00:00 schedule"],
            id="the start is inclusive",
        ),
        pytest.param(
            of(rule("*/20 * * * *", start_time=instant(NOW - 30) + timedelta(microseconds=1))),
            7200,
            [],
            id="to the microsecond",
        ),
        pytest.param(
            of(
                rule("*/20 * * * *", start_time=instant(NOW + DAY)),
                (NOW - 3000, rule("*/20 * * * *", catch_up="all")),
            ),
            7200,
            ["11:20:00 catch_up", "11:40:00 catch_up", "12:00:00 schedule"],
            id="the start was taken away",
        ),
        pytest.param(
            of(ALL, (NOW - 3000, rule("*/20 * * * *", active=False)), (NOW - 1800, ALL)),
            4000,
            ["11:00:00 catch_up", "11:20:00-11:20:00 1 paused", "11:40:00 catch_up", "12:00:00 schedule"],
            id="what a pause covers is not caught up",
        ),
        pytest.param(
            of(HALVES, (NOW - 10, rule("0 0 1 1 *", catch_up="all"))),
            7200,
            ["10:30:00 catch_up", "11:00:00 catch_up", "11:30:00 catch_up", "12:00:00 schedule"],
            id="the rule in force says how",
        ),
    ],
)
def test_what_fires_late(timeline: Timeline, away_s: int, wanted: list[str]) -> None:
    assert told(timeline, away_s) == wanted


@pytest.mark.parametrize("edited_s", [300, 1000, 6000, 50_000])
def test_the_newest_hundred_are_caught_up(edited_s: int) -> None:
    minutely = rule("* * * * *", catch_up="all")
    decisions = list(undecided(of(minutely, (NOW - edited_s, minutely)), NOW - 10 * 3600, NOW, DAY))
    misses = [d for d in decisions if isinstance(d, Miss)]
    caught_up = [d.due for d in decisions if isinstance(d, Fire) and d.kind == "catch_up"]
    assert [d.reason for d in misses] == ["coalesced"] * len(misses)
    assert sum(d.count for d in misses) == 599 - 100
    assert len(caught_up) == 100
    assert caught_up == list(range(caught_up[0], caught_up[0] + 6000, 60))
    assert clock(caught_up[-1]) == "11:59:00"


def test_an_edit_does_not_reach_back() -> None:
    timeline = of(HALVES, (NOW, HOURLY), (NOW - 100, PAUSED))
    assert [(s.after, s.until) for s in timeline.stretches] == [
        (CREATED, NOW),
        (NOW, NOW),
        (NOW, FOREVER),
    ]
    assert timeline.behind(NOW).stretches == timeline.stretches[-1:]


def test_what_is_stored_of_a_stretch() -> None:
    [miss, _] = undecided(of(HOURLY), NOW - 7200, NOW, DAY)
    assert isinstance(miss, Miss)
    event = missed(miss, 3, None)
    assert (event.first, event.last) == (datetime(2026, 11, 24, 11, tzinfo=UTC),) * 2
    assert (event.count, event.counted_all, event.reason, event.next_at) == (1, True, "coalesced", None)
    assert (event.local, event.last_local, event.revision) == ("2026-11-24T11:00:00+00:00",) * 2 + (3,)


def test_the_next_and_the_newest() -> None:
    short = rule("0 * * * *", end=NOW)
    assert clock(next_of(short, NOW - 3600) or 0) == "12:00:00"
    assert next_of(short, NOW) is None
    assert clock(newest_of(short, NOW - 7200, NOW + 7200) or 0) == "12:00:00"
    later = rule("0 * * * *", start_time=instant(NOW))
    assert clock(next_of(later, NOW - 7200) or 0) == "13:00:00"
    assert newest_of(later, NOW - 7200, NOW) is None
    assert newest_of(rule("0 * * * *", zone_name="Atlantis/Capital"), 0, NOW) is None


# --- beside the oracle --------------------------------------------------------------------------------

TEXTS = ("*/7 * * * * *", "* * * * *", "*/3 * * * *", "0 * * * *", "30 11 * * *", "0 0 1 1 *")
ZONES = (None, "Australia/Lord_Howe", "America/New_York")
BEGIN = int(datetime(2026, 11, 1, 5, 30, tzinfo=UTC).timestamp())  # half an hour before New York's overlap
SPAN = 3 * 3600
rules = st.builds(
    lambda text, active, zone_name, end, catch_up, window_s, start, jitter_s, until: rule(
        text,
        active=active,
        zone_name=zone_name,
        end=end,
        catch_up=catch_up,
        window_s=window_s,
        start_time=None if start is None else instant(start),
        jitter_s=jitter_s,
        until=None if until is None or active else instant(until),
    ),
    st.sampled_from(TEXTS),
    st.sampled_from([True, True, False]),
    st.sampled_from(ZONES),
    st.none() | st.integers(BEGIN, BEGIN + SPAN),
    st.sampled_from(["latest", "skip", "all"]),
    st.sampled_from([None, None, 0, 1200]),
    st.none() | st.integers(BEGIN, BEGIN + SPAN),
    st.sampled_from([0, 0, 30, 3600]),
    st.none() | st.integers(BEGIN, BEGIN + SPAN),
)
instants = st.integers(BEGIN, BEGIN + SPAN)
made_up = st.sampled_from(["skip", "latest", "all"])
edits = st.lists(st.tuples(instants, rules, made_up), max_size=5)
Changes = list[tuple[int, Rule, CatchUp]]


class Instant(NamedTuple):
    """One that is due, and by what."""

    group: int  # -1: it counts with all that are not paused; else its pause
    makes_up: CatchUp
    fires: float


def oracle(first: Rule, changes: Changes, cursor: int, now: int, window_s: int) -> dict[int, str]:
    """Each undecided instant and what becomes of it, second by second."""
    stretches: list[list[Any]] = [[BEGIN, None, first, "skip"]]
    for when, new, makes_up in changes:
        stretches[-1][1] = max(stretches[-1][0], when)
        stretches[-1][3] = makes_up
        stretches.append([stretches[-1][1], None, new, "skip"])
    began, _, present, _ = stretches[-1]
    is_active = present.active or (present.until is not None and instant(now) >= present.until)
    due: dict[int, Instant] = {}
    for n, (after, until, found, makes_up) in enumerate(stretches):
        schedule, place = parse_canonical(found.canonical), zone(found.timezone)
        over = until is not None
        for at in occurrences(schedule, place, after, until if over else now, 100_000):
            has_begun = found.start_time is None or instant(at) >= found.start_time
            if not (max(cursor, BEGIN) < at <= min(now, end_of(found))) or not has_begun:
                continue
            paused = not found.active and (found.until is None or instant(at) < found.until)
            if paused:
                is_open = not over and (found.until is None or instant(now) < found.until)
                if not is_open:
                    due[at] = Instant(n, makes_up, at)
                continue
            fires = fires_at(found, b"x", at)
            if over and not is_active and fires > began:
                due[at] = Instant(n, "skip", at)
            elif over or fires <= now:
                due[at] = Instant(-1, present.catch_up, min(fires, max(at, began)) if over else fires)
    window_s = window_s if present.window_s is None else present.window_s
    fates: dict[int, str] = {}
    for group in {its.group for its in due.values()}:
        its = {at: one for at, one in due.items() if one.group == group}
        makes_up = next(iter(its.values())).makes_up
        if group >= 0 and (makes_up == "skip" or not is_active):
            fates |= dict.fromkeys(its, "paused")
            continue
        late = [at for at, one in its.items() if one.fires > now - GRACE_S - 1]
        old = [at for at in its if at not in late]
        candidates = {"latest": [] if late else old[-1:], "skip": [], "all": old[-100:]}[makes_up]
        catch_up = {at for at in candidates if is_active and at >= now - window_s}
        passed_over = "skip" if makes_up == "skip" else "coalesced"
        for at in its:
            if at in late:
                fates[at] = "schedule"
            elif at in catch_up:
                fates[at] = "catch_up"
            else:
                window = at < now - window_s
                fates[at] = "window" if window else (passed_over if is_active else "paused")
    return dict(sorted(fates.items()))


def expanded(decisions: list[Fire | Miss], due: list[int]) -> dict[int, str]:
    """Each instant that the decisions are about; fails when one is in two of them."""
    found: dict[int, str] = {}
    for decision in decisions:
        if isinstance(decision, Fire):
            its = {decision.due: str(decision.kind)}
        else:
            its = {at: str(decision.reason) for at in due if decision.first <= at <= decision.last}
            assert decision.count == len(its)
            assert {decision.first, decision.last} <= its.keys()
        assert not found.keys() & its.keys()
        assert not found or max(found) < min(its)
        found |= its
    return found


@settings(max_examples=100, deadline=None)
@given(first=rules, changes=edits, cursor=instants, now=instants, window_s=st.sampled_from([0, 600, DAY]))
def test_every_instant_is_decided_once_as_the_oracle_says(
    first: Rule, changes: Changes, cursor: int, now: int, window_s: int
) -> None:
    # Clocks of several gateways may disagree, so the edits are in no order. One that lies ahead of the
    # scheduler's clock is in the timeline already.
    timeline = of(first, *changes, since=BEGIN)
    wanted = oracle(first, changes, cursor, now, window_s)
    decisions = list(undecided(timeline, cursor, now, window_s, b"x"))
    assert expanded(decisions, sorted(wanted)) == wanted
    assert list(undecided(timeline.behind(cursor), cursor, now, window_s, b"x")) == decisions


steps = st.lists(
    st.tuples(st.integers(0, 1200), st.none() | st.tuples(rules, made_up), st.integers(0, 8)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(first=rules, walk=steps)
def test_looks_and_failures_in_any_order_lose_nothing(
    first: Rule, walk: list[tuple[int, tuple[Rule, CatchUp] | None, int]]
) -> None:
    """Time goes on; then the cron is edited while nobody looks, or a look stores so many decisions and dies."""
    timeline, cursor, now = of(first, since=BEGIN), BEGIN, BEGIN
    changes: Changes = []
    decided: list[tuple[int, int]] = []
    for after_s, edit, stored in [*walk, (3600, None, 10_000)]:
        now += after_s
        if edit is not None:
            at = max(now, cursor)
            timeline = timeline.behind(cursor).then(at, *edit)
            changes.append((at, *edit))
            continue
        for decision in list(undecided(timeline, cursor, now, 900, b"x"))[:stored]:
            if isinstance(decision, Fire):
                decided.append((decision.due, decision.due))
            else:
                decided.append((decision.first, decision.last))
            cursor = decided[-1][1]
    due = sorted(oracle(first, changes, BEGIN, now, 900))
    for at in due:
        assert sum(first_at <= at <= last_at for first_at, last_at in decided) == 1
    assert all(first_at in due and last_at in due for first_at, last_at in decided)


@pytest.mark.parametrize("text", ["* * * * * *", "*/7 * * * *", "0 */3 * * *", "30 11 * * *", "0 0 * * 1"])
@pytest.mark.parametrize("away_s", [10, 59, 61, 3600, 2 * DAY, 20 * DAY])
def test_stretches_count_what_they_hold(text: str, away_s: int) -> None:
    decisions = list(undecided(of(rule(text)), NOW - away_s, NOW, DAY))
    misses = [d for d in decisions if isinstance(d, Miss)]
    if all(miss.counted_all for miss in misses):
        count, _ = count_between(parse_canonical(text), zone(None), NOW - away_s, NOW, 10**7)
        assert sum(miss.count for miss in misses) + len(decisions) - len(misses) == count
