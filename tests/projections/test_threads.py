"""The status of a thread, from the events of its runs and its lane; its values, and those of a copy."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from contracts.codec import pack
from contracts.events import (
    CheckpointRef,
    FiringKind,
    LaneChanged,
    LaneRun,
    RunCancelRequested,
    RunFailed,
    RunInterrupted,
    RunRequested,
    RunRolledBack,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    ThreadCreated,
    ThreadDeleted,
    ThreadUpdated,
)
from contracts.ledger import Body, Meta, Payload, Recorded
from projections import threads
from projections.rows import Row

THREAD, COPY = UUID(int=1), UUID(int=2)
RUN, OTHER = UUID(int=10), UUID(int=11)
AT = datetime(2026, 11, 24, 9, tzinfo=UTC)
REFERENCE = CheckpointRef(str(THREAD), "c1")
KEYS = {table.name: table.key for table in threads.TABLES}


class Memory:
    """Rows as a projection sees them, and every event told so far."""

    def __init__(self) -> None:
        self._rows: dict[bytes | int, Row] = {}
        self._told: list[Recorded] = []
        self.tell(THREAD, ThreadCreated(user_id="anonymous", metadata={"topic": "t"}))

    def get(self, table: str, key: bytes | int) -> Row | None:
        row = self._rows.get(key)
        return None if row is None else dict(row)

    def put(self, table: str, row: Row) -> None:
        self._rows[row[KEYS[table]]] = dict(row)

    def delete(self, table: str, key: bytes | int) -> None:
        self._rows.pop(key, None)

    def delete_where(self, table: str, column: str, value: bytes | int) -> None:
        raise AssertionError("not for threads")

    def tell(self, stream_id: UUID, body: Body) -> None:
        position = len(self._told) + 1
        self._told.append(Recorded(position, stream_id, 1, body.TOPIC, Meta(at=AT, actor="test"), body))
        threads.apply(self, self._told[-1])

    def tell_again(self) -> None:
        """Every event a second time."""
        for recorded in self._told:
            threads.apply(self, recorded)

    def thread(self, thread_id: UUID = THREAD) -> Row:
        row = self.get("threads", thread_id.bytes)
        assert row is not None
        assert set(row) == set(threads.TABLES[0].columns)
        return row

    @property
    def status(self) -> str:
        return str(self.thread()["status"])

    # --- the life of a run ----------------------------------------------------------------------------

    def line(self, *run_ids: UUID) -> None:
        in_flight = tuple(map(LaneRun, run_ids))
        self.tell(UUID(int=99), LaneChanged(thread_id=THREAD, change="joined", in_flight=in_flight))

    def request(self, run_id: UUID = RUN, kind: FiringKind = "") -> None:
        body = RunRequested(
            thread_id=THREAD,
            assistant_id=UUID(int=9),
            graph_id="agent",
            user_id="anonymous",
            kwargs=Payload(),
            kind=kind,
        )
        self.tell(run_id, body)

    def run(self, outcome: Body, run_id: UUID = RUN, kind: FiringKind = "") -> None:
        """A run from its request to its end."""
        self.request(run_id, kind)
        self.line(run_id)
        assert self.status == "busy"
        self.tell(run_id, RunStarted(thread_id=THREAD, attempt=1, worker="w"))
        self.tell(run_id, outcome)
        assert self.status == "busy"
        self.line()


@pytest.fixture
def memory() -> Memory:
    return Memory()


def left(values: Any, *following: str) -> dict[str, Any]:
    return {
        "thread_id": THREAD,
        "attempt": 1,
        "output": pack(values)[0],
        "next": following,
        "checkpoint": REFERENCE,
    }


def succeeded(values: Any, *following: str) -> RunSucceeded:
    return RunSucceeded(**left(values, *following))


FAILED = RunFailed(**left({"x": 0}, "node"), error="ValueError", message="boom")


def test_new_thread_is_idle_without_values(memory: Memory) -> None:
    row = memory.thread()
    assert (row["status"], row["values"], row["error"], row["interrupts"]) == ("idle", None, None, "{}")


@pytest.mark.parametrize(
    ("outcome", "status", "error"),
    [
        (succeeded({"x": 1}), "idle", None),
        (succeeded({"x": 1}, "node"), "interrupted", None),
        (FAILED, "error", {"error": "ValueError", "message": "boom"}),
        (
            RunTimedOut(thread_id=THREAD, attempt=1, limit_s=2),
            "error",
            {"error": "TimeoutError", "message": "the run took longer than 2 s"},
        ),
        (RunInterrupted(**left({"x": 1}, "node")), "interrupted", None),
        (RunInterrupted(thread_id=THREAD, attempt=1), "idle", None),
        (RunRolledBack(thread_id=THREAD), "idle", None),
    ],
)
def test_status_is_that_of_the_last_run(memory: Memory, outcome: Body, status: str, error: Any) -> None:
    memory.run(outcome)
    row = memory.thread()
    assert (row["status"], row["error"] and msgspec.json.decode(row["error"])) == (status, error)
    memory.tell_again()
    assert memory.thread() == row


def test_busy_until_the_last_run_has_left(memory: Memory) -> None:
    memory.request(RUN)
    memory.line(RUN)
    memory.request(OTHER)
    memory.line(RUN, OTHER)
    memory.tell(RUN, succeeded({"x": 1}))
    memory.line(OTHER)
    assert memory.status == "busy"
    assert memory.thread()["state_updated_at"] is not None
    memory.tell(OTHER, succeeded({"x": 2}, "node"))
    memory.line()
    assert memory.status == "interrupted"


def never_ran(memory: Memory) -> None:
    memory.tell(OTHER, RunCancelRequested(thread_id=THREAD))
    memory.tell(OTHER, RunInterrupted(thread_id=THREAD))


@pytest.mark.parametrize("before", [succeeded({"x": 1}), succeeded({"x": 1}, "node"), FAILED])
def test_cancelled_while_it_waited_leaves_what_was(memory: Memory, before: Body) -> None:
    memory.run(before)
    was = memory.thread()
    memory.request(OTHER)
    memory.line(OTHER)
    never_ran(memory)
    memory.line()
    now = memory.thread()
    for name in ("status", "error", "values", "next"):
        assert now[name] == was[name], name


def test_rolled_back_run_leaves_the_state_before_it(memory: Memory) -> None:
    memory.run(succeeded({"x": 1}, "node"))
    memory.run(RunRolledBack(thread_id=THREAD), OTHER)
    row = memory.thread()
    assert (row["status"], row["error"]) == ("interrupted", None)


def test_write_changes_state_and_status_but_not_the_metadata(memory: Memory) -> None:
    memory.run(FAILED)
    metadata = memory.thread()["metadata"]
    memory.run(succeeded({"x": 5}), OTHER, "state")
    row = memory.thread()
    assert (row["status"], row["error"], row["next"]) == ("idle", None, "[]")
    assert msgspec.json.decode(row["values"])["inline"] == {"x": 5}
    assert (row["metadata"], row["last_run_id"], row["writes"]) == (metadata, RUN.bytes, "[]")


@pytest.mark.parametrize(
    ("before", "status"), [(succeeded({"x": 1}), "idle"), (succeeded({"x": 1}, "node"), "interrupted")]
)
def test_write_that_fails_leaves_the_thread_as_it_was(memory: Memory, before: Body, status: str) -> None:
    memory.run(before)
    memory.run(
        RunFailed(thread_id=THREAD, attempt=1, error="InvalidUpdateError", message="no"), OTHER, "state"
    )
    row = memory.thread()
    assert (row["status"], row["error"], row["writes"]) == (status, None, "[]")


def test_first_run_names_graph_and_assistant_in_the_metadata(memory: Memory) -> None:
    memory.request()
    assert msgspec.json.decode(memory.thread()["metadata"]) == {
        "graph_id": "agent",
        "assistant_id": str(UUID(int=9)),
        "topic": "t",
    }
    memory.tell(THREAD, ThreadUpdated(metadata={"topic": "u"}))
    assert msgspec.json.decode(memory.thread()["metadata"])["topic"] == "u"


def paused(memory: Memory) -> None:
    memory.run(succeeded({"x": 1}, "node"))


def failed(memory: Memory) -> None:
    memory.run(succeeded({"x": 1}))
    memory.run(RunTimedOut(thread_id=THREAD, attempt=1, limit_s=2), OTHER)


def in_flight(memory: Memory) -> None:
    memory.run(succeeded({"x": 1}))
    memory.request(OTHER)
    memory.line(OTHER)


@pytest.mark.parametrize(("past", "status"), [(paused, "interrupted"), (failed, "idle"), (in_flight, "idle")])
def test_copy_has_the_state_and_rests(memory: Memory, past: Callable[[Memory], None], status: str) -> None:
    past(memory)
    memory.tell(COPY, ThreadCreated(user_id="anonymous", copied_from=THREAD))
    source, row = memory.thread(), memory.thread(COPY)
    assert (row["status"], row["in_flight"], row["error"], row["checkpoint"]) == (status, 0, None, None)
    for name in ("values", "next", "graph_id", "assistant_id"):
        assert row[name] == source[name], name


def test_deleted_thread_is_gone(memory: Memory) -> None:
    memory.tell(THREAD, ThreadDeleted())
    memory.tell(RUN, succeeded({"x": 1}))
    assert memory.get("threads", THREAD.bytes) is None
