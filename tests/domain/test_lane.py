"""Lanes: one run at a time, in the order of their requests."""

from uuid import UUID

import pytest

from contracts.events import LaneChanged, LaneRun
from contracts.ledger import Append
from domain.errors import LaneFull, NotSupported, ThreadBusy, ThreadNotFound
from domain.lane import (
    CloseLane,
    JoinLane,
    Lane,
    LaneCommand,
    LeaveLane,
    MultitaskStrategy,
    appends,
    decide,
    evolve,
    lane_id_of,
)

THREAD = UUID("01900000-0000-7000-8000-000000000001")
A, B, C = (UUID(int=n) for n in (10, 11, 12))


def given(*commands: LaneCommand) -> Lane:
    lane = Lane(thread_id=THREAD)
    for command in commands:
        for event in decide(lane, command):
            lane = evolve(lane, event)
    return lane


def line(lane: Lane) -> list[UUID]:
    return [entry.run_id for entry in lane.in_flight]


def test_first_run_is_the_head() -> None:
    lane = given(JoinLane(run_id=A))
    assert lane.head == A
    assert lane.version == 1


def test_enqueue_waits_behind_the_others() -> None:
    assert line(given(JoinLane(run_id=A), JoinLane(run_id=B), JoinLane(run_id=C))) == [A, B, C]


def test_event_carries_the_whole_line() -> None:
    [event] = decide(given(JoinLane(run_id=A)), JoinLane(run_id=B))
    assert event == LaneChanged(
        thread_id=THREAD, change="joined", run_id=B, in_flight=(LaneRun(A), LaneRun(B))
    )


def test_joining_twice_changes_nothing() -> None:
    assert decide(given(JoinLane(run_id=A)), JoinLane(run_id=A)) == []


@pytest.mark.parametrize("waiting", [1, 2])
def test_reject_counts_waiting_runs_too(waiting: int) -> None:
    lane = given(*(JoinLane(run_id=run) for run in (A, B)[:waiting]))
    with pytest.raises(ThreadBusy, match="already running"):
        decide(lane, JoinLane(run_id=C, strategy="reject"))


def test_reject_on_a_free_thread_runs() -> None:
    assert given(JoinLane(run_id=A, strategy="reject")).head == A


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
def test_strategies_that_lanes_do_not_know_are_refused(strategy: MultitaskStrategy) -> None:
    with pytest.raises(NotSupported, match="multitask_strategy"):
        decide(Lane(thread_id=THREAD), JoinLane(run_id=A, strategy=strategy))


def test_limit_counts_those_that_wait() -> None:
    lane = given(JoinLane(run_id=A, limit=1), JoinLane(run_id=B, limit=1))
    assert line(lane) == [A, B]
    with pytest.raises(LaneFull):
        decide(lane, JoinLane(run_id=C, limit=1))


def test_head_leaves_and_the_next_follows() -> None:
    assert given(JoinLane(run_id=A), JoinLane(run_id=B), LeaveLane(run_id=A)).head == B


def test_one_from_the_middle_leaves() -> None:
    lane = given(*(JoinLane(run_id=run) for run in (A, B, C)), LeaveLane(run_id=B))
    assert line(lane) == [A, C]


def test_leaving_twice_changes_nothing() -> None:
    assert decide(given(JoinLane(run_id=A), LeaveLane(run_id=A)), LeaveLane(run_id=A)) == []


def test_closed_lane_lets_nobody_in() -> None:
    lane = given(JoinLane(run_id=A), CloseLane())
    assert lane.closed
    assert line(lane) == []
    assert decide(lane, CloseLane()) == []
    assert decide(lane, LeaveLane(run_id=A)) == []
    with pytest.raises(ThreadNotFound):
        decide(lane, JoinLane(run_id=B))


def test_append_rests_on_the_version_that_was_read() -> None:
    lane = given(JoinLane(run_id=A))
    events = decide(lane, JoinLane(run_id=B))
    assert appends(lane, events) == (Append(lane_id_of(THREAD), 1, tuple(events)),)
    assert appends(lane, []) == ()


def test_stream_id_is_stable_and_keeps_the_time_prefix() -> None:
    assert str(lane_id_of(THREAD)).startswith("01900000-0000")
    assert lane_id_of(THREAD) != lane_id_of(A)
    assert lane_id_of(THREAD) == Lane(thread_id=THREAD).stream_id
