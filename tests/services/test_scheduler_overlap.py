"""What the scheduler does when an earlier run of a cron is not over, on a real log; the test is the worker."""

from functools import partial
from typing import Any
from uuid import UUID

import pytest

from contracts.events import (
    OccurrenceMissed,
    OccurrenceSkipped,
    OccurrencesMissed,
    Overlap,
    RunRequested,
    RunRolledBack,
    RunSucceeded,
    Settled,
)
from domain.cron import DeleteCron, UpdateCron
from domain.lane import Lane
from domain.run import Run
from services.repository import Aggregates
from services.worker.claims import Claims
from services.worker.job import Done, Job
from services.worker.outcomes import Ending
from services.worker.settlements import Settlements
from tests.services.schedulers import Bench

TOLD = RunRequested, OccurrenceSkipped, OccurrenceMissed, OccurrencesMissed
POLICIES: dict[Overlap, list[str]] = {
    "allow": ["running", "pending", "pending", "pending"],
    "skip": ["running", "overlap", "overlap", "overlap"],
    "buffer_one": ["running", "pending", "buffer_full", "buffer_full"],
    "buffer_all": ["running", "pending", "pending", "pending"],
    "cancel_other": ["stopping", "interrupted", "interrupted", "pending"],
    "terminate_other": ["stopping", "undone", "undone", "pending"],
}
"""What becomes of four occurrences of which the first begins to run and does not come to an end."""


class Turns:
    """What became of the occurrences of crons, and a worker for their runs."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.jobs: dict[UUID, Job] = {}

    def told(self, cron_id: UUID) -> list[Any]:
        return [event for event in self.bench.events(*TOLD) if event.cron_id == cron_id]

    def runs(self, cron_id: UUID) -> list[Run]:
        streams = self.bench.log.read(0, 100_000)
        ids = [e.stream_id for e in streams if isinstance(e.body, RunRequested) and e.body.cron_id == cron_id]
        found = [Aggregates(self.bench.log).run_or_none(run_id) for run_id in ids]
        return [run for run in found if run is not None]

    def became(self, cron_id: UUID) -> list[str]:
        """In one word each, oldest first."""
        return [
            event.reason
            if isinstance(event, OccurrenceSkipped)
            else self._state(next(r for r in self.runs(cron_id) if r.request == event))
            for event in self.told(cron_id)
        ]

    def _state(self, run: Run) -> str:
        if run.gone:
            return "undone"
        return "stopping" if run.is_active and run.cancel else run.status

    async def claim(self, run: Run, worker: str = "w") -> Any:
        """The verdict; None: it runs."""
        await self.bench.log.renew_lease(f"worker.{worker}", worker, 30)
        job = self.jobs[run.run_id] = Job(None, run.run_id)  # type: ignore[arg-type]
        await Claims(self.bench.log, self.bench.clock, worker, (), ("agent",)).claim(job)
        return job.verdict

    async def end(self, run: Run) -> None:
        outcome: Any = RunSucceeded(thread_id=run.request.thread_id, cron_id=run.request.cron_id, attempt=1)
        if Aggregates(self.bench.log).run(run.request.thread_id, run.run_id).cancel == "rollback":
            outcome = RunRolledBack(thread_id=run.request.thread_id, cron_id=run.request.cron_id)
        job = self.jobs.pop(run.run_id)
        assert await Settlements(self.bench.log, self.bench.clock).settle(job, Ending(outcome))

    async def tick(self, *cron_ids: UUID, told: int) -> None:
        """One second later each has told of so many."""
        self.bench.clock.move(seconds=1)
        await self.bench.until(lambda: all(len(self.told(cron_id)) >= told for cron_id in cron_ids))

    def lane(self, cron_id: UUID) -> list[UUID]:
        [lane] = Aggregates(self.bench.log).lanes([Lane(cron_id=cron_id)])
        return [entry.run_id for entry in lane.in_flight]


@pytest.mark.parametrize("schedulers", [1, 2])
async def test_each_policy_with_threads_that_are_kept_or_not(bench: Bench, schedulers: int) -> None:
    turns = Turns(bench)
    await bench.schedule(schedulers)
    crons = {
        await bench.cron("* * * * * *", overlap=overlap, on_run_completed=completed): overlap
        for overlap in POLICIES
        for completed in ("keep", "delete")
    }
    await turns.tick(*crons, told=1)
    for cron_id in crons:
        [run] = turns.runs(cron_id)
        assert await turns.claim(run) is None
    for number in (2, 3, 4):
        await turns.tick(*crons, told=number)
    assert {cron_id: turns.became(cron_id) for cron_id in crons} == {
        cron_id: POLICIES[overlap] for cron_id, overlap in crons.items()
    }
    for cron_id, overlap in crons.items():
        first, *others = turns.runs(cron_id)
        waiting = [run for run in others if run.is_active]
        verdicts = [await turns.claim(run, "w2") for run in waiting]
        assert [verdict is None for verdict in verdicts] == [overlap == "allow"] * len(waiting)
        if overlap == "allow":
            continue
        await turns.end(first)
        for run in waiting:  # in their order, one after the other
            assert await turns.claim(run) is None
            await turns.end(run)
        assert turns.lane(cron_id) == []
    await turns.tick(*crons, told=5)
    assert {turns.became(cron_id)[-1] for cron_id in crons} == {"pending"}


async def test_a_run_that_ended_between_decision_and_append_leaves_its_place(bench: Bench) -> None:
    turns = Turns(bench)
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *", overlap="buffer_one")
    await turns.tick(cron_id, told=1)
    [first] = turns.runs(cron_id)
    assert await turns.claim(first) is None
    bench.edge_log.meanwhile = partial(turns.end, first)
    await turns.tick(cron_id, told=2)
    assert turns.became(cron_id) == ["success", "pending"]
    assert turns.lane(cron_id) == [turns.runs(cron_id)[1].run_id]
    assert bench.schedulers[0].counts.conflicts == 1


async def test_a_store_that_fails_doubles_and_loses_nothing(bench: Bench) -> None:
    turns = Turns(bench)
    await bench.schedule()
    crons = [await bench.cron("* * * * * *", overlap=overlap) for overlap in ("skip", "cancel_other")]
    await turns.tick(*crons, told=1)
    for cron_id in crons:
        assert await turns.claim(turns.runs(cron_id)[0]) is None
    bench.edge_log.fail("append_many")
    await turns.tick(*crons, told=2)
    await bench.quiet()
    assert [turns.became(cron_id) for cron_id in crons] == [["running", "overlap"], ["stopping", "pending"]]


async def test_who_waits_keeps_its_place_when_the_policy_changes(bench: Bench) -> None:
    turns = Turns(bench)
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *", overlap="buffer_all")
    await turns.tick(cron_id, told=1)
    await turns.tick(cron_id, told=2)
    first, second = turns.runs(cron_id)
    await bench.command(cron_id, UpdateCron(overlap="allow"))
    await turns.tick(cron_id, told=3)
    third = turns.runs(cron_id)[2]
    assert turns.lane(cron_id) == [first.run_id, second.run_id]
    assert await turns.claim(third) is None
    assert await turns.claim(second) is not None
    await bench.command(cron_id, UpdateCron(overlap="skip"))
    await turns.tick(cron_id, told=4)
    assert turns.became(cron_id)[-1] == "overlap"
    for run in (first, second):
        assert await turns.claim(run) is None
        await turns.end(run)
    await turns.tick(cron_id, told=5)
    assert turns.became(cron_id)[-1] == "pending"


async def test_a_worker_that_dies_keeps_its_runs_place_until_another_has_it(bench: Bench) -> None:
    turns = Turns(bench)
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *", overlap="buffer_one")
    await turns.tick(cron_id, told=1)
    [first] = turns.runs(cron_id)
    assert await turns.claim(first, "dies") is None
    await turns.tick(cron_id, told=2)
    second = turns.runs(cron_id)[1]
    bench.clock.move(seconds=31)
    await bench.until(lambda: len(turns.told(cron_id)) > 2)
    assert await turns.claim(second, "w2") is not None
    assert await turns.claim(first, "w2") is None
    assert turns.jobs[first.run_id].attempt == 2
    assert turns.lane(cron_id)[:2] == [first.run_id, second.run_id]


async def test_on_one_thread_two_crons_count_each_others_runs(bench: Bench) -> None:
    """The line is the thread's: one may wait there, whoever's it is."""
    turns = Turns(bench)
    await bench.schedule()
    thread_id = await bench.thread()
    every = {"thread_id": thread_id, "spec": {"multitask_strategy": "enqueue"}}
    crons = [await bench.cron("* * * * * *", overlap="buffer_one", **every) for _ in range(3)]
    await turns.tick(*crons, told=1)
    assert sorted(turns.became(cron_id)[0] for cron_id in crons) == ["buffer_full", "pending", "pending"]


async def test_a_deleted_cron_leaves_its_line_as_it_is(bench: Bench) -> None:
    turns = Turns(bench)
    await bench.schedule()
    cron_id = await bench.cron("* * * * * *", overlap="buffer_all")
    await turns.tick(cron_id, told=1)
    await turns.tick(cron_id, told=2)
    await bench.command(cron_id, DeleteCron())
    for run in turns.runs(cron_id):
        assert await turns.claim(run) is None
        await turns.end(run)
    assert turns.lane(cron_id) == []
    assert {type(e) for e in bench.events(Settled)} == {RunSucceeded}
    assert isinstance(await turns.claim(turns.runs(cron_id)[0]), Done)
