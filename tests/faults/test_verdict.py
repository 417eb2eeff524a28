"""The judge sees what is lost, doubled and strange; else the days that it judges would prove nothing."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from contracts.events import (
    CronCreated,
    CronDeleted,
    CronPaused,
    CronResumed,
    CronUpdated,
    LaneChanged,
    LaneRun,
    OccurrenceSkipped,
    OccurrencesMissed,
    RunRequested,
    RunStarted,
    RunSucceeded,
)
from contracts.ledger import Body, Meta, Payload, Recorded
from tests.faults.verdict import unsettled, untrue

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
CRON, RUN, THREAD = UUID(int=1), UUID(int=2), UUID(int=3)
CREATED = CronCreated(
    assistant_id=UUID(int=4),
    graph_id="g",
    user_id="u",
    schedule="* * * * *",
    canonical="* * * * *",
    payload=Payload(inline=msgspec.Raw(b"{}")),
    tzdata="",
)


def minute(number: int) -> datetime:
    return NOON + timedelta(minutes=number)


def fired(number: int) -> RunRequested:
    return RunRequested(
        thread_id=THREAD,
        cron_id=CRON,
        assistant_id=UUID(int=4),
        graph_id="g",
        user_id="u",
        kwargs=Payload(inline=msgspec.Raw(b"{}")),
        scheduled_for=minute(number),
    )


def missed(first: int, last: int, count: int) -> OccurrencesMissed:
    return OccurrencesMissed(first=minute(first), last=minute(last), count=count, reason="coalesced")


def told_of(*bodies: tuple[float, Body]) -> list[Recorded]:
    """A ledger of these, each so many minutes after noon; the cron is made half a minute before it."""
    events = [(-0.5, CREATED), *bodies]
    return [
        Recorded(
            position=n,
            stream_id=CRON if body.TOPIC.startswith("cron.") else UUID(int=100 + n),
            version=n,
            topic=body.TOPIC,
            meta=Meta(at=NOON + timedelta(minutes=at), actor="t"),
            body=body,
        )
        for n, (at, body) in enumerate(events, start=1)
    ]


def words(recorded: list[Recorded], until: float) -> list[str]:
    end = NOON + timedelta(minutes=until)
    return [fault.split(" of cron")[0] for fault in untrue(recorded, int(end.timestamp()))]


SKIPPED = OccurrenceSkipped(thread_id=THREAD, cron_id=CRON, scheduled_for=minute(1), reason="overlap")


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        ([(0, fired(0)), (1, SKIPPED), (2, fired(2))], []),
        ([(0, fired(0)), (2, missed(1, 2, 2))], []),
        ([(0, fired(0)), (1, fired(1)), (2, missed(0, 2, 1))], []),  # a block around what was decided
        ([(0, fired(0)), (2, fired(2))], ["lost: 1"]),
        ([(0, fired(0)), (1, fired(1)), (1, SKIPPED), (2, fired(2))], ["doubled: 1"]),
        ([(1, fired(1)), (2, missed(0, 2, 3))], ["doubled: 1"]),
        ([(0, fired(0)), (1, fired(1)), (2, fired(2)), (2, fired(7))], ["strange: 1"]),
        ([(0, fired(0)), (0.5, CronPaused())], []),
        ([(0, fired(0)), (0.5, CronPaused()), (2, missed(1, 2, 2))], []),
        ([(0, fired(0)), (0.5, CronPaused()), (2, fired(2))], ["strange: 1"]),
        ([(0, fired(0)), (0.5, CronPaused()), (2.5, CronResumed())], ["lost: 2"]),
        ([(0, fired(0)), (0.5, CronPaused()), (2.5, missed(1, 2, 2)), (2.5, CronResumed())], []),
        ([(0, fired(0)), (1, fired(1)), (1.5, CronDeleted())], []),
        ([(1, fired(1)), (2.5, CronDeleted())], ["lost: 1"]),
        ([(0, fired(0)), (0.5, CronUpdated(canonical="0 * * * *"))], []),
        ([(0, fired(0)), (1, fired(1)), (1.5, CronUpdated(end_time=minute(1)))], []),
    ],
)
def test_occurrences(bodies: list[tuple[float, Body]], expected: list[str]) -> None:
    assert words(told_of(*bodies), 2.9) == expected


def test_runs_and_lanes() -> None:
    def run(number: int, body: Body) -> Recorded:
        return Recorded(number, RUN, number, body.TOPIC, Meta(at=NOON, actor="t"), body)

    ended = RunSucceeded(thread_id=THREAD)
    line = LaneChanged(thread_id=THREAD, change="joined", in_flight=(LaneRun(run_id=RUN),))
    assert unsettled([run(1, fired(0)), run(2, ended)]) == []
    assert "no outcome" in unsettled([run(1, fired(0))])[0]
    assert "2 outcomes" in unsettled([run(1, fired(0)), run(2, ended), run(3, ended)])[0]
    assert "holds" in unsettled([run(1, line)])[0]
    assert unsettled([run(1, line), run(2, LaneChanged(thread_id=THREAD, change="left"))]) == []


def test_runs_beside_each_other() -> None:
    def one(run_id: int, body: Body) -> Recorded:
        return Recorded(1, UUID(int=run_id), 1, body.TOPIC, Meta(at=NOON, actor="t"), body)

    def beside(*recorded: Recorded) -> list[str]:
        return [fault for fault in unsettled(list(recorded)) if "beside" in fault]

    began, ended = RunStarted(thread_id=THREAD, attempt=1, worker="w"), RunSucceeded(thread_id=THREAD)
    first, second = fired(0), fired(1)
    assert beside(one(1, first), one(2, second), one(1, began), one(1, ended), one(2, began)) == []
    assert beside(one(1, first), one(1, began), one(1, began)) == []  # another attempt
    assert len(beside(one(1, first), one(2, second), one(1, began), one(2, began))) == 1
    alone, turns = {"temporary": True}, {"temporary": True, "cron_lane": True}
    for kind, faults in ((alone, 0), (turns, 1)):
        a, b = (msgspec.structs.replace(body, **kind) for body in (first, second))
        assert len(beside(one(1, a), one(2, b), one(1, began), one(2, began))) == faults
