"""The timer: who is looked at when."""

from contracts.events import Rule
from domain.timeline import FOREVER, Stretch, Timeline
from services.scheduler.timer import Timer

RULE = Rule(canonical="* * * * *", timezone=None)


def timer_of(*cron_ids: bytes) -> Timer:
    timer = Timer()
    for cron_id in cron_ids:
        timer.hold(cron_id, Timeline((Stretch(0, FOREVER, RULE),)), 0, 1, 1, 0)
    return timer


def test_whoever_is_put_in_the_line_again_keeps_nobody_out_of_it() -> None:
    timer = timer_of(b"a", b"b", b"c")
    for at in (0.0, 5.0, 0.0):
        timer.look(b"a", at)
    timer.look(b"b", 0.0)
    timer.look(b"c", 1.0)
    assert timer.to_look_at(2.0, 2) == [b"a", b"b"]
    assert timer.to_look_at(2.0, 9) == [b"a", b"b", b"c"]
    assert timer.to_look_at(2.0, 9) == [b"a", b"b", b"c"]


def test_one_that_is_set_aside_leaves_its_group() -> None:
    timer = timer_of(b"a", b"b")
    assert timer.settle(b"a", 59)
    assert timer.settle(b"b", 59)
    timer.set_aside(b"a", 90.0)
    timer.set_aside(b"nobody", 90.0)
    [group] = timer.due(60)
    assert [due.cron_id for due in timer.dues(group, 0, 9)] == [b"b"]
    assert (timer.next_look(), timer.cursor(b"a")) == (90.0, 0)
