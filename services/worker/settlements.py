"""The settlement: the outcome and the leaving of the lane in one append, if the attempt is still ours."""

from collections.abc import Callable

from contracts.events import RunRolledBack, Settled
from domain import run as runs
from domain.changes import Changes
from domain.decisions import settle
from domain.run import ReleaseRun, SettleRun
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.logs import Log
from services.kit.reads import read
from services.repository import Repository
from services.worker.job import Job
from services.worker.outcomes import Ending
from services.worker.stories import Story, story_of

log_lines = Log("worker")

ATTEMPTS = 20
"""A lane that many requests join at once moves under our feet; the result is worth more than three tries."""


class Settlements:
    """Settles the runs of one worker."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log, self._repository = log, Repository(log)
        self._clock = clock

    async def settle(self, job: Job, ending: Ending) -> int:
        """The position behind which the outcome is in the log; 0: the attempt was void, the result is thrown away.

        Twice is harmless. Raises MustRollBack (its checkpoints first), LogUnavailable, Conflict (try again).
        """
        is_ours = True

        def decide(story: Story) -> Changes:
            nonlocal is_ours
            if not _is_open(story, job.attempt):
                is_ours = _is_settled_by(story, job.attempt)
                return Changes()
            assert story.run is not None
            command = SettleRun(attempt=job.attempt, outcome=ending.outcome)
            return settle(story.run, command, story.places) + Changes(blobs=ending.blobs)

        position = await self._carry_out(job, decide)
        if position is None and not is_ours:
            log_lines.warning("run.fenced", run_id=job.run_id, attempt=job.attempt)
            return 0
        return await read(self._log, self._log.head) if position is None else position

    async def give_back(self, job: Job) -> None:
        """Say that this worker leaves the run to others; harmless when it is not ours any more.

        Raises LogUnavailable, Conflict: then others have it when our lease has ended.
        """

        def decide(story: Story) -> Changes:
            if not _is_open(story, job.attempt):
                return Changes()
            assert story.run is not None
            return Changes(
                appends=runs.appends(story.run, runs.decide(story.run, ReleaseRun(attempt=job.attempt)))
            )

        await self._carry_out(job, decide)

    async def _carry_out(self, job: Job, decide: Callable[[Story], Changes]) -> int | None:
        return await self._repository.carry_out(
            lambda log: story_of(log, job.run_id),
            decide,
            lambda story: story.meta(self._clock, "worker"),
            attempts=ATTEMPTS,
        )


def _is_open(story: Story, attempt: int) -> bool:
    return story.run is not None and story.run.is_active and story.run.attempt == attempt


def _is_settled_by(story: Story, attempt: int) -> bool:
    """True when an answer was lost and the outcome of the attempt is in the log already."""
    if story.run is None or story.run.attempt != attempt:
        return False
    return any(isinstance(e.body, Settled | RunRolledBack) for e in story.events)
