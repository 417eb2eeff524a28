"""The ledger on PostgreSQL: several processes write, the server goes away, and nothing acknowledged is lost."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from eventsourcing.application import Repository
from eventsourcing.persistence import EventStore

from contracts.codec import EventCodec
from contracts.events import ThreadCreated, ThreadUpdated
from contracts.ledger import Append, Meta, Recorded, StoredAppend, StoredTransaction, Transaction
from domain.thread import thread_of
from services.kit.eventlog import LogUnavailable, WrongExpectedVersion
from services.kit.eventlog.fold import Fold
from services.kit.eventlog.postgres import LEDGER, PostgresLog, PostgresRecorder
from services.kit.ids import uuid7
from services.kit.postgres import DatabaseProblem, connect, migrate
from tests.postgres import Postgres

META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")


def tx(stream: UUID, version: int = 0) -> Transaction:
    return Transaction(meta=META, appends=(Append(stream, version, (ThreadCreated(user_id="u"),)),))


@pytest.fixture
def ledger_url(postgres_url: str) -> str:
    migrate(postgres_url, [LEDGER], lambda _: None)
    return postgres_url


@pytest.fixture
async def log(ledger_url: str) -> AsyncIterator[PostgresLog]:
    made = PostgresLog(ledger_url, EventCodec())
    await made.start()
    yield made
    await made.stop()


async def test_without_a_ledger_it_says_what_to_do(postgres_url: str) -> None:
    log = PostgresLog(postgres_url, EventCodec())
    with pytest.raises(DatabaseProblem, match="run `cronledger migrate`"):
        await log.start()
    await log.stop()


async def test_many_writers_of_two_processes_and_a_tail(log: PostgresLog, ledger_url: str) -> None:
    """One of each two that want the same version wins; positions have no gap, and a tail passes none over."""
    other = PostgresLog(ledger_url, EventCodec())
    await other.start()
    streams, seen, over = [uuid7() for _ in range(150)], list[int](), asyncio.Event()

    async def tail() -> None:
        while not over.is_set() or seen[-1:] != [await asyncio.to_thread(other.head)]:
            events = await asyncio.to_thread(other.read, seen[-1] if seen else 0, 20)
            seen.extend(event.position for event in events)

    following = asyncio.create_task(tail())
    written = [
        of.append(tx(stream, version)) for stream in streams for version in (0, 1) for of in (log, other)
    ]
    outcomes = await asyncio.gather(*written, return_exceptions=True)
    over.set()
    await following
    stored = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert all(isinstance(outcome, int | WrongExpectedVersion) for outcome in outcomes)
    assert seen == sorted(stored) == list(range(1, len(stored) + 1))
    for stream in streams:
        versions = [event.version for event in log.stream(stream)]
        assert versions in ([1], [1, 2])
    await other.stop()


async def test_connections_that_are_cut_are_made_again(log: PostgresLog, ledger_url: str) -> None:
    for n in range(5):
        with connect(ledger_url, "ledger") as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database()"
            )
        assert log.head() == len(log.read(0, 1000))  # a read is simply made again
        assert (
            await log.append(tx(uuid7())) == 2 * n + 1
        )  # nor is a write tried on one that is known to be cut
        assert await log.append(tx(uuid7())) == 2 * n + 2


async def test_server_that_is_gone_is_told_and_comes_back() -> None:
    server = Postgres(durable=True).start()
    try:
        migrate(server.url, [LEDGER], lambda _: None)
        log = PostgresLog(server.url, EventCodec())
        await log.start()
        kept = uuid7()
        await log.append(tx(kept))
        server.kill()
        with pytest.raises(LogUnavailable):
            await log.append(tx(uuid7()))
        with pytest.raises(LogUnavailable):
            log.head()
        with pytest.raises(LogUnavailable):
            await log.renew_lease("worker.a", "one", 5)
        async with asyncio.timeout(20):
            while not log.parts[0].failing:  # noqa: ASYNC110 - it is told in the thread
                await asyncio.sleep(0.01)
        server.start()
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await log.append(tx(uuid7())) >= 2
                    break
                except LogUnavailable:
                    await asyncio.sleep(0.1)
        assert [event.stream_id for event in log.read(0, 1)] == [kept]
        await log.stop()
    finally:
        server.close()


async def test_what_can_not_be_stored_fails_alone(log: PostgresLog) -> None:
    bad = StoredTransaction((StoredAppend(uuid7(), 0, (("thread.\0", b"{}"),)),))
    good = [log.append(tx(uuid7())) for _ in range(20)]
    outcomes = await asyncio.gather(*good[:10], log.append_stored([bad]), *good[10:], return_exceptions=True)
    assert isinstance(outcomes.pop(10), LogUnavailable)
    assert sorted(outcomes) == list(range(1, 21))  # type: ignore[type-var]
    assert log.parts[0].failing == ""


async def test_the_library_reads_and_writes_it(log: PostgresLog, ledger_url: str) -> None:
    stream = uuid7()
    await log.append(tx(stream))
    recorder = PostgresRecorder(ledger_url)
    events = EventStore[UUID](EventCodec(), recorder)
    [recording] = events.put([Recorded(0, stream, 2, "", META, ThreadUpdated(metadata={"by": "library"}))])
    assert recording.notification.id == recorder.max_notification_id() == 2
    assert [n.id for n in recorder.select_notifications(1, 10)] == [1, 2]
    assert [n.id for n in recorder.select_notifications(1, 10, topics=["thread.updated.v1"])] == [2]
    thread = Repository(events).get(stream, projector_func=thread_by_the_library)
    assert thread == thread_of(stream, log.stream(stream))
    recorder.close_readers()


def thread_by_the_library(_: Any, events: Iterable[Any]) -> Any:
    found = list(events)
    return thread_of(found[0].stream_id, found)


def test_nobody_inserts_past_the_function(ledger_url: str) -> None:
    with connect(ledger_url, "ledger") as connection, pytest.raises(psycopg.errors.NotNullViolation):
        connection.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
            " VALUES (gen_random_uuid(), 1, 'x', '')"
        )


def test_a_batch_that_was_assumed_wrong_is_folded_again() -> None:
    a, b = uuid7(), uuid7()
    txs = [EventCodec().stored(one) for one in (tx(a, 3), tx(a, 4), tx(b), tx(b), tx(a, 9))]
    assumed = Fold(txs)
    assert assumed.rests == {a: 3, b: 0}
    assert [isinstance(o, int) for o in assumed.placed(103)] == [True, True, True, False, False]
    known = Fold(txs, {a: 9, b: 0})
    assert [o if isinstance(o, int) else None for o in known.placed(102)] == [None, None, 101, None, 102]
