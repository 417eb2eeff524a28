"""Frames between a worker and its graph child: four bytes of length (big-endian), then JSON.

The child speaks the same form with plain dicts, because it holds none of our packages.
"""

from typing import Any

import msgspec

from contracts.queries import QueryFailed
from contracts.work import Origin

LENGTH = 4
MOST_BYTES = 1 << 30


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """One message in either direction."""


class GraphSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a graph is: a file (absolute) or a module, and the name in it."""

    variable: str
    path: str = ""
    module: str = ""


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The long-term memory that nodes and `/store` share: where it is, and what langgraph.json says of it."""

    path: str
    index: dict[str, Any] | None = None  # dims, embed, fields
    ttl: dict[str, Any] | None = None  # refresh_on_read, default_ttl, sweep_interval_minutes


class Hello(Frame, frozen=True, kw_only=True, tag="hello"):
    """The first frame to the child: what to load."""

    graphs: dict[str, GraphSource]
    roots: list[str]  # folders whose modules are importable, first wins
    checkpoints: str  # path of the checkpoint database
    store: StoreSettings
    database: str = ""  # address in PostgreSQL of both, in place of the paths
    threads: int  # how many blocking nodes may run at a time
    memory_mb: int = 0  # how much it may map for writing; 0: as much as there is


class StartRun(Frame, frozen=True, kw_only=True, tag="start"):
    """Run a graph. With `attempt` > 1 it continues from the run's own checkpoint, if there is one.

    `token` is the fence of its thread: with it the attempt claims the thread, and nothing of an attempt with
    a lower one is written from then on. It is a position of the log behind which the attempt was claimed.
    With `updates` no node runs: the supersteps (lists of `{values, command, as_node}`) are written into the
    thread's state, one after the other.
    """

    run_id: str
    thread_id: str
    graph_id: str
    attempt: int = 1
    token: int = 0
    input: msgspec.Raw = msgspec.Raw(b"null")
    command: dict[str, Any] | None = None  # resume, update, goto
    updates: list[list[dict[str, Any]]] | None = None
    config: dict[str, Any] = {}  # its configurable may name a checkpoint to start from
    context: dict[str, Any] | None = None
    interrupt_before: str | list[str] | None = None
    interrupt_after: str | list[str] | None = None
    stream_modes: list[str] = []
    stream_subgraphs: bool = False
    event_streaming: bool = False  # by the event streaming protocol, whatever the modes
    durability: str | None = None
    temporary: bool = False


class Taken(Frame, frozen=True, kw_only=True, tag="taken"):
    """So many more bytes of the data of a run's events have left: it may go on, if it waited for that."""

    run_id: str
    size: int


class StopRun(Frame, frozen=True, kw_only=True, tag="cancel"):
    """Stop a run at its next await point."""

    run_id: str


class Ask(Frame, frozen=True, kw_only=True, tag="ask"):
    """Something about graphs, states or the store; `contracts.queries` has the verbs and their bodies."""

    id: int
    verb: str
    body: msgspec.Raw


class Drop(Frame, frozen=True, kw_only=True, tag="drop"):
    """Nobody waits for the answer to an `Ask` any more."""

    id: int


class Ready(Frame, frozen=True, kw_only=True, tag="ready"):
    """Everything is loaded: graph id -> the compiled graph's own name."""

    graphs: dict[str, str]


class LoadFailed(Frame, frozen=True, kw_only=True, tag="load_failed"):
    """A graph can't be loaded; the text is for its author."""

    graph_id: str
    error: str


class Emitted(Frame, frozen=True, kw_only=True, tag="event"):
    """Something that the graph streams while it runs. `seq` counts from 1 within an attempt."""

    run_id: str
    seq: int
    event: str
    data: msgspec.Raw
    origin: Origin | None = None


class Failure(msgspec.Struct, frozen=True):
    """An exception of the graph as it is shown."""

    error: str
    message: str


class RunEnded(Frame, frozen=True, kw_only=True, tag="ended"):
    """How a run ended, and the state that it left; without `values` the state is not known.

    `fenced`: a later attempt has claimed its thread; its end is for that one to tell. `lost`: the database did not
    answer; another attempt goes on from the newest checkpoint, `failure` says what was wrong.
    """

    run_id: str
    status: str  # success, error, cancelled, fenced, lost
    values: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    output: msgspec.Raw | msgspec.UnsetType = (
        msgspec.UNSET
    )  # by the output schema; absent: the same as values
    next: list[str] = []
    interrupts: dict[str, Any] = {}
    tasks: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    checkpoint: dict[str, str] | None = None
    parent_checkpoint: dict[str, str] | None = None
    metadata: dict[str, Any] = {}
    created_at: str | None = None
    failure: Failure | None = None


class Told(Frame, frozen=True, kw_only=True, tag="told"):
    """The answer to an `Ask`: a body, or why there is none (`contracts.queries.QueryFailed`)."""

    id: int
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    failed: QueryFailed | None = None


FromChild = Ready | LoadFailed | Emitted | RunEnded | Told
ToChild = Hello | StartRun | Taken | StopRun | Ask | Drop

_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)


def packed(frame: ToChild) -> bytes:
    """A frame's bytes on the socket."""
    data = _encode(frame)
    return len(data).to_bytes(LENGTH, "big") + data


def unpacked(data: bytes) -> FromChild:
    """The frame of the bytes behind a length. Raises msgspec.DecodeError."""
    return _decoder.decode(data)
