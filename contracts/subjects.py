"""Names on NATS: streams, subjects, and what may stand in one."""

import re
from typing import Literal
from uuid import UUID

import msgspec

TOKEN = re.compile(r"[A-Za-z0-9_-]+")


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A JetStream stream as it must be. Retention and storage can't be changed later."""

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "workqueue"] = "limits"
    storage: Literal["file", "memory"] = "file"
    discard: Literal["old", "new"] = "old"
    max_age_s: float = 0
    max_bytes: int = -1
    max_msgs: int = -1
    max_msgs_per_subject: int = -1
    discard_new_per_subject: bool = False
    allow_direct: bool = True
    allow_atomic: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    no_ack: bool = False
    persist_async: bool = False
    is_passing: bool = False  # nobody misses what is in it when it has to be made anew


LEDGER = StreamSpec(
    name="LEDGER",
    subjects=("ledger.>",),
    max_age_s=30 * 86_400,
    max_bytes=2 << 30,
    allow_atomic=True,
    deny_delete=True,
    deny_purge=True,
)
RUNS = StreamSpec(
    name="RUNS",
    subjects=("runq.*.*.*",),
    retention="workqueue",
    discard="new",
    # One message for each run, from when it may run until it is over: a second one is refused.
    max_msgs_per_subject=1,
    discard_new_per_subject=True,
    max_msgs=1_000_000,
)
RUNEV = StreamSpec(
    name="RUNEV",
    subjects=("runs.*.ev",),
    # In a file, so that a client can go on behind a crash of everything; never synced, because it is a
    # convenience and not the truth.
    storage="file",
    persist_async=True,
    is_passing=True,
    max_age_s=600,
    max_bytes=256 << 20,
    max_msgs_per_subject=10_000,
    no_ack=True,
)
STREAMS = (LEDGER, RUNS, RUNEV)
DEFAULT_POOL = "default"
NORMAL = "normal"
CHORES = "chores"


def token(text: str) -> str:
    """The text, if it may stand between dots. Raises ValueError."""
    if TOKEN.fullmatch(text) is None:
        raise ValueError(f"{text!r} may not stand in a subject")
    return text


def ledger_subject(aggregate: str, event: str, stream_id: str) -> str:
    """Where an event is published: `ledger.run.requested.<id>`."""
    return f"ledger.{token(aggregate)}.{token(event)}.{token(stream_id)}"


def run_queue_subject(pool: str, class_: str, item: UUID | None = None) -> str:
    """Where work for a pool of workers (`*`: any) waits: a run, or a thread for a chore; without an id, any of them."""
    return f"runq.{pool if pool == '*' else token(pool)}.{token(class_)}.{item or '*'}"


def run_events_subject(run_id: UUID) -> str:
    """What a run's graph emits while it runs."""
    return f"runs.{run_id}.ev"


def run_cancel_subject(run_id: UUID | None = None) -> str:
    """The signal to stop a run; without an id, of any run."""
    return f"runs.{run_id or '*'}.cancel"


def graph_query_subject(verb: str = "*", pool: str = DEFAULT_POOL) -> str:
    """Questions that a graph child of the pool answers; without a verb, any of them."""
    return f"graphs.{verb}" if pool == DEFAULT_POOL else f"graphs.{token(pool)}.{verb}"


def log_nudge_subject() -> str:
    """The newest position of the log, told after each commit. A hint."""
    return "nudge.log"


def views_position_subject() -> str:
    """The position that all read models have passed, told when it grows. A hint."""
    return "nudge.views"


def rebuild_subject() -> str:
    """Requests to build read models anew, for the one process that owns them."""
    return "views.rebuild"


def log_append_subject() -> str:
    """Requests to append, for processes beside the owner of an SQLite ledger."""
    return "log.append"
