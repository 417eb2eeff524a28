"""What a run is asked to do: one struct from the body of a request to the payload of a cron and the plan of a run."""

from typing import Any, Literal

import msgspec

from contracts.api import Breakpoints, Durability, Json, Strategy, StreamMode


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of a create body that describe a run; absent ones are not there.

    `config` is the graph's own: whatever keys it knows pass through. The properties are the keys that we know.
    """

    input: Any = None
    command: Json | None = None  # update, resume, goto: absent ones are not there
    metadata: Json | None = None
    config: Json | None = None
    context: Json | None = None
    interrupt_before: Breakpoints | None = None
    interrupt_after: Breakpoints | None = None
    multitask_strategy: Strategy | None = None
    stream_mode: StreamMode | list[StreamMode] | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    event_streaming: bool | None = None
    durability: Durability | None = None
    checkpoint_during: bool | None = None
    feedback_keys: list[str] | None = None
    webhook: str | None = None  # who is told of the end
    updates: list[list[Json]] | None = None  # of a run that only writes its thread's state

    @property
    def configurable(self) -> Json:
        """Settings of the graph, and of where it starts."""
        found: Json = (self.config or {}).get("configurable") or {}
        return found

    @property
    def config_metadata(self) -> Json:
        """Metadata of the run that stand in its config."""
        found: Json = (self.config or {}).get("metadata") or {}
        return found

    @property
    def tags(self) -> list[str]:
        """Labels for whoever traces the run."""
        found: list[str] = (self.config or {}).get("tags") or []
        return found

    @property
    def strategy(self) -> Strategy:
        """What becomes of runs that are in flight already."""
        return self.multitask_strategy or "enqueue"

    @property
    def stream_modes(self) -> list[str]:
        """The modes without doubles, `values` when none is named."""
        named = [self.stream_mode] if isinstance(self.stream_mode, str) else self.stream_mode or ["values"]
        return list(dict.fromkeys(named))


class CronPayload(RunSpec, frozen=True, kw_only=True, omit_defaults=True):
    """The body that a cron was created with, in step with what was changed since.

    The assistant is the resolved one, and the configurable names the cron.
    """

    assistant_id: str = ""
    schedule: str = ""
    timezone: str | None = None
    end_time: str | None = None
    enabled: bool | None = None
    on_run_completed: Literal["delete", "keep"] | None = None


RUN_FIELDS = frozenset(RunSpec.__struct_fields__)
