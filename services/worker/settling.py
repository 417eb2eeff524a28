"""The settlement: outcome, lane and the next run's dispatch in one append, if the attempt is still ours."""

import logging

from contracts.events import Settled
from contracts.ledger import Transaction
from domain.changes import Changes
from domain.lane import Lane
from domain.requests import settle
from domain.run import SettleRun
from services.kit.clock import Clock
from services.kit.commands import execute
from services.kit.eventlog import EventLog
from services.worker.job import Job
from services.worker.loading import Story, lane_and_following, story_of
from services.worker.outcomes import Ending

log_lines = logging.getLogger("cronledger.worker")

ATTEMPTS = 20
"""A lane that many requests join at once moves under our feet; the result is worth more than three tries."""


class Settlements:
    """Settles the runs of one worker."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def settle(self, job: Job, ending: Ending) -> bool:
        """True when the outcome is in the log, False when the attempt was void: the result is thrown away.

        Twice is harmless. Raises LogUnavailable, Conflict: try again.
        """
        settled = True

        def decide() -> Transaction | None:
            nonlocal settled
            story = story_of(self._log, job.run_id)
            settled = _is_open(story, job.attempt)
            if not settled:
                settled = _is_settled_by(story, job.attempt)
                return None
            return self._transaction(story, ending)

        await execute(self._log, decide, attempts=ATTEMPTS)
        if not settled:
            log_lines.warning("run.fenced run_id=%s attempt=%d", job.run_id, job.attempt)
        return settled

    def lane_is_closed(self, job: Job) -> bool:
        """True when the run's thread was deleted meanwhile."""
        assert job.run is not None
        lane: Lane = lane_and_following(self._log, job.run)[0]
        return lane.closed

    def _transaction(self, story: Story, ending: Ending) -> Transaction:
        assert story.run is not None
        command = SettleRun(attempt=ending.outcome.attempt, outcome=ending.outcome)
        changes = settle(story.run, command, *lane_and_following(self._log, story.run))
        return (changes + Changes(blobs=ending.blobs)).by(story.meta(self._clock, "worker"))


def _is_open(story: Story, attempt: int) -> bool:
    return story.run is not None and story.run.is_active and story.run.attempt == attempt


def _is_settled_by(story: Story, attempt: int) -> bool:
    """True when an answer was lost and the outcome of the attempt is in the log already."""
    return any(isinstance(e.body, Settled) and e.body.attempt == attempt for e in story.events)
