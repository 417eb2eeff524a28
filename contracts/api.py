"""HTTP bodies as clients send them. On create a null is as good as absent; on PATCH it may clear.

Fields that are known and not honoured yet are listed, so that they are refused instead of dropped.
Fields that nobody knows are ignored, as clients expect.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

StreamMode = Literal[
    "values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events"
]
Strategy = Literal["reject", "enqueue", "interrupt", "rollback"]
Durability = Literal["sync", "async", "exit"]
Breakpoints = Literal["*"] | list[str]
Json = dict[str, Any]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Offset = Annotated[int, Meta(ge=0)]


class RunConfig(msgspec.Struct, frozen=True):
    """The keys of `config` whose shape is known; others pass through to the graph."""

    tags: list[str] | None = None
    recursion_limit: Annotated[int, Meta(ge=1)] | None = None
    configurable: Json | None = None
    metadata: Json | None = None


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
    durability: Durability | None = None
    checkpoint_during: bool | None = None
    if_not_exists: Literal["reject", "create"] | None = None
    # Known, not honoured yet.
    webhook: Any = None
    stream_resumable: bool | None = None
    command: Any = None
    checkpoint: Any = None
    checkpoint_id: Any = None
    after_seconds: Any = None


class RunCreate(RunFields, frozen=True, kw_only=True):
    """POST /threads/{thread_id}/runs."""

    input: Any = None


CRON_EXTENSIONS = (
    "catch_up",
    "catch_up_window_seconds",
    "jitter_seconds",
    "overlap",
    "start_time",
    "max_runs",
    "pause_after_failures",
    "note",
)
"""Fields of a schedule that are known and not honoured yet, in a body as in a query."""


class CronCreate(RunFields, frozen=True, kw_only=True):
    """POST /threads/{thread_id}/runs/crons and POST /runs/crons."""

    schedule: Annotated[str, Meta(max_length=256)]
    input: Json | list[Json] | None = None
    on_run_completed: Literal["delete", "keep"] | None = None
    end_time: datetime | None = None
    enabled: bool | None = None
    timezone: Annotated[str, Meta(max_length=64)] | None = None
    # Known, not honoured yet.
    catch_up: Any = None
    catch_up_window_seconds: Any = None
    jitter_seconds: Any = None
    overlap: Any = None
    start_time: Any = None
    max_runs: Any = None
    pause_after_failures: Any = None
    note: Any = None


class CronPatch(msgspec.Struct, frozen=True, kw_only=True):
    """PATCH /runs/crons/{cron_id}. Absent = unchanged; null clears `end_time` and `timezone`."""

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
    durability: Durability | UnsetType = UNSET
    checkpoint_during: bool | UnsetType = UNSET
    # Known, not honoured yet.
    catch_up: Any = None
    catch_up_window_seconds: Any = None
    jitter_seconds: Any = None
    overlap: Any = None
    start_time: Any = None
    max_runs: Any = None
    pause_after_failures: Any = None
    note: Any = None
    webhook: Any = None
    stream_resumable: bool | None = None


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
]
Order = Literal["asc", "desc"]


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
    # Known, not honoured yet.
    ttl: Any = None
    supersteps: Any = None


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
