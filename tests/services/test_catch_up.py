"""What becomes of occurrences that nobody decided in time."""

from datetime import UTC, datetime

import pytest

from domain.schedule import parse, zone
from services.scheduler.catch_up import GRACE_S, Backlog, backlog

NOW = int(datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC).timestamp())
DAY = 86_400


def after(text: str, away_s: int, *, until: int = NOW, window_s: int = DAY) -> Backlog:
    return backlog(parse(text, seconds=True), zone(None), NOW - away_s, until, NOW, window_s)


def clock(epoch: int | None) -> str:
    return "" if epoch is None else datetime.fromtimestamp(epoch, UTC).strftime("%H:%M:%S")


def test_nothing_was_missed() -> None:
    assert after("0 9 * * *", 3600) == Backlog((), None, ())


def test_a_hiccup_is_only_late() -> None:
    found = after("* * * * * *", 5)
    assert [clock(due) for due in found.late] == [f"12:00:{s}" for s in range(26, 31)]
    assert (found.missed, found.catch_up) == ((), None)


def test_the_newest_one_fires_and_the_others_are_told() -> None:
    found = after("*/10 * * * *", 7200, until=NOW - GRACE_S - 1)
    assert clock(found.catch_up) == "11:50:00"
    [missed] = found.missed
    assert (missed.reason, missed.count) == ("coalesced", 10)
    assert (missed.first.hour, missed.last.strftime("%H:%M")) == (10, "11:40")


def test_with_a_late_one_the_older_are_all_missed() -> None:
    found = after("* * * * *", 600)
    assert [clock(due) for due in found.late] == ["12:00:00"]
    assert found.catch_up is None
    assert found.missed[0].count == 9


def test_older_than_the_window_never_fires() -> None:
    found = after("0 0 1 * *", 40 * DAY)
    assert found.catch_up is None
    [missed] = found.missed
    assert (missed.reason, missed.count, missed.last.day) == ("window", 1, 1)


def test_the_window_splits_the_stretch() -> None:
    found = after("0 * * * *", 3 * DAY)
    assert [(m.reason, m.count) for m in found.missed] == [("window", 48), ("coalesced", 23)]
    assert [clock(due) for due in found.late] == ["12:00:00"]


@pytest.mark.parametrize("text", ["* * * * * *", "*/7 * * * *", "0 */3 * * *", "30 11 * * *", "0 0 * * 1"])
@pytest.mark.parametrize("away_s", [10, 59, 61, 3600, 2 * DAY, 20 * DAY])
def test_every_occurrence_is_told_once(text: str, away_s: int) -> None:
    from domain.schedule import count_between

    found = after(text, away_s)
    told = sum(m.count for m in found.missed) + len(found.late) + (found.catch_up is not None)
    count, complete = count_between(parse(text, seconds=True), zone(None), NOW - away_s, NOW, 10**7)
    if all(m.counted_all for m in found.missed):
        assert complete
        assert told == count
    lasts = [int(m.last.timestamp()) for m in found.missed]
    rest = [*([found.catch_up] if found.catch_up else []), *found.late]
    assert lasts + rest == sorted(set(lasts + rest))
