"""A data folder as years would leave it: events through the real log and the real projections."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from contracts.codec import EventCodec, pack
from contracts.events import (
    LaneChanged,
    LaneRun,
    RunFailed,
    RunRequested,
    RunStarted,
    RunSucceeded,
    Settled,
    ThreadCreated,
)
from contracts.ledger import Append, Meta, Transaction
from contracts.spec import RunSpec
from domain import assistant as assistants
from domain import cron as crons
from domain.assistant import CreateAssistant, RegisterGraph, default_assistant_id
from domain.changes import Changes
from domain.cron import CreateCron
from domain.lane import lane_id_of
from services.kit.eventlog.sqlite import SqliteLog
from services.projector.catalog import ALL
from services.projector.projector import batches
from services.projector.store import ViewStore

START = datetime(2026, 1, 1, tzinfo=UTC)
FAR = datetime(2090, 1, 1, tzinfo=UTC)
GRAPH = "counter"
ASSISTANT = default_assistant_id(GRAPH)
TEAMS = 100
BATCH = 500


def thread_id(n: int) -> UUID:
    """The id of the n-th thread."""
    return UUID(int=(1 << 100) + n)


def run_id(n: int) -> UUID:
    """The id of the run of the n-th thread."""
    return UUID(int=(2 << 100) + n)


def cron_id(n: int) -> UUID:
    """The id of the n-th cron."""
    return UUID(int=(3 << 100) + n)


async def populate(folder: Path, threads: int, some_crons: int, active: int = 0) -> None:
    """Make ledger and read models: threads with a run each that is over, but for the last `active` ones; crons.

    Metadata of both: `n` is its own, `team` that of one in a hundred, `all` everybody's. A run in ten failed.
    """
    log = SqliteLog(folder / "ledger.db", EventCodec())
    await log.start()
    txs: list[Transaction] = []
    for tx in _all(threads, some_crons, active):
        txs.append(tx)
        if len(txs) == BATCH:
            await log.append_many(txs)
            txs.clear()
    await log.append_many(txs)
    for follower in ("relay.ledger", "relay.runs"):
        await log.move_cursor(follower, log.head())  # years ago they told of all of it
    project(log, folder / "views.db")
    await log.stop()


def project(log: SqliteLog, place: Path | str) -> None:
    """Build the read models."""
    store, position = ViewStore(place, ALL), 0
    store.prepare(log.head())
    for events in batches(log, 0):
        store.apply([projection.NAME for projection in ALL], events, position)
        position = events[-1].position
    store.close()


def _all(threads: int, some_crons: int, active: int) -> Iterator[Transaction]:
    registered = assistants.decide(None, RegisterGraph(graph_id=GRAPH, name=GRAPH))
    yield _tx(0, *assistants.appends(ASSISTANT, None, registered))
    for n in range(TEAMS):
        made = CreateAssistant(
            assistant_id=UUID(int=n + 1), graph_id=GRAPH, user_id="u", name=f"team {n}", metadata=_metadata(n)
        )
        yield _tx(n, *assistants.appends(made.assistant_id, None, assistants.decide(None, made)))
    for n in range(threads):
        yield _tx(n, *_thread(n, is_over=n < threads - active))
    for n in range(some_crons):
        yield _cron(n)


def _metadata(n: int) -> dict[str, object]:
    return {"n": n, "team": f"team-{n % TEAMS}", "all": True}


def _tx(n: int, *appends: Append) -> Transaction:
    # Seconds apart, so that the orders by time are orders.
    return Transaction(meta=Meta(at=START + timedelta(seconds=n), actor="test"), appends=appends)


def _thread(n: int, *, is_over: bool) -> tuple[Append, ...]:
    thread, run = thread_id(n), run_id(n)
    metadata = {**_metadata(n), "graph_id": GRAPH, "assistant_id": str(ASSISTANT)}
    kwargs, _ = pack({"input": {"x": n}, "config": {}})
    asked = RunRequested(
        thread_id=thread,
        assistant_id=ASSISTANT,
        graph_id=GRAPH,
        user_id="u",
        kwargs=kwargs,
        metadata=metadata,
    )
    joined = LaneChanged(thread_id=thread, change="joined", run_id=run, in_flight=(LaneRun(run),))
    created = Append(thread, 0, (ThreadCreated(user_id="u", metadata=metadata),))
    if not is_over:
        return created, Append(run, 0, (asked,)), Append(lane_id_of(thread), 0, (joined,))
    ended = (RunStarted(thread_id=thread, attempt=1, worker="w"), _outcome(n))
    left = LaneChanged(thread_id=thread, change="left", run_id=run)
    return created, Append(run, 0, (asked, *ended)), Append(lane_id_of(thread), 0, (joined, left))


def _outcome(n: int) -> Settled:
    if n % 10 == 0:
        return RunFailed(thread_id=thread_id(n), attempt=1, error="ValueError", message="no")
    output, _ = pack({"answer": n, "messages": ["x" * 20] * 10})
    return RunSucceeded(thread_id=thread_id(n), attempt=1, output=output)


def _cron(n: int) -> Transaction:
    command = CreateCron(
        cron_id=cron_id(n),
        assistant_id=UUID(int=n % TEAMS + 1),
        graph_id=GRAPH,
        user_id="anonymous",
        schedule=f"{n % 60} {n % 24} 29 2 *",
        spec=RunSpec(metadata=_metadata(n), input={"x": n}),
        thread_id=thread_id(n) if n % 10 == 0 else None,
        end_time=FAR + timedelta(seconds=n) if n % 3 == 0 else None,
        enabled=n % 2 == 0,
    )
    changes: Changes = crons.changes(command.cron_id, None, crons.decide(None, command, START))
    return changes.by(Meta(at=START + timedelta(seconds=n), actor="test"))
