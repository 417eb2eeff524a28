"""What every EventLog promises: on a file, through a process that does not own it, and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from contracts.codec import EventCodec, pack
from contracts.events import RunRequested, ThreadCreated, ThreadUpdated
from contracts.ledger import Append, Blob, Expect, Meta, Transaction
from services.kit.eventlog import BadTransaction, EventLog, LogUnavailable, WrongExpectedVersion
from services.kit.eventlog.postgres import LEDGER, PostgresLog
from services.kit.eventlog.remote import RemoteLog, serve_remote
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.postgres import migrate

META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test", cause="c", corr="r")


@pytest.fixture(params=["sqlite", "remote", "postgres"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        migrate(url, [LEDGER], lambda _: None)
        made = PostgresLog(url, EventCodec())
        await made.start()
        yield made
        await made.stop()
        return
    owner = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await owner.start()
    if request.param == "sqlite":
        yield owner
    else:
        remote = RemoteLog(tmp_path / "ledger.db", EventCodec(), serve_remote(owner))
        owner.on_commit(remote.nudged)
        yield remote
        await remote.stop()
    await owner.stop()


def created(stream_id: UUID, version: int = 0, n: int = 0) -> Append:
    return Append(stream_id, version, (ThreadCreated(user_id="u", metadata={"n": n}),))


def tx(*appends: Append, expects: tuple[Expect, ...] = (), blobs: tuple[Blob, ...] = ()) -> Transaction:
    return Transaction(meta=META, appends=appends, expects=expects, blobs=blobs)


async def test_what_can_never_be_stored_is_told_so(log: EventLog) -> None:
    a = uuid7()
    with pytest.raises(BadTransaction, match="twice"):
        await log.append(tx(created(a), created(a, 1)))
    assert log.head() == 0


async def test_what_was_appended_is_read_back(log: EventLog) -> None:
    a, b = uuid7(), uuid7()
    assert await log.append(tx(created(a), created(b))) == 2
    assert await log.append(tx(Append(a, 1, (ThreadUpdated(metadata={"x": 1}),)))) == log.head() == 3
    assert [e.version for e in log.stream(a)] == [1, 2]
    assert [e.version for e in log.stream(a, after_version=1)] == [2]
    assert log.stream(uuid7()) == []
    newest = log.newest([a, b, uuid7()])
    assert {key: e.version for key, e in newest.items()} == {a: 2, b: 1}
    assert [e.position for e in log.read(0, 10)] == [1, 2, 3]
    assert [e.position for e in log.read(1, 10, until=2)] == [2]
    assert [e.position for e in log.at_positions([3, 1, 99])] == [1, 3]
    assert log.read(0, 1)[0].meta == META
    assert [e.position for e in log.read_topics("thread.updated", 0, 3, 10)] == [3]
    raw = log.read_raw(2, 1)[0]
    assert (raw.topic, raw.originator_version) == ("thread.updated.v1", 2)


async def test_wrong_version_stores_nothing(log: EventLog) -> None:
    a, b = uuid7(), uuid7()
    await log.append(tx(created(a)))
    for version in (0, 2, 7):
        with pytest.raises(WrongExpectedVersion) as caught:
            await log.append(tx(created(b), created(a, version)))
        assert caught.value.stream_id == a
    assert log.head() == 1
    assert log.stream(b) == []


async def test_conflict_fails_its_own_transaction_only(log: EventLog) -> None:
    a, b, c = uuid7(), uuid7(), uuid7()
    outcomes = await log.append_many([tx(created(a)), tx(created(a)), tx(created(b)), tx(created(c))])
    assert [isinstance(o, WrongExpectedVersion) for o in outcomes] == [False, True, False, False]
    assert log.head() == 3


async def test_transactions_of_one_batch_see_each_other(log: EventLog) -> None:
    a = uuid7()
    outcomes = await log.append_many([tx(created(a)), tx(Append(a, 1, (ThreadUpdated(metadata={}),)))])
    assert outcomes == [1, 2]


async def test_expected_streams_are_checked(log: EventLog) -> None:
    a, b = uuid7(), uuid7()
    await log.append(tx(created(a)))
    with pytest.raises(WrongExpectedVersion):
        await log.append(tx(created(b), expects=(Expect(a, 2),)))
    assert await log.append(tx(created(b), expects=(Expect(a, 1),))) == 2


async def test_one_of_many_wins(log: EventLog) -> None:
    a = uuid7()
    outcomes = await asyncio.gather(
        *(log.append(tx(created(a, n=n))) for n in range(64)), return_exceptions=True
    )
    assert sum(isinstance(o, int) for o in outcomes) == 1
    assert len(log.stream(a)) == 1


async def test_a_tail_misses_nothing(log: EventLog) -> None:
    seen: list[int] = []
    done = asyncio.Event()

    async def tail() -> None:
        while not done.is_set() or seen[-1:] != [log.head()]:
            seen.extend(e.position for e in log.read(seen[-1] if seen else 0, 50))
            await asyncio.sleep(0.001)

    following = asyncio.create_task(tail())
    await asyncio.gather(*(log.append(tx(created(uuid7()), created(uuid7()))) for _ in range(300)))
    done.set()
    await following
    assert seen == list(range(1, 601))


async def test_large_values_lie_beside_the_events(log: EventLog) -> None:
    payload, blobs = pack({"text": "x" * 40_000})
    run = RunRequested(thread_id=uuid7(), assistant_id=uuid7(), graph_id="g", user_id="u", kwargs=payload)
    run_id = uuid7()
    await log.append(tx(Append(run_id, 0, (run,)), blobs=blobs))
    await log.append(tx(created(uuid7()), blobs=blobs))  # the same value twice is stored once
    [stored] = log.stream(run_id)
    assert stored.body == run
    data = log.blob(payload.sha256)
    assert data is not None
    assert msgspec.json.decode(data) == {"text": "x" * 40_000}
    assert log.blob("unknown") is None


async def test_commit_is_told(log: EventLog) -> None:
    told: list[int] = []
    stop = log.on_commit(told.append)
    await log.append(tx(created(uuid7())))
    await asyncio.sleep(0.05)
    assert told[-1] == 1
    stop()
    await log.append(tx(created(uuid7())))
    await asyncio.sleep(0.05)
    assert told[-1] == 1


async def test_leases(log: EventLog) -> None:
    assert await log.renew_lease("worker.a", "one", 30) is not None
    assert await log.renew_lease("worker.a", "two", 30) is None
    assert await log.renew_lease("worker.a", "one", 30) is not None
    assert [row.holder for row in log.leases("worker.")] == ["one"]
    await log.renew_lease("worker.a", "one", 0)
    assert log.leases("worker.") == []
    assert await log.renew_lease("worker.a", "two", 0.01) is not None
    await asyncio.sleep(0.05)
    assert await log.renew_lease("worker.a", "one", 30) is not None


async def test_a_cursor_is_kept_and_never_goes_back(log: EventLog) -> None:
    assert log.cursor("relay") == 0
    for told, kept in ((5, 5), (3, 5), (9, 9)):
        await log.move_cursor("relay", told)
        assert log.cursor("relay") == kept
    assert log.cursor("other") == 0
    assert log.head() == 0


async def test_nobody_answers(tmp_path: Path) -> None:
    async def silent(_: bytes) -> bytes:
        raise TimeoutError

    remote = RemoteLog(tmp_path / "ledger.db", EventCodec(), silent)
    with pytest.raises(LogUnavailable):
        await remote.append(tx(created(uuid7())))
