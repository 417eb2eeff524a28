"""The settlement: the outcome and the leaving of the lane in one append, if the attempt is still ours."""

import logging

from contracts.events import RunRolledBack, Settled
from contracts.ledger import Transaction
from domain import run as runs
from domain.changes import Changes
from domain.decisions import settle
from domain.run import ReleaseRun, SettleRun
from services.kit.clock import Clock
from services.kit.commands import execute
from services.kit.eventlog import EventLog
from services.worker.job import Job
from services.worker.loading import Story, lane_for, story_of
from services.worker.outcomes import Ending

log_lines = logging.getLogger("cronledger.worker")

ATTEMPTS = 20
"""A lane that many requests join at once moves under our feet; the result is worth more than three tries."""


class Settlements:
    """Settles the runs of one worker."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def settle(self, job: Job, ending: Ending) -> int:
        """The position behind which the outcome is in the log; 0: the attempt was void, the result is thrown away.

        Twice is harmless. Raises MustRollBack (its checkpoints first), LogUnavailable, Conflict (try again).
        """
        is_ours = True

        async def decide() -> Transaction | None:
            nonlocal is_ours
            story = story_of(self._log, job.run_id)
            if _is_open(story, job.attempt):
                return self._transaction(story, ending, job.attempt)
            is_ours = _is_settled_by(story, job.attempt)
            return None

        position = await execute(self._log, decide, attempts=ATTEMPTS)
        if position is None and not is_ours:
            log_lines.warning("run.fenced run_id=%s attempt=%d", job.run_id, job.attempt)
            return 0
        return position or self._log.head()

    async def give_back(self, job: Job) -> None:
        """Say that this worker leaves the run to others; harmless when it is not ours any more.

        Raises LogUnavailable, Conflict: then others have it when our lease has ended.
        """

        async def decide() -> Transaction | None:
            story = story_of(self._log, job.run_id)
            if not _is_open(story, job.attempt):
                return None
            assert story.run is not None
            events = runs.decide(story.run, ReleaseRun(attempt=job.attempt))
            return Changes(appends=runs.appends(story.run, events)).by(story.meta(self._clock, "worker"))

        await execute(self._log, decide)

    def _transaction(self, story: Story, ending: Ending, attempt: int) -> Transaction:
        assert story.run is not None
        meta = story.meta(self._clock, "worker")
        command = SettleRun(attempt=attempt, outcome=ending.outcome)
        changes = settle(story.run, command, lane_for(self._log, story.run))
        return (changes + Changes(blobs=ending.blobs)).by(meta)


def _is_open(story: Story, attempt: int) -> bool:
    return story.run is not None and story.run.is_active and story.run.attempt == attempt


def _is_settled_by(story: Story, attempt: int) -> bool:
    """True when an answer was lost and the outcome of the attempt is in the log already."""
    if story.run is None or story.run.attempt != attempt:
        return False
    return any(isinstance(e.body, Settled | RunRolledBack) for e in story.events)
