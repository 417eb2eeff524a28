"""Decisions over several aggregates: what one transaction holds."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from contracts.api import RunCreate
from contracts.events import (
    CronDeleted,
    LaneChanged,
    LaneRun,
    OccurrenceSkipped,
    RunCancelRequested,
    RunDispatched,
    RunInterrupted,
    RunRequested,
    RunStarted,
    RunSucceeded,
    ThreadCreated,
    ThreadDeleted,
)
from contracts.ledger import Append, Body, Expect, Meta, Recorded
from domain import requests
from domain.assistant import Assistant
from domain.changes import Changes
from domain.errors import ContradictoryRequest, InvalidField, NotSupported, ThreadBusy
from domain.lane import Lane, lane_id_of
from domain.request import check_fields, kwargs_of, run_metadata, spec_of
from domain.requests import MAX_WAITING, Occurrence, RunPlan, plan_of
from domain.run import CancelRun, Run, SettleRun, run_of
from domain.thread import Thread

THREAD = UUID("01900000-0000-7000-8000-000000000001")
CRON, RUN, OTHER = UUID(int=3), UUID(int=4), UUID(int=5)
DUE = datetime(2026, 11, 24, 9, tzinfo=UTC)
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
    return plan_of(spec, ASSISTANT, "alice", cron_id=CRON, cron_version=2, revision=2)


def lane(*run_ids: UUID) -> Lane:
    return Lane(thread_id=THREAD, version=len(run_ids), in_flight=tuple(map(LaneRun, run_ids)))


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


def test_firing_appends_run_and_lane_and_rests_on_the_cron() -> None:
    changes = requests.fire_on_thread(cron_plan(input={"x": 1}), OCCURRENCE, lane(), {"topic": "t"})
    assert changes.expects == (Expect(CRON, 2),)
    request = requested(changes)
    assert not request.waits
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
    assert requested(requests.fire_on_thread(cron_plan(), OCCURRENCE, lane(OTHER), {})).waits


def test_firing_that_the_lane_refuses_is_recorded() -> None:
    busy = requests.fire_on_thread(cron_plan(multitask_strategy="reject"), OCCURRENCE, lane(OTHER), {})
    [skipped] = bodies(busy)[RUN]
    assert isinstance(skipped, OccurrenceSkipped)
    assert skipped.reason == "overlap"
    full = requests.fire_on_thread(
        cron_plan(), OCCURRENCE, lane(*(UUID(int=100 + n) for n in range(MAX_WAITING + 1))), {}
    )
    [skipped] = bodies(full)[RUN]
    assert isinstance(skipped, OccurrenceSkipped)
    assert skipped.reason == "buffer_full"


def test_direct_request_on_a_busy_thread_is_refused() -> None:
    plan = plan_of({"multitask_strategy": "reject"}, ASSISTANT, "alice")
    with pytest.raises(ThreadBusy):
        requests.request_on_thread(plan, OCCURRENCE, lane(OTHER), {})


def test_temporary_firing_is_its_run_alone() -> None:
    plan = plan_of({}, ASSISTANT, "alice", cron_id=CRON, cron_version=1, temporary=True)
    changes = requests.request_stateless(plan, OCCURRENCE)
    assert [append.stream_id for append in changes.appends] == [RUN]
    assert requested(changes).temporary


def test_kept_firing_makes_its_thread() -> None:
    plan = plan_of({}, ASSISTANT, "alice", cron_id=CRON, cron_version=1, cron_metadata={"team": "x"})
    changes = requests.request_stateless(plan, OCCURRENCE)
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
    changes = requests.fire_on_thread(plan, OCCURRENCE, lane(), {})
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


def test_settle_dispatches_the_next_in_the_same_append() -> None:
    waiting = run(msgspec.structs.replace(REQUEST, waits=True), run_id=OTHER)
    line = lane(RUN, OTHER)
    assert requests.following_of(line, RUN) == OTHER
    settled = requests.settle(run(REQUEST, STARTED), SettleRun(attempt=1, outcome=SUCCEEDED), line, waiting)
    assert settled.appends == (
        Append(RUN, 2, (SUCCEEDED,)),
        Append(
            lane_id_of(THREAD),
            2,
            (LaneChanged(thread_id=THREAD, change="left", run_id=RUN, in_flight=(LaneRun(OTHER),)),),
        ),
        Append(OTHER, 1, (RunDispatched(thread_id=THREAD),)),
    )


def test_nobody_follows_one_who_waits() -> None:
    assert requests.following_of(lane(OTHER, RUN), RUN) is None
    assert requests.following_of(lane(RUN), RUN) is None


def test_cancelled_waiting_run_leaves_the_line() -> None:
    waiting = run(msgspec.structs.replace(REQUEST, waits=True))
    changes = requests.cancel(waiting, CancelRun(reason="enough"), lane(OTHER, RUN), None)
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
    waiting = run(msgspec.structs.replace(REQUEST, waits=True), run_id=OTHER)
    ended = Append(CRON, 1, (CronDeleted(reason="thread_deleted"),))
    changes = requests.delete_thread(thread, lane(RUN, OTHER), [running, waiting], (ended,))
    stored = bodies(changes)
    assert [type(body) for body in stored[RUN]] == [RunCancelRequested]
    assert [type(body) for body in stored[OTHER]] == [RunCancelRequested, RunInterrupted]
    assert stored[lane_id_of(THREAD)] == [LaneChanged(thread_id=THREAD, change="closed", closed=True)]
    assert stored[THREAD] == [ThreadDeleted()]
    assert stored[CRON] == [CronDeleted(reason="thread_deleted")]


def test_config_is_merged_over_the_assistants() -> None:
    spec = {"config": {"tags": ["asked"], "configurable": {"k": 2}, "recursion_limit": 5}}
    kwargs = kwargs_of(spec, ASSISTANT, CRON, temporary=False)
    assert kwargs.config == {
        "tags": ["own", "asked"],
        "recursion_limit": 5,
        "configurable": {"model": "small", "k": 2, "cron_id": str(CRON)},
    }
    assert kwargs.context == {"k": 2}


def test_context_is_mirrored_into_the_configurable() -> None:
    kwargs = kwargs_of({"context": {"who": "me"}}, ASSISTANT, None, temporary=False)
    assert kwargs.context == {"who": "me"}
    assert kwargs.config["configurable"] == {"model": "small", "k": 1, "who": "me"}


def test_metadata_layers() -> None:
    spec = {"config": {"metadata": {"a": "config", "b": "config"}}, "metadata": {"b": "own"}}
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
    assert spec_of(body) == {"metadata": {"mine": 1}, "config": {"configurable": {"k": 1}}}


@pytest.mark.parametrize("field", ["webhook", "command", "checkpoint", "checkpoint_id", "after_seconds"])
def test_known_fields_that_do_nothing_yet_are_refused(field: str) -> None:
    with pytest.raises(NotSupported, match=field):
        check_fields(msgspec.convert({"assistant_id": "agent", field: "x"}, RunCreate))


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
