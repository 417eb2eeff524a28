"""Writes into a thread's state: what they carry, whom they wait for, what they contradict."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from contracts.api import CommandBody, RunKwargs, StateWrite
from contracts.events import FiringKind, LaneChanged, LaneRun, RunRequested, Stopping
from contracts.ledger import Body
from contracts.spec import RunSpec
from domain import decisions
from domain.assistant import Assistant
from domain.changes import Changes
from domain.decisions import MAX_WAITING, Line, RunPlan
from domain.errors import InvalidField, LaneFull, ThreadBusy, ThreadNotFound
from domain.lane import Lane, lane_id_of
from domain.spec import check_write, updates_of

THREAD, RUN, OTHER = UUID("01900000-0000-7000-8000-000000000001"), UUID(int=4), UUID(int=5)
NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
ASSISTANT = Assistant(
    assistant_id=UUID(int=9),
    version=1,
    graph_id="agent",
    name="agent",
    config={"configurable": {"model": "small"}},
    context={"who": "me"},
)
UPDATES = [[{"values": {"x": 1}, "as_node": "node"}]]


def plan(checkpoint: dict[str, Any] | None = None) -> RunPlan:
    return decisions.state_plan(UPDATES, checkpoint or {}, ASSISTANT, "alice")


def line(*entries: tuple[UUID, FiringKind, Stopping]) -> Line:
    in_flight = tuple(LaneRun(run_id, None, stopping, kind == "state") for run_id, kind, stopping in entries)
    return Line(lane=Lane(thread_id=THREAD, version=len(entries), in_flight=in_flight))


def written(on: Line, checkpoint: dict[str, Any] | None = None) -> Changes:
    return decisions.write_state(plan(checkpoint), RUN, on, {"topic": "t"}, NOW)


def bodies(changes: Changes) -> dict[UUID, tuple[Body, ...]]:
    return {append.stream_id: append.bodies for append in changes.appends}


def request(changes: Changes) -> RunRequested:
    [body] = bodies(changes)[RUN]
    assert isinstance(body, RunRequested)
    return body


def waits_for(changes: Changes) -> list[UUID]:
    [body] = bodies(changes)[lane_id_of(THREAD)]
    assert isinstance(body, LaneChanged)
    *others, last = body.in_flight
    assert last.run_id == RUN
    return [entry.run_id for entry in others]


def kwargs(changes: Changes) -> RunKwargs:
    inline = request(changes).kwargs.inline
    assert isinstance(inline, msgspec.Raw)
    return msgspec.json.decode(inline, type=RunKwargs)


def test_write_is_a_run_that_no_client_sees() -> None:
    changes = written(line())
    asked = request(changes)
    assert (asked.kind, asked.graph_id, asked.cron_id) == ("state", "agent", None)
    carried = kwargs(changes)
    assert (carried.updates, carried.input, carried.command) == (UPDATES, None, None)
    assert carried.config == {"configurable": {"model": "small"}}
    assert carried.context == {"who": "me"}
    [joined] = bodies(changes)[lane_id_of(THREAD)]
    assert isinstance(joined, LaneChanged)
    assert joined.in_flight == (LaneRun(RUN, writes=True),)


def test_fork_names_its_checkpoint_and_leaves_the_context_alone() -> None:
    carried = kwargs(written(line(), {"checkpoint_id": "c", "checkpoint_ns": ""}))
    assert carried.config == {"configurable": {"model": "small", "checkpoint_id": "c", "checkpoint_ns": ""}}
    assert carried.context == {"who": "me"}


def test_runs_have_no_updates() -> None:
    run_plan = decisions.plan_of(RunSpec(input={"x": 1}), ASSISTANT, "alice")
    inline = run_plan.kwargs.inline
    assert isinstance(inline, msgspec.Raw)
    assert "updates" not in msgspec.json.decode(inline)


def test_write_is_refused_while_a_run_is_in_flight() -> None:
    with pytest.raises(ThreadBusy, match="busy with a running task"):
        written(line((OTHER, "", "")))
    with pytest.raises(ThreadBusy):
        written(line((UUID(int=6), "state", ""), (OTHER, "schedule", "")))


@pytest.mark.parametrize("stopping", ["interrupt", "rollback"])
def test_write_waits_for_a_run_that_is_being_stopped(stopping: Stopping) -> None:
    assert waits_for(written(line((OTHER, "", stopping)))) == [OTHER]


def test_writes_wait_for_each_other() -> None:
    assert waits_for(written(line((OTHER, "state", "")))) == [OTHER]


def test_not_without_end() -> None:
    many: list[tuple[UUID, FiringKind, Stopping]] = [
        (UUID(int=100 + n), "state", "") for n in range(MAX_WAITING + 1)
    ]
    with pytest.raises(LaneFull):
        written(line(*many))


def test_thread_that_is_deleted_is_not_written() -> None:
    with pytest.raises(ThreadNotFound):
        written(Line(lane=Lane(thread_id=THREAD, version=1, closed=True)))


def test_updates_leave_out_what_is_absent() -> None:
    command = CommandBody(update={"x": 1}, goto="node")
    assert updates_of([StateWrite(values={"x": 1}), StateWrite(command=command, as_node="a")]) == [
        {"values": {"x": 1}},
        {"command": {"update": {"x": 1}, "goto": "node"}, "as_node": "a"},
    ]


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (StateWrite(values={"x": 1}, command=CommandBody(goto="node")), "values"),
        (StateWrite(command=CommandBody(goto={"input": {}})), "goto"),
        (StateWrite(command=CommandBody(goto=["node", {"node": 1}])), "goto"),
    ],
)
def test_write_that_contradicts_itself_is_refused(write: StateWrite, named: str) -> None:
    with pytest.raises(InvalidField, match=named):
        check_write(write)


def test_values_beside_a_command_may_be_empty() -> None:
    check_write(StateWrite(values={}, command=CommandBody(goto="node")))
