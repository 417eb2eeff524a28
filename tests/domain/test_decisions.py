"""Decisions over several aggregates: what one transaction holds."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from contracts.api import Checkpoint, RunCreate, StatelessRunCreate
from contracts.events import (
    CronDeleted,
    LaneChanged,
    LaneRun,
    OccurrenceSkipped,
    RunCancelRequested,
    RunInterrupted,
    RunRequested,
    RunRolledBack,
    RunStarted,
    RunSucceeded,
    ThreadCreated,
    ThreadDeleted,
)
from contracts.ledger import Append, Body, Expect, Meta, Recorded
from contracts.spec import RunSpec
from domain import decisions
from domain.assistant import Assistant
from domain.changes import Changes
from domain.decisions import MAX_WAITING, Line, Occurrence, RunPlan, plan_of
from domain.errors import (
    ContradictoryRequest,
    InvalidField,
    LaneFull,
    RunNotActive,
    ThreadBusy,
)
from domain.lane import Lane, MultitaskStrategy, lane_id_of
from domain.run import CancelRun, ClaimRun, Run, SettleRun, run_of
from domain.spec import (
    check_fields,
    check_stateless,
    checkpoint_of,
    kwargs_of,
    run_metadata,
    spec_of,
)
from domain.thread import Thread

THREAD = UUID("01900000-0000-7000-8000-000000000001")
CRON, RUN, OTHER, THIRD = UUID(int=3), UUID(int=4), UUID(int=5), UUID(int=6)
DUE = datetime(2026, 11, 24, 9, tzinfo=UTC)
NOW = DUE
META = Meta(at=DUE, actor="test")
ASSISTANT = Assistant(
    assistant_id=UUID(int=9),
    version=1,
    graph_id="agent",
    name="agent",
    config={"tags": ["own"], "configurable": {"model": "small", "k": 1}},
    metadata={"created_by": "system"},
)
OCCURRENCE = Occurrence(run_id=RUN, thread_id=THREAD, scheduled_for=DUE)


def cron_plan(**spec: Any) -> RunPlan:
    return plan_of(RunSpec(**spec), ASSISTANT, "alice", cron_id=CRON, cron_version=2, revision=2)


def lane(*run_ids: UUID) -> Lane:
    return Lane(thread_id=THREAD, version=len(run_ids), in_flight=tuple(map(LaneRun, run_ids)))


def line(*run_ids: UUID) -> Line:
    return Line(lane=lane(*run_ids))


def bodies(changes: Changes) -> dict[UUID, list[Body]]:
    return {append.stream_id: list(append.bodies) for append in changes.appends}


def run(*events: Body, run_id: UUID = RUN) -> Run:
    recorded = [Recorded(n, run_id, n, e.TOPIC, META, e) for n, e in enumerate(events, start=1)]
    found = run_of(run_id, recorded)
    assert found is not None
    return found


def requested(changes: Changes, run_id: UUID = RUN) -> RunRequested:
    [body] = bodies(changes)[run_id]
    assert isinstance(body, RunRequested)
    return body


def changed_lane(changes: Changes) -> LaneChanged:
    [body] = bodies(changes)[lane_id_of(THREAD)]
    assert isinstance(body, LaneChanged)
    return body


def test_firing_appends_run_and_lane_and_rests_on_the_cron() -> None:
    changes = decisions.fire_on_thread(cron_plan(input={"x": 1}), OCCURRENCE, line(), {"topic": "t"}, NOW)
    assert changes.expects == (Expect(CRON, 2),)
    request = requested(changes)
    assert request.metadata == {
        "created_by": "system",
        "topic": "t",
        "cron_id": str(CRON),
        "scheduled_for": "2026-11-24T09:00:00+00:00",
        "assistant_id": str(ASSISTANT.assistant_id),
    }
    [joined] = bodies(changes)[lane_id_of(THREAD)]
    assert isinstance(joined, LaneChanged)
    assert joined.in_flight == (LaneRun(RUN),)


def test_firing_on_a_busy_thread_waits() -> None:
    changes = decisions.fire_on_thread(cron_plan(), OCCURRENCE, line(OTHER), {}, NOW)
    assert [entry.run_id for entry in changed_lane(changes).in_flight] == [OTHER, RUN]


def test_firing_that_the_lane_refuses_is_recorded() -> None:
    busy = decisions.fire_on_thread(cron_plan(multitask_strategy="reject"), OCCURRENCE, line(OTHER), {}, NOW)
    [skipped] = bodies(busy)[RUN]
    assert isinstance(skipped, OccurrenceSkipped)
    assert skipped.reason == "overlap"
    full = decisions.fire_on_thread(
        cron_plan(), OCCURRENCE, line(*(UUID(int=100 + n) for n in range(MAX_WAITING + 1))), {}, NOW
    )
    [skipped] = bodies(full)[RUN]
    assert isinstance(skipped, OccurrenceSkipped)
    assert skipped.reason == "buffer_full"


def test_direct_request_on_a_busy_thread_is_refused() -> None:
    plan = plan_of(RunSpec(multitask_strategy="reject"), ASSISTANT, "alice")
    with pytest.raises(ThreadBusy):
        decisions.request_on_thread(plan, OCCURRENCE, line(OTHER), {}, NOW)


def test_temporary_firing_is_its_run_alone() -> None:
    plan = plan_of(RunSpec(), ASSISTANT, "alice", cron_id=CRON, cron_version=1, temporary=True)
    changes = decisions.request_stateless(plan, OCCURRENCE, NOW)
    assert [append.stream_id for append in changes.appends] == [RUN]
    assert requested(changes).temporary


def test_kept_firing_makes_its_thread() -> None:
    plan = plan_of(RunSpec(), ASSISTANT, "alice", cron_id=CRON, cron_version=1, cron_metadata={"team": "x"})
    changes = decisions.request_stateless(plan, OCCURRENCE, NOW)
    [created] = bodies(changes)[THREAD]
    assert isinstance(created, ThreadCreated)
    assert created.cron_id == CRON
    assert created.metadata == {
        "team": "x",
        "cron_id": str(CRON),
        "graph_id": "agent",
        "assistant_id": str(ASSISTANT.assistant_id),
    }
    assert not requested(changes).temporary


def test_large_input_goes_beside_the_event() -> None:
    plan = cron_plan(input={"text": "x" * 40_000})
    changes = decisions.fire_on_thread(plan, OCCURRENCE, line(), {}, NOW)
    [blob] = changes.blobs
    assert requested(changes).kwargs.sha256 == blob.sha256


REQUEST = RunRequested(
    thread_id=THREAD,
    assistant_id=UUID(int=9),
    graph_id="agent",
    user_id="alice",
    kwargs=cron_plan().kwargs,
)
STARTED = RunStarted(thread_id=THREAD, attempt=1, worker="w")
SUCCEEDED = RunSucceeded(thread_id=THREAD, attempt=1)


def test_settle_leaves_the_lane_in_the_same_append() -> None:
    settled = decisions.settle(
        run(REQUEST, STARTED), SettleRun(attempt=1, outcome=SUCCEEDED), [lane(RUN, OTHER)]
    )
    left = LaneChanged(thread_id=THREAD, change="left", run_id=RUN, in_flight=(LaneRun(OTHER),))
    assert settled.appends == (Append(RUN, 2, (SUCCEEDED,)), Append(lane_id_of(THREAD), 2, (left,)))


def test_taking_a_place_stops_those_who_have_it() -> None:
    running, waiting = run(REQUEST, STARTED, run_id=OTHER), run(REQUEST, run_id=THIRD)
    busy = Line(lane=lane(OTHER, THIRD), runs={OTHER: running, THIRD: waiting})
    expected: list[tuple[MultitaskStrategy, type]] = [
        ("interrupt", RunInterrupted),
        ("rollback", RunRolledBack),
    ]
    for strategy, outcome in expected:
        plan = plan_of(RunSpec(multitask_strategy=strategy), ASSISTANT, "alice")
        stored = bodies(decisions.request_on_thread(plan, OCCURRENCE, busy, {}, NOW))
        assert [type(body) for body in stored[OTHER]] == [RunCancelRequested]
        assert [type(body) for body in stored[THIRD]] == [RunCancelRequested, outcome]
        [asked] = stored[RUN]
        assert isinstance(asked, RunRequested)
        [changed] = stored[lane_id_of(THREAD)]
        assert isinstance(changed, LaneChanged)
        assert [(e.run_id, e.stopping) for e in changed.in_flight] == [(OTHER, strategy), (RUN, "")]


CLAIM = ClaimRun(worker="w")


def test_claim_is_of_the_head_alone() -> None:
    claimed = decisions.claim(run(REQUEST), CLAIM, [lane(RUN, OTHER)], NOW)
    assert [append.stream_id for append in claimed.appends] == [RUN]
    for others in (lane(OTHER, RUN), lane(), lane(OTHER)):
        assert not decisions.may_claim(run(REQUEST), [others], NOW)
        with pytest.raises(RunNotActive, match="not its turn"):
            decisions.claim(run(REQUEST), CLAIM, [others], NOW)


def test_claim_of_a_delayed_run_is_when_it_is_due_and_rests_on_the_lane() -> None:
    due = NOW + timedelta(minutes=1)
    delayed = run(msgspec.structs.replace(REQUEST, not_before=due))
    alone = Lane(thread_id=THREAD, version=1, in_flight=(LaneRun(RUN, due),))
    with pytest.raises(RunNotActive):
        decisions.claim(delayed, CLAIM, [alone], NOW)
    claimed = decisions.claim(delayed, CLAIM, [alone], due)
    assert changed_lane(claimed).in_flight == (LaneRun(RUN),)
    assert [append.expected_version for append in claimed.appends] == [1, 1]


def test_claim_of_a_run_that_has_started_needs_no_turn() -> None:
    lost = ClaimRun(worker="w2", lost="lease expired")
    closed = Lane(thread_id=THREAD, version=3, closed=True)
    [append] = decisions.claim(run(REQUEST, STARTED), lost, [closed], NOW).appends
    assert isinstance(append.bodies[0], RunStarted)


def test_delayed_temporary_run_has_no_turn_to_wait_for() -> None:
    due = NOW + timedelta(minutes=1)
    delayed = msgspec.structs.replace(OCCURRENCE, not_before=due)
    plan = plan_of(RunSpec(), ASSISTANT, "alice", temporary=True)
    alone = run(requested(decisions.request_stateless(plan, delayed, NOW)))
    assert not decisions.may_claim(alone, (), NOW)
    assert [a.stream_id for a in decisions.claim(alone, CLAIM, (), due).appends] == [RUN]


def test_more_than_may_wait_are_refused() -> None:
    plan = plan_of(RunSpec(), ASSISTANT, "alice")
    busy = line(*(UUID(int=100 + n) for n in range(3)))
    assert decisions.request_on_thread(plan, OCCURRENCE, busy, {}, NOW, 3)
    with pytest.raises(LaneFull):
        decisions.request_on_thread(plan, OCCURRENCE, busy, {}, NOW, 2)


def test_cancelled_running_run_stays_in_the_line_until_it_has_stopped() -> None:
    changes = decisions.cancel(run(REQUEST, STARTED), CancelRun(action="rollback"), [lane(RUN, OTHER)])
    assert [type(body) for body in bodies(changes)[RUN]] == [RunCancelRequested]
    [changed] = bodies(changes)[lane_id_of(THREAD)]
    assert isinstance(changed, LaneChanged)
    assert changed.in_flight == (LaneRun(RUN, None, "rollback"), LaneRun(OTHER))


def test_cancelled_waiting_run_leaves_the_line() -> None:
    waiting = run(REQUEST)
    changes = decisions.cancel(waiting, CancelRun(reason="enough"), [lane(OTHER, RUN)])
    assert bodies(changes)[RUN] == [
        RunCancelRequested(thread_id=THREAD, reason="enough"),
        RunInterrupted(thread_id=THREAD, reason="enough"),
    ]
    [left] = bodies(changes)[lane_id_of(THREAD)]
    assert isinstance(left, LaneChanged)
    assert left.in_flight == (LaneRun(OTHER),)


def test_deleted_thread_takes_runs_and_crons_with_it() -> None:
    thread = Thread(thread_id=THREAD, version=1, user_id="alice")
    running = run(REQUEST, STARTED)
    waiting = run(REQUEST, run_id=OTHER)
    ended = Append(CRON, 1, (CronDeleted(reason="thread_deleted"),))
    both = Line(lane=lane(RUN, OTHER), runs={RUN: running, OTHER: waiting})
    changes = decisions.delete_thread(thread, both, (ended,))
    stored = bodies(changes)
    assert [type(body) for body in stored[RUN]] == [RunCancelRequested]
    assert [type(body) for body in stored[OTHER]] == [RunCancelRequested, RunInterrupted]
    at_work = (LaneRun(RUN, stopping="interrupt"),)
    closed = LaneChanged(thread_id=THREAD, change="closed", in_flight=at_work, closed=True)
    assert stored[lane_id_of(THREAD)] == [closed]
    assert stored[THREAD] == [ThreadDeleted()]
    assert stored[CRON] == [CronDeleted(reason="thread_deleted")]


def test_config_is_merged_over_the_assistants() -> None:
    spec: Any = {"config": {"tags": ["asked"], "configurable": {"k": 2}, "recursion_limit": 5}}
    kwargs = kwargs_of(RunSpec(**spec), ASSISTANT, CRON, temporary=False)
    assert kwargs.config == {
        "tags": ["own", "asked"],
        "recursion_limit": 5,
        "configurable": {"model": "small", "k": 2, "cron_id": str(CRON)},
    }
    assert kwargs.context == {"k": 2}


def test_context_is_mirrored_into_the_configurable() -> None:
    kwargs = kwargs_of(RunSpec(context={"who": "me"}), ASSISTANT, None, temporary=False)
    assert kwargs.context == {"who": "me"}
    assert kwargs.config["configurable"] == {"model": "small", "k": 1, "who": "me"}


def test_metadata_layers() -> None:
    spec = RunSpec(config={"metadata": {"a": "config", "b": "config"}}, metadata={"b": "own"})
    merged = run_metadata(ASSISTANT, {"a": "thread", "t": 1}, spec)
    assert merged == {
        "created_by": "system",
        "a": "config",
        "t": 1,
        "b": "own",
        "assistant_id": str(ASSISTANT.assistant_id),
    }


def test_spec_leaves_reserved_keys_out() -> None:
    body = RunCreate(
        assistant_id="agent",
        metadata={"run_id": "x", "mine": 1},
        config={"configurable": {"langgraph_auth_user": {}, "__internal": 1, "k": 1}},
    )
    assert spec_of(body) == RunSpec(metadata={"mine": 1}, config={"configurable": {"k": 1}})


@pytest.mark.parametrize(
    ("refusal", "match", "fields"),
    [
        (InvalidField, "command", {"command": {}}),
        (InvalidField, "checkpoint", {"config": {"configurable": {"checkpoint_id": "x"}}}),
        (InvalidField, "command.goto", {"command": {"goto": {"input": 1}}}),
        (InvalidField, "command.goto", {"command": {"goto": ["a", {"node": 5}]}}),
        (InvalidField, "checkpoint", {"checkpoint": {"checkpoint_id": "x"}}),
        (InvalidField, "checkpoint", {"checkpoint_id": "x"}),
        (ContradictoryRequest, "thread_id", {"command": {"resume": 1}}),
    ],
)
def test_what_a_run_without_a_thread_may_not_ask(
    refusal: type[Exception], match: str, fields: dict[str, Any]
) -> None:
    body = msgspec.convert({"assistant_id": "agent", **fields}, StatelessRunCreate)
    with pytest.raises(refusal, match=match):
        check_stateless(body)


def test_checkpoint_to_start_from_is_in_the_configurable_and_not_in_the_context() -> None:
    body = RunCreate(
        assistant_id="agent",
        checkpoint=Checkpoint(thread_id="elsewhere", checkpoint_id="c1", checkpoint_ns=""),
        config={"configurable": {"k": 2}},
    )
    kwargs = kwargs_of(spec_of(body), ASSISTANT, None, temporary=False)
    assert kwargs.config["configurable"] == {
        "model": "small",
        "k": 2,
        "checkpoint_id": "c1",
        "checkpoint_ns": "",
    }
    assert kwargs.context == {"k": 2}
    assert checkpoint_of(None, "c2") == {"checkpoint_id": "c2"}
    assert checkpoint_of(Checkpoint(checkpoint_ns=""), None) == {}


def test_command_is_kept_as_it_was_sent() -> None:
    command = {"resume": {"id": "yes"}, "goto": [{"node": "a", "input": 1}, "b"], "update": [["k", 1]]}
    body = msgspec.convert({"assistant_id": "agent", "command": command}, RunCreate)
    kwargs = kwargs_of(spec_of(body), ASSISTANT, None, temporary=False)
    assert msgspec.json.decode(msgspec.json.encode(kwargs.command)) == command


def test_configurable_with_context_is_refused() -> None:
    body = RunCreate(assistant_id="agent", config={"configurable": {"k": 1}}, context={"k": 2})
    with pytest.raises(ContradictoryRequest):
        check_fields(body)


@pytest.mark.parametrize(
    "config", [{"recursion_limit": 0}, {"tags": "x"}, {"configurable": 1}, {"metadata": []}]
)
def test_config_of_the_wrong_shape_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match="config"):
        check_fields(RunCreate(assistant_id="agent", config=config))
