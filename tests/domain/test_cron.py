"""What a client's edits of a cron lead to."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest

from contracts.events import CronEvent, CronPaused, CronResumed, CronUpdated, Rule
from contracts.ledger import Meta, Recorded
from contracts.spec import RunSpec
from domain.cron import CreateCron, Cron, UpdateCron, aware, decide, evolve
from domain.errors import InvalidField

CRON = UUID(int=1)
AT = datetime(2026, 11, 24, 12, 5, 0, 500_000, tzinfo=UTC)
RULE = Rule(canonical="*/10 * * * *")


def cron(*edits: UpdateCron, created: datetime = AT, at: datetime = AT, **fields: Any) -> Cron:
    command = CreateCron(
        cron_id=CRON,
        assistant_id=UUID(int=2),
        graph_id="g",
        user_id="u",
        schedule="*/10 * * * *",
        spec=RunSpec(),
        **fields,
    )
    found = told(None, decide(None, command, created)[0], created)
    for edit in edits:
        found = told(found, decide(found, edit, at)[0], at)
    return found


def told(found: Cron | None, events: list[CronEvent], at: datetime) -> Cron:
    for body in events:
        version = 1 if found is None else found.version + 1
        found = evolve(found, CRON, Recorded(1, CRON, version, body.TOPIC, Meta(at=at, actor="t"), body))
    assert found is not None
    return found


def later(**by: float) -> datetime:
    return AT + timedelta(**by)


def test_an_edit_tells_the_new_rule_and_the_last_occurrence_of_the_old_one() -> None:
    [event] = decide(cron(), UpdateCron(timezone="Europe/Berlin"), later(minutes=20))[0]
    assert isinstance(event, CronUpdated)
    assert event.rule == Rule(canonical="*/10 * * * *", timezone="Europe/Berlin")
    assert event.newest == datetime(2026, 11, 24, 12, 20, tzinfo=UTC)
    [early] = decide(cron(), UpdateCron(schedule="0 * * * *"), later(minutes=4))[0]
    assert isinstance(early, CronUpdated)
    assert early.newest is None


@pytest.mark.parametrize("same", [{"schedule": "*/10  * * * *"}, {"timezone": None}, {"metadata": {"k": 1}}])
def test_what_says_the_same_is_no_new_rule(same: dict[str, Any]) -> None:
    for event in decide(cron(), UpdateCron(**same), later(minutes=20))[0]:
        assert isinstance(event, CronUpdated)
        assert event.rule is None


def test_pause_and_resume_tell_their_rules() -> None:
    [paused] = decide(cron(), UpdateCron(enabled=False), later(minutes=20))[0]
    assert isinstance(paused, CronPaused)
    assert paused.rule == msgspec.structs.replace(RULE, active=False)
    assert paused.newest == datetime(2026, 11, 24, 12, 20, tzinfo=UTC)
    off = cron(UpdateCron(enabled=False))
    assert (off.is_active, off.rule.active) == (False, False)
    [resumed] = decide(off, UpdateCron(enabled=True), later(minutes=30))[0]
    assert isinstance(resumed, CronResumed)
    assert (resumed.rule, resumed.newest) == (RULE, datetime(2026, 11, 24, 12, 30, tzinfo=UTC))
    assert resumed.next_at == datetime(2026, 11, 24, 12, 40, tzinfo=UTC)


def test_an_edit_and_a_pause_at_once_end_the_old_rule_once() -> None:
    command = UpdateCron(schedule="0 * * * *", enabled=False)
    updated, paused = decide(cron(), command, later(minutes=20))[0]
    assert isinstance(updated, CronUpdated)
    assert isinstance(paused, CronPaused)
    assert (updated.newest is None, paused.newest is None) == (False, True)
    assert paused.rule == Rule(canonical="0 * * * *", active=False)


def test_an_edit_repairs_a_cron_whose_zone_is_gone() -> None:
    lost = msgspec.structs.replace(cron(), timezone="Atlantis/Capital")
    [event] = decide(lost, UpdateCron(timezone="Europe/Berlin"), later(minutes=20))[0]
    assert isinstance(event, CronUpdated)
    assert event.newest is None


def test_resuming_behind_the_end_is_refused() -> None:
    ended = cron(UpdateCron(enabled=False), end_time=later(minutes=5))
    with pytest.raises(InvalidField, match="end_time has passed"):
        decide(ended, UpdateCron(enabled=True), later(minutes=6))


@pytest.mark.parametrize(("year", "hours"), [(9999, -10), (1, 10)])
def test_an_end_beyond_the_calendar_is_refused(year: int, hours: int) -> None:
    edge = datetime(year, 12 if year > 1 else 1, 31 if year > 1 else 1, 23 if year > 1 else 0)  # noqa: DTZ001
    with pytest.raises(InvalidField, match="years 1 to 9999"):
        aware(edge.replace(tzinfo=timezone(timedelta(hours=hours))))
    with pytest.raises(InvalidField):
        decide(
            cron(), UpdateCron(end_time=edge.replace(tzinfo=timezone(timedelta(hours=hours)))), later(hours=1)
        )
