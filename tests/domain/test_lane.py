"""Lanes: one run at a time, in which order, and what each strategy does to those that are there."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from contracts.events import LaneChanged, LaneRun, Stopping
from contracts.ledger import Append
from domain.errors import LaneFull, RunNotActive, ThreadBusy, ThreadNotFound
from domain.lane import (
    CloseLane,
    Displaced,
    JoinLane,
    Lane,
    LaneCommand,
    LeaveLane,
    MultitaskStrategy,
    OpenLane,
    StartInLane,
    StopInLane,
    appends,
    decide,
    evolve,
    lane_id_of,
    stops,
)

THREAD = UUID("01900000-0000-7000-8000-000000000001")
A, B, C, D = (UUID(int=n) for n in (10, 11, 12, 13))
NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
SOON, LATER = NOW + timedelta(minutes=1), NOW + timedelta(minutes=2)


def given(*commands: LaneCommand) -> Lane:
    lane = Lane(thread_id=THREAD)
    for command in commands:
        for event in decide(lane, command):
            lane = evolve(lane, event)
    return lane


def join(
    run: UUID,
    strategy: MultitaskStrategy = "enqueue",
    *,
    limit: int | None = None,
    started: set[UUID] | None = None,
    at: datetime = NOW,
    not_before: datetime | None = None,
) -> JoinLane:
    return JoinLane(
        run_id=run,
        strategy=strategy,
        limit=limit,
        started=frozenset(started or ()),
        now=at,
        not_before=not_before,
    )


def line(lane: Lane) -> list[UUID]:
    return [entry.run_id for entry in lane.in_flight]


def joined(lane: Lane, command: LaneCommand) -> Lane:
    [event] = decide(lane, command)
    return evolve(lane, event)


def test_first_run_is_the_head() -> None:
    lane = given(join(A))
    assert lane.head == A
    assert lane.version == 1


def test_enqueue_waits_behind_the_others() -> None:
    assert line(given(join(A), join(B), join(C))) == [A, B, C]


def test_event_carries_the_whole_line() -> None:
    [event] = decide(given(join(A)), join(B))
    assert event == LaneChanged(
        thread_id=THREAD, change="joined", run_id=B, in_flight=(LaneRun(A), LaneRun(B))
    )


def test_joining_twice_changes_nothing() -> None:
    assert decide(given(join(A)), join(A)) == []


@pytest.mark.parametrize("waiting", [1, 2])
def test_reject_counts_waiting_runs_too(waiting: int) -> None:
    lane = given(*(join(run) for run in (A, B)[:waiting]))
    with pytest.raises(ThreadBusy, match="already running"):
        decide(lane, join(C, "reject"))


def test_reject_on_a_free_thread_runs() -> None:
    assert given(join(A, "reject")).head == A


# What stands in the lane: (run, started, being stopped). What a new run D does to it, by its strategy.
IDLE: list[tuple[UUID, bool, Stopping]] = []
WAITS: list[tuple[UUID, bool, Stopping]] = [(A, False, "")]
RUNS: list[tuple[UUID, bool, Stopping]] = [(A, True, "")]
RUNS_AND_ONE_WAITS: list[tuple[UUID, bool, Stopping]] = [(A, True, ""), (B, False, "")]
TWO_WAIT: list[tuple[UUID, bool, Stopping]] = [(A, False, ""), (B, False, "")]
STOPS: list[tuple[UUID, bool, Stopping]] = [(A, True, "interrupt")]
IS_UNDONE: list[tuple[UUID, bool, Stopping]] = [(A, True, "rollback")]
STOPS_AND_ONE_WAITS: list[tuple[UUID, bool, Stopping]] = [(A, True, "interrupt"), (B, False, "")]
STATES = {
    "idle": IDLE,
    "one waits": WAITS,
    "one runs": RUNS,
    "one runs, one waits": RUNS_AND_ONE_WAITS,
    "two wait": TWO_WAIT,
    "one stops": STOPS,
    "one is undone": IS_UNDONE,
    "one stops, one waits": STOPS_AND_ONE_WAITS,
}
# (strategy, state) -> the line afterwards, and who must stop; None = refused
Expected = tuple[list[tuple[UUID, Stopping]], list[UUID]] | None
AFTER: dict[tuple[MultitaskStrategy, str], Expected] = {
    ("enqueue", "idle"): ([(D, "")], []),
    ("enqueue", "one waits"): ([(A, ""), (D, "")], []),
    ("enqueue", "one runs"): ([(A, ""), (D, "")], []),
    ("enqueue", "one runs, one waits"): ([(A, ""), (B, ""), (D, "")], []),
    ("enqueue", "two wait"): ([(A, ""), (B, ""), (D, "")], []),
    ("enqueue", "one stops"): ([(A, "interrupt"), (D, "")], []),
    ("enqueue", "one is undone"): ([(A, "rollback"), (D, "")], []),
    ("enqueue", "one stops, one waits"): ([(A, "interrupt"), (B, ""), (D, "")], []),
    ("reject", "idle"): ([(D, "")], []),
    ("reject", "one waits"): None,
    ("reject", "one runs"): None,
    ("reject", "one runs, one waits"): None,
    ("reject", "two wait"): None,
    ("reject", "one stops"): ([(A, "interrupt"), (D, "")], []),
    ("reject", "one is undone"): ([(A, "rollback"), (D, "")], []),
    ("reject", "one stops, one waits"): None,
    ("interrupt", "idle"): ([(D, "")], []),
    ("interrupt", "one waits"): ([(D, "")], [A]),
    ("interrupt", "one runs"): ([(A, "interrupt"), (D, "")], [A]),
    ("interrupt", "one runs, one waits"): ([(A, "interrupt"), (D, "")], [A, B]),
    ("interrupt", "two wait"): ([(D, "")], [A, B]),
    ("interrupt", "one stops"): ([(A, "interrupt"), (D, "")], []),
    ("interrupt", "one is undone"): ([(A, "rollback"), (D, "")], []),
    ("interrupt", "one stops, one waits"): ([(A, "interrupt"), (D, "")], [B]),
    ("rollback", "idle"): ([(D, "")], []),
    ("rollback", "one waits"): ([(D, "")], [A]),
    ("rollback", "one runs"): ([(A, "rollback"), (D, "")], [A]),
    ("rollback", "one runs, one waits"): ([(A, "rollback"), (D, "")], [A, B]),
    ("rollback", "two wait"): ([(D, "")], [A, B]),
    ("rollback", "one stops"): ([(A, "interrupt"), (D, "")], []),
    ("rollback", "one is undone"): ([(A, "rollback"), (D, "")], []),
    ("rollback", "one stops, one waits"): ([(A, "interrupt"), (D, "")], [B]),
}


@pytest.mark.parametrize(("strategy", "state"), AFTER)
def test_what_a_strategy_does(strategy: MultitaskStrategy, state: str) -> None:
    entries = STATES[state]
    lane = Lane(
        thread_id=THREAD,
        version=3,
        in_flight=tuple(LaneRun(run, None, stopping) for run, _, stopping in entries),
    )
    command = join(D, strategy, started={run for run, started, _ in entries if started})
    expected = AFTER[strategy, state]
    if expected is None:
        with pytest.raises(ThreadBusy, match="already running"):
            decide(lane, command)
        return
    after, stopped = expected
    [event] = decide(lane, command)
    assert [(entry.run_id, entry.stopping) for entry in event.in_flight] == after
    assert [stop.run_id for stop in stops(lane, command)] == stopped
    assert {stop.action for stop in stops(lane, command)} <= {strategy}
    assert evolve(lane, event).may_start(D, NOW) is (after[0][0] == D)


def test_every_pair_is_told() -> None:
    strategies: list[MultitaskStrategy] = ["enqueue", "reject", "interrupt", "rollback"]
    assert set(AFTER) == {(strategy, state) for strategy in strategies for state in STATES}


def test_a_run_that_is_asked_to_stop_keeps_its_place() -> None:
    lane = given(join(A), join(B), StopInLane(run_id=A, action="rollback"))
    assert lane.in_flight == (LaneRun(A, None, "rollback"), LaneRun(B))
    assert decide(lane, StopInLane(run_id=A, action="interrupt")) == []
    assert decide(lane, StopInLane(run_id=C, action="interrupt")) == []


def test_joining_again_stops_nobody() -> None:
    lane = given(join(A), join(B))
    assert stops(lane, join(B, "rollback", started={A})) == ()
    assert stops(lane, join(C, "rollback", started={A})) == (
        Displaced(A, "rollback"),
        Displaced(B, "rollback"),
    )


def test_a_delayed_run_lets_others_go_first() -> None:
    lane = given(join(A, not_before=SOON))
    assert not lane.may_start(A, NOW)
    lane = joined(lane, join(B))
    assert line(lane) == [B, A]
    assert lane.may_start(B, NOW)
    assert not lane.may_start(A, SOON)
    lane = joined(lane, LeaveLane(run_id=B))
    assert not lane.may_start(A, NOW)
    assert lane.may_start(A, SOON)


def test_nobody_goes_before_a_delayed_run_that_has_started() -> None:
    lane = given(join(A, not_before=SOON), StartInLane(run_id=A, now=SOON))
    assert lane.in_flight == (LaneRun(A),)
    # By the clock of whoever joins its delay is not over yet.
    assert line(joined(lane, join(B, at=NOW))) == [A, B]


def test_start_of_whoever_can_not_be_displaced_changes_nothing() -> None:
    assert decide(given(join(A), join(B)), StartInLane(run_id=A, now=NOW)) == []


@pytest.mark.parametrize("lane", [given(join(A), join(B)), given(join(B, not_before=SOON)), given()])
def test_start_out_of_turn_is_refused(lane: Lane) -> None:
    with pytest.raises(RunNotActive):
        decide(lane, StartInLane(run_id=B, now=NOW))


def test_a_delayed_run_whose_time_has_come_is_before_newer_ones() -> None:
    lane = joined(given(join(A, not_before=SOON)), join(B, at=SOON))
    assert line(lane) == [A, B]
    assert lane.may_start(A, SOON)


def test_delayed_runs_stand_in_the_order_of_their_instants() -> None:
    lane = given(join(A, not_before=LATER), join(B, not_before=SOON), join(C), join(D, not_before=LATER))
    assert line(lane) == [C, B, A, D]


def test_delayed_runs_are_in_flight() -> None:
    lane = given(join(A, not_before=LATER))
    with pytest.raises(ThreadBusy):
        decide(lane, join(B, "reject"))
    assert line(joined(lane, join(B, "interrupt"))) == [B]


def test_limit_counts_those_that_wait() -> None:
    lane = given(join(A, limit=1), join(B, limit=1))
    assert line(lane) == [A, B]
    with pytest.raises(LaneFull):
        decide(lane, join(C, limit=1))


def test_head_leaves_and_the_next_follows() -> None:
    assert given(join(A), join(B), LeaveLane(run_id=A)).head == B


def test_one_from_the_middle_leaves() -> None:
    lane = given(*(join(run) for run in (A, B, C)), LeaveLane(run_id=B))
    assert line(lane) == [A, C]


def test_leaving_twice_changes_nothing() -> None:
    assert decide(given(join(A), LeaveLane(run_id=A)), LeaveLane(run_id=A)) == []


def test_closed_lane_lets_nobody_in() -> None:
    lane = given(join(A), CloseLane())
    assert lane.closed
    assert line(lane) == []
    assert decide(lane, CloseLane()) == []
    assert decide(lane, LeaveLane(run_id=A)) == []
    with pytest.raises(ThreadNotFound):
        decide(lane, join(B))


def test_whoever_is_at_work_keeps_its_place_in_a_closed_lane() -> None:
    lane = given(join(A), join(B), CloseLane(started=frozenset({A})))
    assert lane.in_flight == (LaneRun(A, stopping="interrupt"),)
    assert lane.closed
    lane = joined(lane, LeaveLane(run_id=A))
    assert (lane.in_flight, lane.closed) == ((), True)


def test_a_closed_lane_is_opened_when_nobody_is_at_work_in_it() -> None:
    assert decide(given(join(A)), OpenLane()) == []
    busy = given(join(A), CloseLane(started=frozenset({A})))
    with pytest.raises(ThreadBusy):
        decide(busy, OpenLane())
    opened = joined(joined(busy, LeaveLane(run_id=A)), OpenLane())
    assert (opened.in_flight, opened.closed) == ((), False)
    assert joined(opened, join(B)).head == B


def test_append_rests_on_the_version_that_was_read() -> None:
    lane = given(join(A))
    events = decide(lane, join(B))
    assert appends(lane, events) == (Append(lane_id_of(THREAD), 1, tuple(events)),)
    assert appends(lane, []) == ()


def test_stream_id_is_stable_and_keeps_the_time_prefix() -> None:
    assert str(lane_id_of(THREAD)).startswith("01900000-0000")
    assert lane_id_of(THREAD) != lane_id_of(A)
    assert lane_id_of(THREAD) == Lane(thread_id=THREAD).stream_id
