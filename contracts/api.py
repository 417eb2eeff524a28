"""HTTP bodies as clients send them. On create a null is as good as absent; on PATCH it may clear.

Fields that are known and not honoured yet are listed, so that they are refused instead of dropped.
Fields that nobody knows are ignored, as clients expect.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from contracts.events import BackfillInclude, CatchUp, Overlap

StreamMode = Literal[
    "values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events"
]
Strategy = Literal["reject", "enqueue", "interrupt", "rollback"]
Durability = Literal["sync", "async", "exit"]
Breakpoints = Literal["*"] | list[str]
Json = dict[str, Any]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Offset = Annotated[int, Meta(ge=0, le=1 << 53)]  # what a database and JSON can count


class RunConfig(msgspec.Struct, frozen=True):
    """The keys of `config` whose shape is known; others pass through to the graph."""

    tags: list[str] | None = None
    recursion_limit: Annotated[int, Meta(ge=1)] | None = None
    configurable: Json | None = None
    metadata: Json | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """A point of a thread's history. A thread id in it does not override the path's."""

    thread_id: str | None = None
    checkpoint_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_map: Json | None = None


class CommandBody(msgspec.Struct, frozen=True):
    """LangGraph's Command: answer interrupts, write into the state, go to nodes."""

    update: Json | list[tuple[str, Any]] | None = None
    resume: Any = None
    goto: str | Json | list[str | Json] | None = None


class RunFields(msgspec.Struct, frozen=True, kw_only=True):
    """What a run and a cron both take."""

    assistant_id: Name
    metadata: Json | None = None
    config: Json | None = None
    context: Json | None = None
    interrupt_before: Breakpoints | None = None
    interrupt_after: Breakpoints | None = None
    multitask_strategy: Strategy | None = None
    stream_mode: StreamMode | list[StreamMode] | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    event_streaming: bool | None = None  # by the event streaming protocol, whatever the modes
    durability: Durability | None = None
    checkpoint_during: bool | None = None
    if_not_exists: Literal["reject", "create"] | None = None
    webhook: str | None = None  # who is told of a run's end, by POST


class RunCreate(RunFields, frozen=True, kw_only=True):
    """POST /threads/{thread_id}/runs and its /wait and /stream forms.

    `feedback_keys`, `langsmith_tracer` and `strict_resume` concern services that are not there, and
    `on_completion` other endpoints: clients send them always, so they are let through without a meaning.
    """

    input: Any = None
    command: CommandBody | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_id: str | None = None
    after_seconds: Annotated[float, Meta(ge=0, le=10 * 365 * 86_400)] | None = None
    on_disconnect: Literal["continue", "cancel"] | None = None
    feedback_keys: list[str] | None = None


class StatelessRunCreate(RunCreate, frozen=True, kw_only=True):
    """POST /runs and its /wait, /stream and /batch forms."""

    on_completion: Literal["delete", "keep"] | None = None


class RunsCancel(msgspec.Struct, frozen=True, kw_only=True):
    """POST /runs/cancel: a status, or a thread with some of its runs."""

    status: Literal["pending", "running", "all"] | None = None
    thread_id: str | None = None
    run_ids: list[str] | None = None


Note = Annotated[str, Meta(max_length=500)]
CatchUpWindow = Annotated[int, Meta(ge=0, le=31_536_000)]
Jitter = Annotated[int, Meta(ge=0, le=3600)]
MaxRuns = Annotated[int, Meta(ge=1, le=1 << 53)]
MostFailures = Annotated[int, Meta(ge=1, le=1 << 53)]


class CronCreate(RunFields, frozen=True, kw_only=True):
    """POST /threads/{thread_id}/runs/crons and POST /runs/crons."""

    schedule: Annotated[str, Meta(max_length=256)]
    input: Json | list[Json] | None = None
    on_run_completed: Literal["delete", "keep"] | None = None
    end_time: datetime | None = None
    enabled: bool | None = None
    timezone: Annotated[str, Meta(max_length=64)] | None = None
    note: Note | None = None
    catch_up: CatchUp | None = None
    catch_up_window_seconds: CatchUpWindow | None = None
    start_time: datetime | None = None
    jitter_seconds: Jitter | None = None
    max_runs: MaxRuns | None = None
    pause_after_failures: MostFailures | None = None
    overlap: Overlap | None = None
    # Fields of a single run that no schedule can mean.
    command: Any = None
    checkpoint: Any = None
    checkpoint_id: Any = None
    after_seconds: Any = None


class CronPatch(msgspec.Struct, frozen=True, kw_only=True):
    """PATCH /runs/crons/{cron_id}. Absent = unchanged; null clears `start_time`, `end_time`, `timezone`, `webhook`,
    `note`, `max_runs` and `pause_after_failures`, and puts `catch_up`, `catch_up_window_seconds`, `jitter_seconds`
    and `overlap` back to what they are by default.
    """

    schedule: Annotated[str, Meta(max_length=256)] | UnsetType = UNSET
    timezone: Annotated[str, Meta(max_length=64)] | None | UnsetType = UNSET
    end_time: datetime | None | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    on_run_completed: Literal["delete", "keep"] | UnsetType = UNSET
    metadata: Json | UnsetType = UNSET
    input: Json | list[Json] | UnsetType = UNSET
    config: Json | UnsetType = UNSET
    context: Json | UnsetType = UNSET
    interrupt_before: Breakpoints | UnsetType = UNSET
    interrupt_after: Breakpoints | UnsetType = UNSET
    multitask_strategy: Strategy | UnsetType = UNSET
    stream_mode: StreamMode | list[StreamMode] | UnsetType = UNSET
    stream_subgraphs: bool | UnsetType = UNSET
    stream_resumable: bool | UnsetType = UNSET
    event_streaming: bool | UnsetType = UNSET
    durability: Durability | UnsetType = UNSET
    checkpoint_during: bool | UnsetType = UNSET
    webhook: str | None | UnsetType = UNSET
    note: Note | None | UnsetType = UNSET
    catch_up: CatchUp | None | UnsetType = UNSET
    catch_up_window_seconds: CatchUpWindow | None | UnsetType = UNSET
    start_time: datetime | None | UnsetType = UNSET
    jitter_seconds: Jitter | None | UnsetType = UNSET
    max_runs: MaxRuns | None | UnsetType = UNSET
    pause_after_failures: MostFailures | None | UnsetType = UNSET
    overlap: Overlap | None | UnsetType = UNSET


CronSort = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "next_run_date",
    "end_time",
    "created_at",
    "updated_at",
]
CronSelect = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "on_run_completed",
    "end_time",
    "schedule",
    "timezone",
    "created_at",
    "updated_at",
    "user_id",
    "payload",
    "next_run_date",
    "metadata",
    "enabled",
    "ledger",
]
Order = Literal["asc", "desc"]


class CronPreview(msgspec.Struct, frozen=True, kw_only=True):
    """POST /runs/crons/upcoming: what a schedule would mean."""

    schedule: Annotated[str, Meta(max_length=256)]
    timezone: Annotated[str, Meta(max_length=64)] | None = None
    end_time: datetime | None = None
    after: datetime | None = None
    limit: Limit | None = None


class CronTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """POST /runs/crons/{cron_id}/trigger: what this one run has in place of the cron's own; metadata are merged."""

    input: Json | list[Json] | None = None
    config: Json | None = None
    context: Json | None = None
    metadata: Json | None = None
    note: Note | None = None


class CronBackfill(msgspec.Struct, frozen=True, kw_only=True):
    """POST /runs/crons/{cron_id}/backfill: runs of the occurrences in [`start`, `end`), which lie in the past."""

    start: datetime
    end: datetime
    include: BackfillInclude | None = None
    overlap: Overlap | None = None
    limit: Limit | None = None
    dry_run: bool | None = None
    note: Note | None = None


class CronPause(msgspec.Struct, frozen=True, kw_only=True):
    """POST /runs/crons/{cron_id}/pause."""

    note: Note | None = None
    until: datetime | None = None  # it is resumed then by itself


class CronResume(msgspec.Struct, frozen=True, kw_only=True):
    """POST /runs/crons/{cron_id}/resume."""

    note: Note | None = None
    catch_up: CatchUp | None = None  # what fires late of the pause; `skip` by default


class CronCount(msgspec.Struct, frozen=True, kw_only=True):
    """POST /runs/crons/count."""

    assistant_id: str | None = None
    thread_id: str | None = None
    metadata: Json | None = None


class CronSearch(CronCount, frozen=True, kw_only=True):
    """POST /runs/crons/search."""

    enabled: bool | None = None
    limit: Limit | None = None
    offset: Offset | None = None
    sort_by: CronSort | None = None
    sort_order: Order | None = None
    select: list[CronSelect] | None = None


class ThreadCreate(msgspec.Struct, frozen=True, kw_only=True):
    """POST /threads."""

    thread_id: str | None = None
    metadata: Json | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None
    supersteps: list["Superstep"] | None = None
    # Known, not honoured yet.
    ttl: Any = None


class StateWrite(msgspec.Struct, frozen=True, kw_only=True):
    """One write into a thread's state, as if the node `as_node` had made it."""

    values: Json | list[Any] | None = None
    command: CommandBody | None = None
    as_node: str | None = None


class Superstep(msgspec.Struct, frozen=True, kw_only=True):
    """Writes that belong to one step."""

    updates: Annotated[list[StateWrite], Meta(min_length=1)]


class StateUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """POST /threads/{thread_id}/state."""

    values: Json | list[Any] | None = None
    as_node: str | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_id: str | None = None


class StateAtCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """POST /threads/{thread_id}/state/checkpoint."""

    checkpoint: Checkpoint
    subgraphs: bool | None = None


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """POST /threads/{thread_id}/history. `before`: a checkpoint id, a checkpoint, or a config that holds one."""

    limit: Limit | None = None
    before: str | Json | None = None
    metadata: Json | None = None
    checkpoint: Checkpoint | None = None


class ThreadPatch(msgspec.Struct, frozen=True, kw_only=True):
    """PATCH /threads/{thread_id}."""

    metadata: Json | None = None
    ttl: Any = None


ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
ThreadSort = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
ThreadSelect = Literal[
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "config",
    "status",
    "values",
    "interrupts",
    "error",
    "user_id",
]


class ThreadCount(msgspec.Struct, frozen=True, kw_only=True):
    """POST /threads/count."""

    ids: list[str] | None = None
    metadata: Json | None = None
    values: Json | None = None
    status: ThreadStatus | None = None


class ThreadSearch(ThreadCount, frozen=True, kw_only=True):
    """POST /threads/search."""

    limit: Limit | None = None
    offset: Offset | None = None
    sort_by: ThreadSort | None = None
    sort_order: Order | None = None
    select: list[ThreadSelect] | None = None
    extract: dict[str, str] | None = None


AssistantSort = Literal["assistant_id", "created_at", "updated_at", "name", "graph_id"]
AssistantSelect = Literal[
    "assistant_id",
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "metadata",
    "version",
    "created_at",
    "updated_at",
    "user_id",
]


class AssistantCount(msgspec.Struct, frozen=True, kw_only=True):
    """POST /assistants/count."""

    graph_id: str | None = None
    name: str | None = None
    metadata: Json | None = None


class AssistantCreate(msgspec.Struct, frozen=True, kw_only=True):
    """POST /assistants."""

    graph_id: Name
    assistant_id: str | None = None
    config: Json | None = None
    context: Json | None = None
    metadata: Json | None = None
    name: str | None = None
    description: str | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None


class AssistantPatch(msgspec.Struct, frozen=True, kw_only=True):
    """PATCH /assistants/{assistant_id}. Absent or null = unchanged; each change is a new version."""

    graph_id: Name | None = None
    config: Json | None = None
    context: Json | None = None
    metadata: Json | None = None
    name: str | None = None
    description: str | None = None


class AssistantVersions(msgspec.Struct, frozen=True, kw_only=True):
    """POST /assistants/{assistant_id}/versions."""

    metadata: Json | None = None
    limit: Limit | None = None
    offset: Offset | None = None


class AssistantLatest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /assistants/{assistant_id}/latest."""

    version: Annotated[int, Meta(ge=1)]


class AssistantSearch(AssistantCount, frozen=True, kw_only=True):
    """POST /assistants/search."""

    limit: Limit | None = None
    offset: Offset | None = None
    sort_by: AssistantSort | None = None
    sort_order: Order | None = None
    select: list[AssistantSelect] | None = None


class RunKwargs(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked to do: the JSON behind `RunRequested.kwargs`, shown as `kwargs`."""

    input: Any = None
    command: Any = None
    config: Json = {}
    context: Json | None = None
    stream_mode: list[str] = msgspec.field(default_factory=lambda: ["values"])
    interrupt_before: Breakpoints | None = None
    interrupt_after: Breakpoints | None = None
    webhook: str | None = None
    feedback_keys: list[str] | None = None
    temporary: bool = False
    subgraphs: bool = False
    resumable: bool = False
    checkpoint_during: bool | None = None
    durability: str | None = None
    event_streaming: bool | UnsetType = UNSET  # only of runs that stream by the protocol of that name
    updates: list[list[Json]] | UnsetType = UNSET  # only of runs that write a thread's state


Namespace = list[str]


class StoreItemPut(msgspec.Struct, frozen=True, kw_only=True):
    """PUT /store/items. `ttl` in minutes."""

    namespace: Namespace
    key: str
    value: Any = None  # must be an object
    index: Literal[False] | list[str] | None = None
    ttl: Annotated[float, Meta(gt=0, le=4_000_000_000)] | None = None  # what a date can hold


class StoreItemDelete(msgspec.Struct, frozen=True, kw_only=True):
    """DELETE /store/items."""

    namespace: Namespace | None = None
    key: str


class StoreItemsSearch(msgspec.Struct, frozen=True, kw_only=True):
    """POST /store/items/search."""

    namespace_prefix: Namespace | None = None
    filter: Json | None = None
    query: str | None = None
    limit: Limit | None = None
    offset: Offset | None = None
    refresh_ttl: bool | None = None


class StoreNamespacesList(msgspec.Struct, frozen=True, kw_only=True):
    """POST /store/namespaces."""

    prefix: Namespace | None = None
    suffix: Namespace | None = None
    max_depth: Annotated[int, Meta(ge=1)] | None = None
    limit: Limit | None = None
    offset: Offset | None = None


class ProtocolCommand(msgspec.Struct, frozen=True, kw_only=True):
    """POST /threads/{thread_id}/commands, and a text over the WebSocket: a command of the event streaming protocol."""

    id: int
    method: str
    params: Json | None = None


class RunStart(msgspec.Struct, frozen=True, kw_only=True, rename={"multitask_strategy": "multitaskStrategy"}):
    """Parameters of `run.start`. With an input on a thread that asks something, the input is the answer."""

    assistant_id: Name
    input: Any = None
    config: Json | None = None
    metadata: Json | None = None
    context: Json | None = None
    multitask_strategy: Strategy | None = None
    interrupt_before: Breakpoints | None = None
    interrupt_after: Breakpoints | None = None


class InterruptResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one interrupt; where it was raised is known here."""

    interrupt_id: str
    response: Any = None
    namespace: list[str] | None = None


class InputRespond(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `input.respond`: one answer, or several in `responses`; all of them make one run."""

    interrupt_id: str | None = None
    response: Any = None
    namespace: list[str] | None = None
    responses: list[InterruptResponse] | None = None
    update: Json | list[tuple[str, Any]] | None = None
    goto: str | Json | list[str | Json] | None = None
    config: Json | None = None
    metadata: Json | None = None


class EventSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """POST /threads/{thread_id}/stream/events: which events.

    `namespaces` are prefixes, and `depth` says how much deeper than these; `since` leaves out what has that number or
    a lower one. Of these three, what has another type is as good as absent.
    """

    channels: list[str]
    namespaces: Any = None  # list of lists of strings
    depth: Any = None  # int >= 0
    since: Any = None  # int >= 0
