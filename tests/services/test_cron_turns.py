"""Runs of a cron that take turns, on threads of their own that others use too: lanes that cross, in any order."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, cast
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.api import Strategy
from contracts.events import Overlap, RunRolledBack, RunSucceeded
from contracts.ledger import Meta, Recorded
from contracts.spec import RunSpec
from domain import decisions
from domain.assistant import Assistant
from domain.changes import Changes
from domain.decisions import Occurrence, plan_of
from domain.errors import Refused
from domain.lane import Lane
from domain.overlap import agreed
from domain.run import CancelRun, ClaimRun, Outcome, Run, SettleRun, run_of
from services.relay.turns import turns_of
from services.repository import Aggregates

CRON = UUID(int=1)
ASSISTANT = Assistant(assistant_id=UUID(int=7), version=1, graph_id="agent", name="agent")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)

overlaps = st.sampled_from(["allow", "skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other"])
strategies = st.sampled_from(["enqueue", "reject", "interrupt", "rollback"])
steps = st.one_of(
    st.tuples(st.just("fire"), overlaps, st.booleans()),
    st.tuples(st.just("ask"), strategies, st.integers(0, 3)),
    st.tuples(st.sampled_from(["claim", "claim", "settle", "cancel", "undo"]), st.integers(0, 5)),
    st.tuples(st.sampled_from(["follow", "follow", "delete"]), st.integers(0, 3)),
)


class World:
    """A cron, the threads of its runs, and a follower that reads whenever it comes to it. It is its own log."""

    def __init__(self) -> None:
        self.streams: dict[UUID, list[Recorded]] = {}
        self.unread: list[Recorded] = []
        self.queue: set[UUID] = set()
        self.asked: list[UUID] = []
        self.kept: list[UUID] = []

    def newest(self, stream_ids: Iterable[UUID]) -> dict[UUID, Recorded]:
        return {id_: self.streams[id_][-1] for id_ in stream_ids if id_ in self.streams}

    def stream(self, stream_id: UUID) -> list[Recorded]:
        return self.streams.get(stream_id, [])

    @property
    def log(self) -> Aggregates:
        return Aggregates(cast(Any, self))

    def run(self, run_id: UUID) -> Run:
        run = run_of(run_id, self.streams[run_id])
        assert run is not None
        return run

    @property
    def runs(self) -> list[Run]:
        return [self.run(run_id) for run_id in self.asked]

    def lanes(self, run: Run) -> list[Lane]:
        return self.log.lanes(run.lanes)

    def store(self, changes: Changes) -> None:
        assert len({append.stream_id for append in changes.appends}) == len(changes.appends)
        for append in changes.appends:
            events = self.streams.setdefault(append.stream_id, [])
            assert append.expected_version == len(events)
            for body in append.bodies:
                position = sum(map(len, self.streams.values())) + 1
                meta = Meta(at=NOW, actor="test")
                events.append(Recorded(position, append.stream_id, len(events) + 1, body.TOPIC, meta, body))
                self.unread.append(events[-1])

    def fire(self, overlap: Overlap, is_kept: bool) -> None:
        number = len(self.asked)
        strategy = agreed(overlap, None, on_thread=False).strategy
        plan = plan_of(
            RunSpec(multitask_strategy=strategy),
            ASSISTANT,
            "alice",
            cron_id=CRON,
            temporary=not is_kept,
            overlap=overlap,
        )
        occurrence = Occurrence(run_id=UUID(int=100 + number), thread_id=UUID(int=500 + number))
        line = self.log.line(Lane(cron_id=CRON), plan.strategy) if plan.takes_turns else None
        self.store(decisions.request_stateless(plan, occurrence, NOW, line, plan.most_waiting))
        self.asked.append(occurrence.run_id)
        if is_kept:
            self.kept.append(occurrence.thread_id)

    def ask(self, strategy: Strategy, number: int) -> None:
        thread_id = self.kept[number % len(self.kept)]
        plan = plan_of(RunSpec(multitask_strategy=strategy), ASSISTANT, "alice")
        occurrence = Occurrence(run_id=UUID(int=100 + len(self.asked)), thread_id=thread_id, kind="")
        line = self.log.line(Lane(thread_id=thread_id), strategy)
        self.store(decisions.request_on_thread(plan, occurrence, line, {}, NOW))
        self.asked.append(occurrence.run_id)

    def claim(self, run: Run) -> None:
        lost = "its worker is gone" if run.attempt else ""
        command = ClaimRun(worker="w", lost=lost, excused=True)
        self.store(decisions.claim(run, command, self.lanes(run), NOW))

    def end(self, run: Run) -> None:
        """By whatever it was asked to come to."""
        if run.attempt:
            outcome: Outcome = RunSucceeded(thread_id=run.request.thread_id, attempt=run.attempt)
            if run.cancel == "rollback":
                outcome = RunRolledBack(thread_id=run.request.thread_id)
            command = SettleRun(attempt=run.attempt, outcome=outcome)
            self.store(decisions.settle(run, command, self.lanes(run)))

    def delete(self, number: int) -> None:
        thread_id = self.kept[number % len(self.kept)]
        log = self.log
        self.store(decisions.delete_thread(log.thread(thread_id), log.whole_line(log.lane(thread_id)), ()))

    def follow(self) -> None:
        """What the relay does."""
        for turn in turns_of(self.unread):
            heads = {lane.head for lane in self.lanes(self.run(turn.run_id))}
            if turn.also is None or heads == {turn.run_id}:
                self.queue.add(turn.run_id)
        self.unread.clear()

    def take(self, step: Any) -> None:
        match step:
            case ("fire", overlap, is_kept):
                self.fire(overlap, is_kept)
            case ("ask", strategy, number) if self.kept:
                self.ask(strategy, number)
            case ("delete", number) if self.kept:
                self.delete(number)
            case ("follow", _):
                self.follow()
            case (what, number) if self.asked:
                self.touch(what, self.runs[number % len(self.asked)])

    def touch(self, what: str, run: Run) -> None:
        if what == "claim":
            self.claim(run)
        elif what == "settle":
            self.end(run)
        elif what in ("cancel", "undo"):
            action: Literal["interrupt", "rollback"] = "interrupt" if what == "cancel" else "rollback"
            self.store(decisions.cancel(run, CancelRun(action=action), self.lanes(run)))


def check(world: World) -> None:
    standing: dict[UUID, list[UUID]] = {}
    for run in world.runs:
        for lane in world.lanes(run):
            standing[lane.owner_id] = [entry.run_id for entry in lane.in_flight]
            entry = next((entry for entry in lane.in_flight if entry.run_id == run.run_id), None)
            assert (entry is not None) == run.is_active, (
                "it stands in a lane while it is active, and no longer"
            )
            if entry is not None:
                assert entry.stopping == run.cancel, "each lane knows that it is being stopped"
                others = [other.stream_id for other in run.lanes if other.stream_id != lane.stream_id]
                assert entry.also == (others[0] if others else None)
    for owner, line in standing.items():
        at_work = [run_id for run_id in line if world.run(run_id).attempt]
        assert at_work in ([], line[:1]), f"only the head of {owner} is at work"


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=25))
def test_one_at_a_time_in_each_lane_and_nobody_is_forgotten(taken: list[Any]) -> None:
    world = World()
    for step in taken:
        try:
            world.take(step)
        except Refused:
            continue
        check(world)
    while active := [run for run in world.runs if run.is_active]:
        world.follow()
        turn = [run for run in active if decisions.may_claim(run, world.lanes(run), NOW)]
        assert turn, "they wait for each other"
        assert {run.run_id for run in turn} <= world.queue, "whose turn it is, is on no queue"
        if not turn[0].attempt:
            world.claim(turn[0])
        world.end(world.run(turn[0].run_id))
        check(world)
