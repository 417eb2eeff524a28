"""What a cron's runs do beside each other: `overlap`, the strategy that says the same, and the cron's lane."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from contracts.api import Strategy
from contracts.events import (
    CronCreated,
    CronUpdated,
    LaneChanged,
    LaneRun,
    OccurrenceSkipped,
    Overlap,
    RunCancelRequested,
    RunInterrupted,
    RunRequested,
    RunRolledBack,
    RunStarted,
    ThreadCreated,
)
from contracts.ledger import Body, Meta, Payload, Recorded
from contracts.spec import CronPayload, RunSpec
from domain import decisions
from domain.assistant import Assistant
from domain.changes import Changes
from domain.cron import CreateCron, UpdateCron, cron_of, decide
from domain.decisions import MAX_WAITING, Line, Occurrence, RunPlan, plan_of
from domain.errors import InvalidField
from domain.lane import Lane, lane_id_of
from domain.overlap import STRATEGIES, Together, agreed, changed
from domain.run import Run, run_of

CRON, RUN, FIRST, SECOND = UUID(int=3), UUID(int=4), UUID(int=5), UUID(int=6)
THREAD = UUID(int=8)
DUE = datetime(2026, 11, 24, 9, tzinfo=UTC)
META = Meta(at=DUE, actor="test")
ASSISTANT = Assistant(assistant_id=UUID(int=9), version=1, graph_id="agent", name="agent")
OCCURRENCE = Occurrence(run_id=RUN, thread_id=THREAD, scheduled_for=DUE)
REQUEST = RunRequested(
    thread_id=THREAD,
    cron_id=CRON,
    assistant_id=ASSISTANT.assistant_id,
    graph_id="agent",
    user_id="alice",
    kwargs=Payload(inline=msgspec.Raw(b"{}")),
    temporary=True,
    cron_lane=True,
)
STARTED = RunStarted(thread_id=THREAD, cron_id=CRON, attempt=1, worker="w")


# --- in step with the strategy --------------------------------------------------------------------------


@pytest.mark.parametrize(("overlap", "strategy"), STRATEGIES.items())
def test_each_has_its_strategy(overlap: Overlap, strategy: Strategy) -> None:
    for on_thread in (True, False):
        assert agreed(overlap, None, on_thread=on_thread) == (overlap, strategy)
        assert agreed(overlap, strategy, on_thread=on_thread) == (overlap, strategy)
        for other in set(STRATEGIES.values()) - {strategy}:
            with pytest.raises(InvalidField, match=f"^overlap: '{overlap}' means .*'{strategy}', not"):
                agreed(overlap, other, on_thread=on_thread)


def test_a_strategy_alone_says_all_of_a_threads_cron() -> None:
    said: list[tuple[Strategy | None, Overlap]] = [
        (None, "buffer_all"),
        ("enqueue", "buffer_all"),
        ("reject", "skip"),
        ("interrupt", "cancel_other"),
        ("rollback", "terminate_other"),
    ]
    for strategy, overlap in said:
        assert agreed(None, strategy, on_thread=True) == (overlap, strategy)
        assert agreed(None, strategy, on_thread=False) == ("allow", strategy)  # as it always was


def test_allow_is_for_crons_without_a_thread() -> None:
    assert agreed("allow", None, on_thread=False) == ("allow", None)
    with pytest.raises(InvalidField, match=r"^overlap: 'allow' is for crons without a thread"):
        agreed("allow", None, on_thread=True)
    with pytest.raises(InvalidField, match=r"^overlap: 'allow' means no multitask_strategy, not 'enqueue'"):
        agreed("allow", "enqueue", on_thread=False)


@pytest.mark.parametrize(
    ("now", "given", "after"),
    [
        (("skip", "reject"), {}, ("skip", "reject")),
        (("skip", "reject"), {"overlap": "buffer_one"}, ("buffer_one", "enqueue")),
        (("skip", "reject"), {"strategy": "rollback"}, ("terminate_other", "rollback")),
        (("skip", "reject"), {"overlap": None}, ("buffer_all", "enqueue")),
        (("skip", "reject"), {"overlap": None, "strategy": "interrupt"}, ("cancel_other", "interrupt")),
        (("buffer_one", "enqueue"), {"strategy": "enqueue"}, ("buffer_one", "enqueue")),
        (("buffer_one", "enqueue"), {"strategy": "reject"}, ("skip", "reject")),
    ],
)
def test_a_change_of_one_changes_the_other(now: Any, given: dict[str, Any], after: Any) -> None:
    change = {"overlap": msgspec.UNSET, "strategy": msgspec.UNSET} | given
    assert changed(Together(*now), **change, on_thread=True) == after
    if given.get("overlap", "") is not None:
        assert changed(Together(*now), **change, on_thread=False) == after


def test_without_a_thread_the_default_is_allow_and_its_strategy_means_nothing() -> None:
    there: dict[str, Any] = {"on_thread": False}
    assert changed(Together("skip", "reject"), None, msgspec.UNSET, **there) == ("allow", None)
    assert changed(Together("allow", "reject"), msgspec.UNSET, "enqueue", **there) == ("allow", "enqueue")
    assert changed(Together("allow", "reject"), "skip", msgspec.UNSET, **there) == ("skip", "reject")


def created(thread_id: UUID | None = None, strategy: Strategy | None = None, **fields: Any) -> CronCreated:
    command = CreateCron(
        cron_id=CRON,
        assistant_id=UUID(int=2),
        graph_id="agent",
        user_id="u",
        schedule="* * * * *",
        spec=RunSpec(multitask_strategy=strategy),
        thread_id=thread_id,
        **fields,
    )
    [event] = decide(None, command, DUE)[0]
    assert isinstance(event, CronCreated)
    return event


def payload_of(payload: Any) -> CronPayload:
    return msgspec.json.decode(payload.inline, type=CronPayload)


def updated(event: CronCreated, **given: Any) -> CronUpdated | None:
    cron = cron_of(CRON, [Recorded(1, CRON, 1, event.TOPIC, META, event)])
    payload = payload_of(event.payload)
    fields = {name: value for name, value in given.items() if name != "multitask_strategy"}
    spec = msgspec.structs.replace(payload, **{n: v for n, v in given.items() if n == "multitask_strategy"})
    strategy = given.get("multitask_strategy", msgspec.UNSET)
    command = UpdateCron(payload=payload, spec=spec, multitask_strategy=strategy, **fields)
    events = decide(cron, command, DUE)[0]
    assert len(events) <= 1
    assert all(isinstance(e, CronUpdated) for e in events)
    return events[0] if events else None  # type: ignore[return-value]


def test_a_cron_keeps_both_in_step() -> None:
    first = created(thread_id=THREAD, overlap="buffer_one")
    assert (first.overlap, payload_of(first.payload).multitask_strategy) == ("buffer_one", "enqueue")
    second = updated(first, overlap="skip")
    assert second is not None
    assert (second.overlap, payload_of(second.payload).multitask_strategy) == ("skip", "reject")
    third = updated(first, multitask_strategy="interrupt")
    assert third is not None
    assert (third.overlap, payload_of(third.payload).multitask_strategy) == ("cancel_other", "interrupt")
    assert updated(first, multitask_strategy="enqueue") is None
    assert updated(first, overlap="buffer_one") is None
    with pytest.raises(InvalidField, match=r"^overlap: "):
        updated(first, overlap="skip", multitask_strategy="enqueue")


def test_a_cron_of_which_nothing_is_recorded_is_as_its_strategy_says() -> None:
    old = msgspec.structs.replace(created(thread_id=THREAD, strategy="reject"), overlap=None)
    assert updated(old, overlap="skip") is None
    changes = updated(old, multitask_strategy="enqueue")
    assert changes is not None
    assert changes.overlap == "buffer_all"


# --- the lane of a cron ---------------------------------------------------------------------------------


def plan(overlap: Overlap, *, temporary: bool = True) -> RunPlan:
    spec = RunSpec(multitask_strategy=STRATEGIES.get(overlap))
    return plan_of(
        spec,
        ASSISTANT,
        "alice",
        cron_id=CRON,
        cron_version=2,
        revision=2,
        temporary=temporary,
        overlap=overlap,
    )


def run(run_id: UUID, *events: Body) -> Run:
    told = [Recorded(n, run_id, n, e.TOPIC, META, e) for n, e in enumerate((REQUEST, *events), start=1)]
    found = run_of(run_id, told)
    assert found is not None
    return found


def line(*in_flight: Run) -> Line:
    entries = tuple(LaneRun(run.run_id, stopping=run.cancel) for run in in_flight)
    lane = Lane(cron_id=CRON, version=len(entries), in_flight=entries)
    return Line(lane=lane, runs={run.run_id: run for run in in_flight})


def bodies(changes: Changes) -> dict[UUID, list[Body]]:
    return {append.stream_id: list(append.bodies) for append in changes.appends}


def standing(changes: Changes) -> list[UUID]:
    [body] = bodies(changes)[lane_id_of(CRON)]
    assert isinstance(body, LaneChanged)
    assert (body.cron_id, body.thread_id) == (CRON, None)
    return [entry.run_id for entry in body.in_flight]


def skipped(changes: Changes) -> str:
    [append] = changes.appends
    [body] = append.bodies
    assert isinstance(body, OccurrenceSkipped)
    assert append.stream_id == RUN
    return body.reason


RUNNING, WAITING = run(FIRST, STARTED), run(SECOND)


def test_a_run_that_takes_turns_says_so_and_rests_on_the_cron() -> None:
    changes = decisions.fire_stateless(plan("skip"), OCCURRENCE, line(), DUE)
    [requested] = bodies(changes)[RUN]
    assert isinstance(requested, RunRequested)
    assert (requested.cron_lane, requested.temporary) == (True, True)
    assert standing(changes) == [RUN]
    assert [expect.stream_id for expect in changes.expects] == [CRON]


def test_a_run_whose_thread_is_kept_stands_in_two_lanes() -> None:
    changes = decisions.fire_stateless(plan("buffer_all", temporary=False), OCCURRENCE, line(RUNNING), DUE)
    stored = bodies(changes)
    assert isinstance(stored[THREAD][0], ThreadCreated)
    [own], [crons] = stored[lane_id_of(THREAD)], stored[lane_id_of(CRON)]
    assert isinstance(own, LaneChanged)
    assert isinstance(crons, LaneChanged)
    assert own.in_flight == (LaneRun(RUN, also=lane_id_of(CRON)),)
    assert crons.in_flight[1:] == (LaneRun(RUN, also=lane_id_of(THREAD)),)


@pytest.mark.parametrize("before", [RUNNING, WAITING])
def test_skip_is_skipped_while_one_is_not_over(before: Run) -> None:
    assert skipped(decisions.fire_stateless(plan("skip"), OCCURRENCE, line(before), DUE)) == "overlap"


def test_one_waits_and_the_next_is_skipped() -> None:
    one = decisions.fire_stateless(plan("buffer_one"), OCCURRENCE, line(RUNNING), DUE)
    assert standing(one) == [FIRST, RUN]
    full = decisions.fire_stateless(plan("buffer_one"), OCCURRENCE, line(RUNNING, WAITING), DUE)
    assert skipped(full) == "buffer_full"


def test_a_hundred_wait_and_the_next_is_skipped() -> None:
    many = [run(UUID(int=100 + n)) for n in range(MAX_WAITING)]
    one = decisions.fire_stateless(plan("buffer_all"), OCCURRENCE, line(*many), DUE)
    assert len(standing(one)) == MAX_WAITING + 1
    full = decisions.fire_stateless(plan("buffer_all"), OCCURRENCE, line(RUNNING, *many), DUE)
    assert skipped(full) == "buffer_full"


@pytest.mark.parametrize(
    ("overlap", "outcome"), [("cancel_other", RunInterrupted), ("terminate_other", RunRolledBack)]
)
def test_others_give_way(overlap: Overlap, outcome: type[Body]) -> None:
    changes = decisions.fire_stateless(plan(overlap), OCCURRENCE, line(RUNNING, WAITING), DUE)
    stored = bodies(changes)
    assert [type(body) for body in stored[FIRST]] == [RunCancelRequested]  # its worker has it still
    assert [type(body) for body in stored[SECOND]] == [RunCancelRequested, outcome]
    assert standing(changes) == [FIRST, RUN]


def test_on_a_thread_one_waits_and_the_next_is_skipped() -> None:
    def busy(*run_ids: UUID) -> Line:
        return Line(lane=Lane(thread_id=THREAD, version=1, in_flight=tuple(map(LaneRun, run_ids))))

    one = decisions.fire_on_thread(plan("buffer_one", temporary=False), OCCURRENCE, busy(FIRST), {}, DUE)
    assert isinstance(bodies(one)[RUN][0], RunRequested)
    full = decisions.fire_on_thread(
        plan("buffer_one", temporary=False), OCCURRENCE, busy(FIRST, SECOND), {}, DUE
    )
    assert skipped(full) == "buffer_full"
