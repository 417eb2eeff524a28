"""Lanes with whoever follows them, under any order of events and with clocks that differ."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import LaneChanged, RunRolledBack, RunSucceeded
from contracts.ledger import Meta, Recorded
from contracts.spec import RunSpec
from domain import decisions
from domain import lane as lanes
from domain.assistant import Assistant
from domain.changes import Changes
from domain.decisions import Line, Occurrence, plan_of
from domain.errors import Refused
from domain.lane import Lane, MultitaskStrategy, lane_id_of, lane_of
from domain.run import CancelRun, ClaimRun, Outcome, Run, SettleRun, run_of
from domain.thread import Thread
from services.relay.turns import turns_of

THREAD = UUID(int=1)
ASSISTANT = Assistant(assistant_id=UUID(int=7), version=1, graph_id="agent", name="agent")
START = datetime(2026, 11, 24, 12, tzinfo=UTC)

strategies = st.sampled_from(["enqueue", "reject", "interrupt", "rollback"])
steps = st.one_of(
    st.tuples(st.just("join"), strategies, st.sampled_from([0, 1, 3]), st.sampled_from([0, -3, 3])),
    st.tuples(st.sampled_from(["claim", "settle"]), st.just(-1)),  # the head
    st.tuples(st.sampled_from(["claim", "settle", "cancel", "undo"]), st.integers(0, 5)),
    st.tuples(st.just("tick"), st.sampled_from([1, 3])),
    st.tuples(st.sampled_from(["follow", "follow", "follow", "delete"]), st.just(0)),
)


class World:
    """One thread: its lane, its runs, and a follower that reads whenever it comes to it."""

    def __init__(self) -> None:
        self.streams: dict[UUID, list[Recorded]] = {}
        self.unread: list[Recorded] = []
        self.queue: set[UUID] = set()
        self.delayed: dict[UUID, float] = {}
        self.now, self.skew_s = START, 0  # of whoever asked last, and by as much the other way of who follows
        self.asked: list[UUID] = []

    @property
    def lane(self) -> Lane:
        events = self.streams.get(lane_id_of(THREAD), [])
        return lane_of(Lane(thread_id=THREAD), events[-1] if events else None)

    def run(self, run_id: UUID) -> Run:
        run = run_of(run_id, self.streams[run_id])
        assert run is not None
        return run

    @property
    def at_work(self) -> list[UUID]:
        return [run_id for run_id in self.asked if (r := self.run(run_id)).is_active and r.attempt]

    def store(self, changes: Changes) -> None:
        for append in changes.appends:
            events = self.streams.setdefault(append.stream_id, [])
            assert append.expected_version == len(events)
            for body in append.bodies:
                position = sum(map(len, self.streams.values())) + 1
                meta = Meta(at=self.now, actor="test")
                recorded = Recorded(position, append.stream_id, len(events) + 1, body.TOPIC, meta, body)
                events.append(recorded)
                self.unread.append(recorded)

    def join(self, strategy: MultitaskStrategy, delay_s: int) -> None:
        run_id, lane = UUID(int=100 + len(self.asked)), self.lane
        now = self.now + timedelta(seconds=self.skew_s)  # another host's clock
        not_before = now + timedelta(seconds=delay_s) if delay_s else None
        plan = plan_of(RunSpec(multitask_strategy=strategy), ASSISTANT, "alice")
        occurrence = Occurrence(run_id=run_id, thread_id=THREAD, kind="", not_before=not_before)
        runs = {e.run_id: self.run(e.run_id) for e in lane.in_flight if strategy in lanes.TAKES_PLACES}
        self.store(decisions.request_on_thread(plan, occurrence, Line(lane=lane, runs=runs), {}, now))
        self.asked.append(run_id)

    def claim(self, run_id: UUID) -> None:
        run = self.run(run_id)
        lost = "its worker is gone" if run.attempt else ""
        self.store(decisions.claim(run, ClaimRun(worker="w", lost=lost, excused=True), [self.lane], self.now))

    def end(self, run_id: UUID) -> None:
        """By whatever it was asked to come to."""
        run = self.run(run_id)
        if run.attempt:
            outcome: Outcome = RunSucceeded(thread_id=THREAD, attempt=run.attempt)
            if run.cancel == "rollback":
                outcome = RunRolledBack(thread_id=THREAD)
            self.store(decisions.settle(run, SettleRun(attempt=run.attempt, outcome=outcome), [self.lane]))

    def delete(self) -> None:
        thread = Thread(thread_id=THREAD, version=0, user_id="u")
        runs = {entry.run_id: self.run(entry.run_id) for entry in self.lane.in_flight}
        changes = decisions.delete_thread(thread, Line(lane=self.lane, runs=runs), ())
        self.store(Changes(appends=tuple(a for a in changes.appends if a.stream_id != THREAD)))

    def follow(self) -> None:
        """What the relay does, with a clock of its own."""
        now_s = (self.now - timedelta(seconds=self.skew_s)).timestamp()
        for turn in turns_of(self.unread):
            if turn.due_s <= now_s:
                self.queue.add(turn.run_id)
            else:
                self.delayed[turn.run_id] = turn.due_s
        self.unread.clear()
        for run_id in [run_id for run_id, due_s in self.delayed.items() if due_s <= now_s]:
            del self.delayed[run_id]
            if self.lane.head == run_id:
                self.queue.add(run_id)

    def take(self, step: Any) -> None:
        match step:
            case ("join", strategy, delay_s, skew_s):
                self.skew_s = skew_s
                self.join(strategy, delay_s)
            case ("tick", seconds):
                self.now += timedelta(seconds=seconds)
            case ("follow", _):
                self.follow()
            case ("delete", _):
                self.delete()
            case (what, -1) if self.lane.head:
                self.touch(what, self.lane.head)
            case (what, number) if self.asked:
                self.touch(what, self.asked[number % len(self.asked)])

    def touch(self, what: str, run_id: UUID) -> None:
        if what == "claim":
            self.claim(run_id)
        elif what == "settle":
            self.end(run_id)
        else:
            action: Literal["interrupt", "rollback"] = "interrupt" if what == "cancel" else "rollback"
            self.store(decisions.cancel(self.run(run_id), CancelRun(action=action), [self.lane]))


def lived(taken: Iterable[Any]) -> World:
    world = World()
    for step in taken:
        try:
            world.take(step)
        except Refused:
            continue
        check(world)
    return world


def check(world: World) -> None:
    at_work = world.at_work
    assert len(at_work) <= 1, "two runs of a thread are at work"
    if at_work:
        assert world.lane.head == at_work[0], "somebody went before a run that is at work"
    folded = Lane(thread_id=THREAD)
    for recorded in world.streams.get(lane_id_of(THREAD), []):
        assert isinstance(recorded.body, LaneChanged)
        folded = lanes.evolve(folded, recorded.body)
    assert folded == world.lane
    active = {run_id for run_id in world.asked if world.run(run_id).is_active}
    assert {entry.run_id for entry in world.lane.in_flight} == active


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=25))
def test_one_at_a_time_and_nobody_is_forgotten(taken: list[Any]) -> None:
    world = lived(taken)
    for _ in range(3 * len(world.asked)):
        world.now += timedelta(seconds=10)
        world.follow()
        head = world.lane.head
        if head is None:
            break
        assert head in world.queue, "the head is on no queue"
        if not world.run(head).attempt:
            world.claim(head)
            check(world)
        world.end(head)
        check(world)
    assert not world.lane.in_flight
    assert not any(world.run(run_id).is_active for run_id in world.asked)
