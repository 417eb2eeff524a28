"""Runs: the status machine, and what each command may do in each status."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from contracts.events import (
    OccurrenceSkipped,
    RunCancelRequested,
    RunDeleted,
    RunFailed,
    RunInterrupted,
    RunReleased,
    RunRequested,
    RunRolledBack,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
)
from contracts.ledger import Body, Meta, Payload, Recorded
from domain.errors import MustRollBack, RunNotActive, RunNotFound
from domain.run import (
    MAX_LOSSES,
    CancelRun,
    ClaimRun,
    DeleteRun,
    Outcome,
    ReleaseRun,
    Run,
    RunCommand,
    SettleRun,
    decide,
    run_of,
)

RUN, THREAD, CRON = UUID(int=1), UUID(int=2), UUID(int=3)
META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")
REQUESTED = RunRequested(
    thread_id=THREAD,
    cron_id=CRON,
    assistant_id=UUID(int=4),
    graph_id="agent",
    user_id="anonymous",
    kwargs=Payload(inline=msgspec.Raw(b"{}")),
)
STARTED = RunStarted(thread_id=THREAD, cron_id=CRON, attempt=1, worker="w1")
SUCCEEDED = RunSucceeded(thread_id=THREAD, cron_id=CRON, attempt=1)
OUTCOMES: list[Outcome] = [
    SUCCEEDED,
    RunFailed(thread_id=THREAD, cron_id=CRON, error="ValueError", message="boom"),
    RunInterrupted(thread_id=THREAD, cron_id=CRON),
    RunTimedOut(thread_id=THREAD, cron_id=CRON, limit_s=1.0),
]


def given(*bodies: Body) -> Run | None:
    return run_of(
        RUN,
        [Recorded(n, RUN, n, body.TOPIC, META, body) for n, body in enumerate(bodies, start=1)],
    )


def test_claim_is_the_start_of_an_attempt() -> None:
    assert decide(given(REQUESTED), ClaimRun(worker="w1")) == [STARTED]


@pytest.mark.parametrize("bodies", [(REQUESTED, STARTED), (REQUESTED, STARTED, SUCCEEDED)])
def test_claim_refused(bodies: tuple[Body, ...]) -> None:
    with pytest.raises(RunNotActive):
        decide(given(*bodies), ClaimRun(worker="w2"))


def test_lost_attempt_is_claimed_again() -> None:
    [started] = decide(given(REQUESTED, STARTED), ClaimRun(worker="w2", lost="lease expired"))
    assert started == RunStarted(thread_id=THREAD, cron_id=CRON, attempt=2, worker="w2", lost="lease expired")


def test_after_the_last_attempt_it_fails_with_the_reason() -> None:
    tries = [
        msgspec.structs.replace(STARTED, attempt=n, lost="x" if n > 1 else "")
        for n in range(1, MAX_LOSSES + 1)
    ]
    [failed] = decide(given(REQUESTED, *tries), ClaimRun(worker="w2", lost="child died"))
    assert isinstance(failed, RunFailed)
    assert "child died" in failed.message


def test_excused_losses_are_not_counted() -> None:
    tries = [msgspec.structs.replace(STARTED, attempt=n, lost="x", excused=True) for n in range(2, 12)]
    [started] = decide(given(REQUESTED, STARTED, *tries), ClaimRun(worker="w2", lost="child died"))
    assert isinstance(started, RunStarted)
    assert started.attempt == 12


def test_a_run_that_was_given_back_is_claimed_without_blame() -> None:
    released = RunReleased(thread_id=THREAD, cron_id=CRON, attempt=1)
    assert decide(given(REQUESTED, STARTED), ReleaseRun(attempt=1)) == [released]
    assert decide(given(REQUESTED, STARTED), ReleaseRun(attempt=2)) == []
    assert decide(given(REQUESTED, STARTED, released), ReleaseRun(attempt=1)) == []
    assert decide(given(REQUESTED, STARTED, SUCCEEDED), ReleaseRun(attempt=1)) == []
    lost = [msgspec.structs.replace(STARTED, attempt=n, lost="x") for n in (2, 3)]
    [started] = decide(given(REQUESTED, STARTED, *lost, released), ClaimRun(worker="w2", lost="given back"))
    assert isinstance(started, RunStarted)
    assert started.excused


def test_a_stop_is_carried_out_however_often_it_is_lost() -> None:
    tries = [msgspec.structs.replace(STARTED, attempt=n, lost="x") for n in range(2, 9)]
    asked = RunCancelRequested(thread_id=THREAD, cron_id=CRON, action="rollback")
    [started] = decide(given(REQUESTED, STARTED, *tries, asked), ClaimRun(worker="w2", lost="child died"))
    assert isinstance(started, RunStarted)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_whoever_was_asked_to_stop_is_interrupted(outcome: Outcome) -> None:
    asked = RunCancelRequested(thread_id=THREAD, cron_id=CRON, reason="enough")
    [settled] = decide(given(REQUESTED, STARTED, asked), SettleRun(attempt=1, outcome=outcome))
    assert isinstance(settled, RunInterrupted)
    assert settled.reason == "enough"


def test_whoever_is_to_be_undone_takes_no_other_outcome() -> None:
    asked = RunCancelRequested(thread_id=THREAD, cron_id=CRON, action="rollback")
    with pytest.raises(MustRollBack):
        decide(given(REQUESTED, STARTED, asked), SettleRun(attempt=1, outcome=SUCCEEDED))
    undone = RunRolledBack(thread_id=THREAD, cron_id=CRON)
    assert decide(given(REQUESTED, STARTED, asked), SettleRun(attempt=1, outcome=undone)) == [undone]
    assert decide(given(REQUESTED), CancelRun(action="rollback"))[1:] == [undone]
    with pytest.raises(RunNotFound):
        decide(given(REQUESTED, STARTED, asked, undone), DeleteRun())


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_settles_once(outcome: Outcome) -> None:
    command = SettleRun(attempt=1, outcome=outcome)
    assert decide(given(REQUESTED, STARTED), command) == [outcome]
    with pytest.raises(RunNotActive):
        decide(given(REQUESTED, STARTED, outcome), command)


def test_void_attempt_is_fenced() -> None:
    second = msgspec.structs.replace(STARTED, attempt=2)
    with pytest.raises(RunNotActive, match="attempt 1 is void"):
        decide(given(REQUESTED, STARTED, second), SettleRun(attempt=1, outcome=SUCCEEDED))


def test_statuses() -> None:
    statuses = []
    for outcome in OUTCOMES:
        run = given(REQUESTED, STARTED, outcome)
        assert run is not None
        statuses.append(run.status)
    assert statuses == ["success", "error", "interrupted", "timeout"]


def test_pending_run_is_cancelled_at_once() -> None:
    events = decide(given(REQUESTED), CancelRun(reason="enough"))
    assert events == [
        RunCancelRequested(thread_id=THREAD, cron_id=CRON, reason="enough"),
        RunInterrupted(thread_id=THREAD, cron_id=CRON, reason="enough"),
    ]


def test_running_run_is_asked_to_stop_once() -> None:
    asked = RunCancelRequested(thread_id=THREAD, cron_id=CRON, reason="enough")
    assert decide(given(REQUESTED, STARTED), CancelRun(reason="enough")) == [asked]
    with pytest.raises(RunNotActive):
        decide(given(REQUESTED, STARTED, asked), CancelRun(reason="again"))


def test_ended_run_is_not_cancelled() -> None:
    with pytest.raises(RunNotActive):
        decide(given(REQUESTED, STARTED, SUCCEEDED), CancelRun())


def test_only_an_ended_run_is_deleted_and_then_unknown() -> None:
    deleted = RunDeleted(thread_id=THREAD, cron_id=CRON)
    assert decide(given(REQUESTED, STARTED, SUCCEEDED), DeleteRun()) == [deleted]
    with pytest.raises(RunNotActive):
        decide(given(REQUESTED, STARTED), DeleteRun())
    with pytest.raises(RunNotFound):
        decide(given(REQUESTED, STARTED, SUCCEEDED, deleted), DeleteRun())


@pytest.mark.parametrize("command", [ClaimRun(worker="w"), CancelRun(), DeleteRun()])
def test_unknown_run(command: RunCommand) -> None:
    with pytest.raises(RunNotFound):
        decide(None, command)


def test_skipped_occurrence_is_no_run() -> None:
    skipped = OccurrenceSkipped(thread_id=THREAD, cron_id=CRON, scheduled_for=META.at, reason="overlap")
    assert given(skipped) is None
