"""Everything that can have happened, one struct per topic; the registry of topics.

A stored event is never edited. A new field gets a default; a new meaning gets a new topic version and an
upcaster. `tests/contracts/golden` holds the bytes of every version ever written.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec

from contracts.ledger import Body, Payload, Upcast

BODIES: dict[str, type[Body]] = {}
UPCASTS: dict[str, tuple[str, Upcast]] = {}
"""old topic -> (newer topic, body of the old -> body of the newer)"""

BodyClass = TypeVar("BodyClass", bound=type[Body])


def event(topic: str) -> Callable[[BodyClass], BodyClass]:
    """Register a body under its topic: `aggregate.event.vN`."""

    def register(cls: BodyClass) -> BodyClass:
        if topic in BODIES:
            raise TypeError(f"topic {topic} is taken by {BODIES[topic].__name__}")
        cls.TOPIC = topic
        BODIES[topic] = cls
        return cls

    return register


# --- shared parts -------------------------------------------------------------------------------------

OnRunCompleted = Literal["delete", "keep"]
FiringKind = Literal["", "first", "schedule", "catch_up", "trigger", "backfill", "state"]
"""Why a run exists: asked for, by its cron (`trigger`, `backfill`: somebody asked for it besides), or (`state`) only to
write a thread's state, which no client sees.
"""
BackfillInclude = Literal["unfired", "all"]
"""Of which occurrences a backfill has runs: of those that have had none, or of each, once more."""
MissedReason = Literal["coalesced", "window", "skip", "paused", "error"]
CatchUp = Literal["latest", "skip", "all"]
"""Which of the occurrences that nobody decided in time fire late: the newest, none, each of them."""
Overlap = Literal["allow", "skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other"]
"""What an occurrence does while an earlier run of its cron is not over: run beside it, be skipped, wait (alone, or
behind others), or take its place, the earlier run being cancelled, or undone.
"""
SkippedReason = Literal["overlap", "buffer_full", "refused", "graph_missing"]


NextAt = datetime | None | msgspec.UnsetType
"""The cron's next occurrence as seen when the event happened; None = there is none, absent = not moved."""


class CheckpointRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where LangGraph keeps a state: the key of its checkpoint store."""

    thread_id: str
    checkpoint_id: str
    checkpoint_ns: str = ""


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What decides when a cron's occurrences are due."""

    canonical: str
    timezone: str | None = None  # IANA name; None = UTC
    start_time: datetime | None = None  # inclusive; what is before it is no occurrence
    end_time: datetime | None = None  # inclusive
    active: bool = True  # false: paused or expired, its occurrences are missed
    catch_up: CatchUp = "latest"
    window_s: int | None = None  # what is older never fires; None: as the server is set
    until: datetime | None = None  # of a pause: from here on it is active by itself
    makes_up: CatchUp = "skip"  # of a pause that is over: which of its occurrences fire late
    jitter_s: int = 0  # each fires up to so much after it is due, always by the same
    max_runs: int | None = None  # so many are fired by the schedule, and no more

    def over(self, makes_up: CatchUp) -> "Rule":
        """It as what was in force; of a pause, with what of it fires late."""
        return self if self.active or makes_up == "skip" else msgspec.structs.replace(self, makes_up=makes_up)


Stopping = Literal["", "interrupt", "rollback"]


class LaneRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run in a lane's line; the first of the line is the one that may run."""

    run_id: UUID
    not_before: datetime | None = None  # it may not start earlier; the line is in the order of these
    stopping: Stopping = ""  # it was asked to stop, and its worker is at it still
    writes: bool = False  # it only writes the thread's state
    also: UUID | None = (
        None  # the stream of the other lane of which it must be the head to run, if there is one
    )


class CronEvent(Body, frozen=True, kw_only=True):
    """An event on a cron's own stream (stream id = cron id): edits and life, never firings."""


class RuleEvent(CronEvent, frozen=True, kw_only=True):
    """An edit of what decides when. It takes effect at the event's time, and moves no cursor by itself: what is
    undecided before it is decided by the rule that it ends.
    """

    rule: Rule | None = None  # the whole new rule; None: it stays as it is
    newest: datetime | None = None  # the last occurrence of the rule that ends here; None: it had none

    @property
    def made_up(self) -> CatchUp:
        """What fires late of the pause that ends here, if it is one."""
        return "skip"

    def since(self, at: datetime) -> datetime:
        """From when on the rule is in force; `at` is the event's time."""
        return at


class RunEvent(Body, frozen=True, kw_only=True):
    """An event on a run's own stream (stream id = run id).

    Thread and cron are repeated on each, so that any of them can be filtered without a look-up.
    """

    thread_id: UUID
    cron_id: UUID | None = None


class LaneEvent(Body, frozen=True, kw_only=True):
    """An event on the lane of a thread, or of a cron whose runs have a thread each: its stream's id is derived from
    the id of the one of the two that is there.
    """

    thread_id: UUID | None = None
    cron_id: UUID | None = None


class ThreadEvent(Body, frozen=True, kw_only=True):
    """An event on a thread's own stream (stream id = thread id)."""


class DeliveryEvent(Body, frozen=True, kw_only=True):
    """An event on the stream of a webhook's delivery (stream id derived from the run's)."""

    run_id: UUID
    thread_id: UUID
    cron_id: UUID | None = None


class BackfillEvent(Body, frozen=True, kw_only=True):
    """An event on a backfill's own stream (stream id = backfill id)."""

    cron_id: UUID


class AssistantEvent(Body, frozen=True, kw_only=True):
    """An event on an assistant's own stream (stream id = assistant id)."""


# --- cron ---------------------------------------------------------------------------------------------


@event("cron.created.v1")
class CronCreated(CronEvent, frozen=True, kw_only=True):
    """A schedule exists. Its cursor starts at the event's time: strictly later occurrences fire."""

    assistant_id: UUID
    graph_id: str
    user_id: str
    schedule: str  # as the client wrote it
    canonical: str  # what decides when; equal text = equal instants
    thread_id: UUID | None = None  # None: stateless, each firing has a thread of its own
    timezone: str | None = None  # IANA name; None = UTC
    end_time: datetime | None = None  # inclusive
    enabled: bool = True
    on_run_completed: OnRunCompleted | None = None
    metadata: dict[str, Any] = {}
    payload: Payload  # JSON object: the create body, assistant resolved, `cron_id` in the configurable
    next_at: NextAt = msgspec.UNSET
    tzdata: str
    note: str = ""  # why it is as it is
    catch_up: CatchUp = "latest"
    catch_up_window_s: int | None = None  # None: as the server is set
    start_time: datetime | None = None  # inclusive
    jitter_s: int = 0
    max_runs: int | None = None  # of its schedule; None: without end
    pause_after_failures: int | None = None  # runs in a row that fail; None: it never pauses itself
    overlap: Overlap | None = None  # None: of a thread's cron as its strategy says, of another one `allow`


@event("cron.updated.v1")
class CronUpdated(RuleEvent, frozen=True, kw_only=True):
    """Fields were changed; an absent field kept its value, a null one was cleared.

    It has a `rule` when anything that decides when has changed.
    """

    schedule: str | msgspec.UnsetType = msgspec.UNSET
    canonical: str | msgspec.UnsetType = msgspec.UNSET
    timezone: str | None | msgspec.UnsetType = msgspec.UNSET
    end_time: datetime | None | msgspec.UnsetType = msgspec.UNSET
    on_run_completed: OnRunCompleted | None | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET  # the whole new value
    payload: Payload | msgspec.UnsetType = msgspec.UNSET  # the whole new value
    next_at: NextAt = msgspec.UNSET
    tzdata: str = ""
    note: str | msgspec.UnsetType = msgspec.UNSET
    catch_up: CatchUp | msgspec.UnsetType = msgspec.UNSET
    catch_up_window_s: int | None | msgspec.UnsetType = msgspec.UNSET
    start_time: datetime | None | msgspec.UnsetType = msgspec.UNSET
    jitter_s: int | msgspec.UnsetType = msgspec.UNSET
    max_runs: int | None | msgspec.UnsetType = msgspec.UNSET
    pause_after_failures: int | None | msgspec.UnsetType = msgspec.UNSET
    overlap: Overlap | msgspec.UnsetType = msgspec.UNSET


@event("cron.paused.v1")
class CronPaused(RuleEvent, frozen=True, kw_only=True):
    """Nothing that is due after the event's time fires, until it is resumed, or `until` comes."""

    note: str = ""  # why; '': the note that it had stays
    until: datetime | None = None  # what is due at it fires again
    next_at: NextAt = msgspec.UNSET


@event("cron.resumed.v1")
class CronResumed(RuleEvent, frozen=True, kw_only=True):
    """It fires again from the event's time on; what the pause covered is then told as missed, but what is made up
    for. By a client, or when a pause has come to its `until`.
    """

    next_at: NextAt = msgspec.UNSET
    tzdata: str = ""
    note: str = ""  # in place of the one that it had
    makes_up: CatchUp = "skip"  # which of the pause's occurrences fire late

    @property
    def made_up(self) -> CatchUp:
        return self.makes_up


@event("cron.rescheduled.v1")
class CronRescheduled(CronEvent, frozen=True, kw_only=True):
    """The same schedule now means another instant, because the zone's rules changed (new tzdata).

    A wall time that has had its run has none again, where the new rules show it later.
    """

    next_at: datetime | None
    tzdata: str
    decided: datetime | None = None  # up to here everything is decided, by the new rules


@event("cron.expired.v1")
class CronExpired(RuleEvent, frozen=True, kw_only=True):
    """No occurrence lies at or before its `end_time` any more; it is disabled."""


@event("cron.exhausted.v1")
class CronExhausted(RuleEvent, frozen=True, kw_only=True):
    """The last of its `max_runs` is fired, in the same append; it is disabled, and nothing after that is due: the
    rule ends there, however late the event comes.
    """

    runs: int

    def since(self, at: datetime) -> datetime:
        return at if self.rule is None or self.rule.end_time is None else self.rule.end_time


@event("cron.deleted.v1")
class CronDeleted(CronEvent, frozen=True, kw_only=True):
    """The end of the stream, and of what was due and not decided. Runs already created are not touched."""

    reason: Literal["request", "thread_deleted", "assistant_deleted"] = "request"


@event("cron.occurrences_missed.v1")
class OccurrencesMissed(CronEvent, frozen=True, kw_only=True):
    """`count` occurrences in [`first`, `last`] did not fire, and why.

    `counted_all` is false when there were more than the count says (it stops at 10,000).
    """

    first: datetime
    last: datetime
    count: int
    reason: MissedReason
    counted_all: bool = True
    next_at: NextAt = msgspec.UNSET
    local: str = ""  # `first` and `last` on the cron's wall clock, with offset
    last_local: str = ""
    revision: int = 0  # version of the cron that was in force when it was told
    tzdata: str = ""


# --- backfill -----------------------------------------------------------------------------------------


@event("backfill.requested.v1")
class BackfillRequested(BackfillEvent, frozen=True, kw_only=True):
    """Occurrences that lie in the past are to have runs; these follow one by one, each with the `backfill_id`."""

    user_id: str  # whose cron it is
    start: datetime
    end: datetime  # exclusive
    include: BackfillInclude
    overlap: Overlap | None = None  # None: as the cron has it
    planned: tuple[int, ...]  # the instants, seconds since 1970, oldest first
    already_fired: int = 0  # of those in the stretch
    revision: int  # version of the cron that said which they are
    tzdata: str
    note: str = ""


@event("backfill.finished.v1")
class BackfillFinished(BackfillEvent, frozen=True, kw_only=True):
    """Each of its occurrences has had its turn."""


@event("backfill.cancelled.v1")
class BackfillCancelled(BackfillEvent, frozen=True, kw_only=True):
    """No more of its runs begin; those that have begun go on."""

    reason: Literal["request", "cron_deleted"] = "request"


# --- run ----------------------------------------------------------------------------------------------


@event("run.requested.v1")
class RunRequested(RunEvent, frozen=True, kw_only=True):
    """Version 1 of a run. For an occurrence of a cron the id is derived from both, so that this version
    is the unique key which makes a second firing impossible. A backfill may come behind what told why it did not fire.
    """

    assistant_id: UUID
    graph_id: str
    user_id: str
    metadata: dict[str, Any] = {}
    kwargs: Payload  # JSON object: input, config, context, ... (`contracts.api.RunKwargs`)
    multitask_strategy: str = "enqueue"
    temporary: bool = False  # its thread lives only while it runs, no checkpoint is kept
    kind: FiringKind = ""
    scheduled_for: datetime | None = None  # the nominal instant, whole seconds
    local: str = ""  # the same on the cron's wall clock, with offset
    revision: int = 0  # version of the cron that was in force
    tzdata: str = ""
    next_at: NextAt = msgspec.UNSET
    not_before: datetime | None = None  # it waits at least until then
    note: str = ""  # of whoever triggered it
    webhook: str = ""  # who is told of its end
    fires_at: datetime | None = None  # its schedule's jitter after it was due; None: it has none
    backfill_id: UUID | None = None
    cron_lane: bool = (
        False  # it stands in its cron's lane too, so that it does not run beside others of its cron
    )


@event("run.occurrence_skipped.v1")
class OccurrenceSkipped(RunEvent, frozen=True, kw_only=True):
    """Version 1 of an occurrence that was due and was not run, by rule."""

    scheduled_for: datetime
    reason: SkippedReason
    detail: str = ""
    next_at: NextAt = msgspec.UNSET
    local: str = ""
    revision: int = 0
    tzdata: str = ""
    backfill_id: UUID | None = None


@event("run.occurrence_missed.v1")
class OccurrenceMissed(RunEvent, frozen=True, kw_only=True):
    """Version 1 of an occurrence that was due and could not be run."""

    scheduled_for: datetime
    reason: MissedReason
    detail: str = ""
    next_at: NextAt = msgspec.UNSET
    local: str = ""
    revision: int = 0
    tzdata: str = ""
    backfill_id: UUID | None = None


@event("run.started.v1")
class RunStarted(RunEvent, frozen=True, kw_only=True):
    """A worker claimed it. Appended at the expected version: this is the claim."""

    attempt: int  # from 1
    worker: str
    lost: str = ""  # attempt > 1: why the former attempt is void
    excused: bool = False  # it was lost to no fault of its own, and is not counted


@event("run.released.v1")
class RunReleased(RunEvent, frozen=True, kw_only=True):
    """Its worker stopped in good order and gave it back; another attempt goes on from its last checkpoint."""

    attempt: int


@event("run.cancel_requested.v1")
class RunCancelRequested(RunEvent, frozen=True, kw_only=True):
    """Somebody asked that it stops."""

    action: Literal["interrupt", "rollback"] = "interrupt"
    reason: str = ""


class Settled(RunEvent, frozen=True, kw_only=True):
    """What every outcome tells: the graph's state as the run left it."""

    attempt: int = 0
    output: Payload | None = None  # JSON: the state's values; None: unknown, the thread keeps its own
    result: Payload | None = None  # JSON: what the run gave by the output schema; None: the same as `output`
    next: tuple[str, ...] = ()
    interrupts: dict[str, Any] = {}  # task id -> [{id, value}]
    checkpoint: CheckpointRef | None = None
    parent_checkpoint: CheckpointRef | None = None
    tasks: Payload | None = None  # JSON array as in a ThreadState
    checkpoint_metadata: dict[str, Any] = {}
    checkpoint_at: str | None = None

    @property
    def failure(self) -> dict[str, str] | None:
        """Why the run failed: the class of the `error` and its `message`; None of one that did not."""
        return None


@event("run.succeeded.v1")
class RunSucceeded(Settled, frozen=True, kw_only=True):
    """The graph finished, or paused at an interrupt (`next` is then not empty)."""


@event("run.failed.v1")
class RunFailed(Settled, frozen=True, kw_only=True):
    """The graph raised, or its infrastructure failed three times."""

    error: str  # class name
    message: str

    @property
    def failure(self) -> dict[str, str]:
        return {"error": self.error, "message": self.message}


@event("run.interrupted.v1")
class RunInterrupted(Settled, frozen=True, kw_only=True):
    """It was cancelled."""

    reason: str = ""


@event("run.timed_out.v1")
class RunTimedOut(Settled, frozen=True, kw_only=True):
    """It ran longer than a run may."""

    limit_s: float

    @property
    def failure(self) -> dict[str, str]:
        return {"error": "TimeoutError", "message": f"the run took longer than {self.limit_s:g} s"}


@event("run.rolled_back.v1")
class RunRolledBack(RunEvent, frozen=True, kw_only=True):
    """It was undone: its checkpoints are gone and it is no longer shown."""


@event("run.deleted.v1")
class RunDeleted(RunEvent, frozen=True, kw_only=True):
    """It is no longer shown. The ledger keeps what happened."""


# --- delivery -----------------------------------------------------------------------------------------


@event("delivery.requested.v1")
class WebhookRequested(DeliveryEvent, frozen=True, kw_only=True):
    """A run has ended, and somebody is to be told: in the same append as the end."""

    url: str


@event("delivery.failed.v1")
class DeliveryFailed(DeliveryEvent, frozen=True, kw_only=True):
    """An attempt did not reach the receiver, or the receiver would not have it now; there will be another one."""

    attempt: int  # from 1
    retry_at: datetime
    status: int | None = None  # of HTTP; None: there was no answer
    why: str = ""


@event("delivery.delivered.v1")
class WebhookDelivered(DeliveryEvent, frozen=True, kw_only=True):
    """The receiver said that it has it."""

    attempt: int
    status: int


@event("delivery.abandoned.v1")
class DeliveryAbandoned(DeliveryEvent, frozen=True, kw_only=True):
    """The receiver refused it, or could not be reached for too long. It can be asked for again."""

    attempt: int
    status: int | None = None
    why: str = ""


@event("delivery.asked_again.v1")
class RedeliveryRequested(DeliveryEvent, frozen=True, kw_only=True):
    """Somebody asked that it is sent once more, whatever became of it; its day of attempts begins anew."""


# --- lane ---------------------------------------------------------------------------------------------


@event("lane.changed.v1")
class LaneChanged(LaneEvent, frozen=True, kw_only=True):
    """The whole line of runs after a change, so that the newest row is all that is read."""

    change: Literal["joined", "started", "left", "closed", "opened", "stopping"]
    run_id: UUID | None = None
    in_flight: tuple[LaneRun, ...] = ()
    closed: bool = False  # the thread is deleted: nothing joins any more


# --- thread -------------------------------------------------------------------------------------------


@event("thread.created.v1")
class ThreadCreated(ThreadEvent, frozen=True, kw_only=True):
    """A conversation exists."""

    user_id: str
    metadata: dict[str, Any] = {}
    cron_id: UUID | None = None  # made by a firing of a stateless cron that keeps its threads
    copied_from: UUID | None = None  # its checkpoints and values are that thread's


@event("thread.updated.v1")
class ThreadUpdated(ThreadEvent, frozen=True, kw_only=True):
    """Keys were merged into the metadata (shallow). It says all of them: the newest event is all that is read."""

    user_id: str = ""
    metadata: dict[str, Any] = {}


@event("thread.deleted.v1")
class ThreadDeleted(ThreadEvent, frozen=True, kw_only=True):
    """It is gone, with its runs and crons; its checkpoints follow."""


# --- assistant ----------------------------------------------------------------------------------------


class AssistantSaid(AssistantEvent, frozen=True, kw_only=True):
    """What is in force from here on, whole: the newest event of the stream is all that a run needs to read."""

    graph_id: str
    name: str
    description: str | None = None
    config: dict[str, Any] = {}
    context: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    user_id: str = ""  # who made the assistant
    system: bool = False  # it stands for a graph of the project
    number: int = 1  # the version in force, as clients count them
    versions: int = 1  # how many there are
    missing: bool = False  # of one that stands for a graph: the project has it no longer
    pool: str = "default"  # of one that stands for a graph: the workers that have it


@event("assistant.created.v1")
class AssistantCreated(AssistantSaid, frozen=True, kw_only=True):
    """Version 1 of an assistant."""


@event("assistant.updated.v1")
class AssistantUpdated(AssistantSaid, frozen=True, kw_only=True):
    """What version `number` says now: a new one, or the first of a default one, in step with its project."""


@event("assistant.version_chosen.v1")
class AssistantVersionChosen(AssistantSaid, frozen=True, kw_only=True):
    """An earlier version is the one in force again; the next change is still numbered after the newest."""


@event("assistant.deleted.v1")
class AssistantDeleted(AssistantEvent, frozen=True, kw_only=True):
    """It is gone, with its crons."""
