"""Questions that only a graph child can answer, asked over NATS: `graphs.<verb>`, answered by any worker.

The body of a question is the struct of its verb as JSON; the body of an answer is JSON as described there.
The same bodies travel on to the child in `contracts.frames.Ask`.
"""

from typing import Any, ClassVar, Literal

import msgspec


class QueryFailed(msgspec.Struct, frozen=True):
    """Why there is no answer. `invalid`: the question, text for its author; `failed`: the graph raised."""

    code: Literal["invalid", "not_found", "unsupported", "failed"]
    message: str


class Query(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question."""

    VERB: ClassVar[str] = ""


class GraphQuery(Query, frozen=True, kw_only=True):
    """A question about a graph; config and context are the assistant's, for factories."""

    graph_id: str
    config: dict[str, Any] = {}
    context: dict[str, Any] | None = None


class State(GraphQuery, frozen=True, kw_only=True):
    """A thread's state, now or at a checkpoint: a ThreadState. An unknown checkpoint has empty values."""

    VERB: ClassVar[str] = "state"

    thread_id: str
    checkpoint_id: str | None = None
    checkpoint_ns: str = ""
    subgraphs: bool = False


class History(GraphQuery, frozen=True, kw_only=True):
    """States of a thread, newest first: an array of ThreadState."""

    VERB: ClassVar[str] = "history"

    thread_id: str
    limit: int = 10
    before: str | None = None  # a checkpoint id
    metadata: dict[str, Any] | None = None  # only checkpoints whose metadata contain it
    checkpoint_ns: str = ""


class CheckpointsExist(Query, frozen=True, kw_only=True):
    """Whether a thread has all of these checkpoints, each as (namespace, id). Answer: null, or `not_found`."""

    VERB: ClassVar[str] = "checkpoints_exist"

    thread_id: str
    points: list[tuple[str, str]]


class Forget(Query, frozen=True, kw_only=True):
    """Remove a thread's checkpoints, unless an attempt with a later token has claimed it. Answer: null.

    `token` is a position of the log at which the thread was deleted. With `fence` nothing that was claimed
    before it writes into the thread any more. Twice is harmless.
    """

    VERB: ClassVar[str] = "forget"

    thread_id: str
    token: int
    fence: bool = False


class ForgetDeleted(Query, frozen=True, kw_only=True):
    """The same, if the thread is deleted: asked before its id has a new life. Answer: null."""

    VERB: ClassVar[str] = "forget_deleted"

    thread_id: str


class Rollback(Query, frozen=True, kw_only=True):
    """Bring a thread's checkpoints to what they were before the run. Twice is harmless. Answer: null.

    `token` is one more than that of the run's newest attempt (`contracts.frames.StartRun`), which then writes
    nothing more; refused when a later one is there.
    """

    VERB: ClassVar[str] = "rollback"

    thread_id: str
    run_id: str
    token: int = 0


class Copy(Query, frozen=True, kw_only=True):
    """Copy a thread's checkpoints to a new thread, ids rewritten. Twice is harmless. Answer: null."""

    VERB: ClassVar[str] = "copy"

    thread_id: str
    to_thread_id: str


class Drawing(GraphQuery, frozen=True, kw_only=True):
    """Nodes and edges: `{nodes: [{id, type, data: {name}}], edges: [{source, target, ...}]}`."""

    VERB: ClassVar[str] = "drawing"

    xray: bool | int = False


class Schemas(GraphQuery, frozen=True, kw_only=True):
    """`{graph_id, input_schema, output_schema, state_schema, config_schema, context_schema}`; null = unknown."""

    VERB: ClassVar[str] = "schemas"


class Subgraphs(GraphQuery, frozen=True, kw_only=True):
    """`{name: {the five schemas}}` of the graphs inside; `namespace` picks one of them."""

    VERB: ClassVar[str] = "subgraphs"

    namespace: str | None = None
    recurse: bool = False


class StorePut(Query, frozen=True, kw_only=True):
    """Keep a value. `ttl` in minutes. Answer: null."""

    VERB: ClassVar[str] = "store_put"

    namespace: list[str]
    key: str
    value: dict[str, Any]
    index: Literal[False] | list[str] | None = None
    ttl: float | None = None


class StoreGet(Query, frozen=True, kw_only=True):
    """An Item (`namespace, key, value, created_at, updated_at`), or null."""

    VERB: ClassVar[str] = "store_get"

    namespace: list[str]
    key: str
    refresh_ttl: bool | None = None


class StoreDelete(Query, frozen=True, kw_only=True):
    """Remove a value, harmless when there is none. Answer: null."""

    VERB: ClassVar[str] = "store_delete"

    namespace: list[str]
    key: str


class StoreSearch(Query, frozen=True, kw_only=True):
    """An array of Items, each with `score` (null without a vector search)."""

    VERB: ClassVar[str] = "store_search"

    namespace_prefix: list[str]
    filter: dict[str, Any] | None = None
    query: str | None = None
    limit: int = 10
    offset: int = 0
    refresh_ttl: bool | None = None


class StoreNamespaces(Query, frozen=True, kw_only=True):
    """An array of namespaces, each an array of labels; `*` in prefix or suffix stands for any label."""

    VERB: ClassVar[str] = "store_namespaces"

    prefix: list[str] | None = None
    suffix: list[str] | None = None
    max_depth: int | None = None
    limit: int = 100
    offset: int = 0


class QueryAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes back over NATS: a body, or why there is none."""

    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    failed: QueryFailed | None = None


QUERIES: tuple[type[Query], ...] = (
    State, History, CheckpointsExist, Forget, ForgetDeleted, Rollback, Copy, Drawing, Schemas, Subgraphs,
    StorePut, StoreGet, StoreDelete, StoreSearch, StoreNamespaces,
)  # fmt: skip
