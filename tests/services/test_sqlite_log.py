"""The ledger file: what was acknowledged survives SIGKILL, positions are never reused, the library reads it."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from eventsourcing.application import Repository
from eventsourcing.persistence import EventStore

from contracts.codec import EventCodec
from contracts.events import ThreadCreated, ThreadUpdated
from contracts.ledger import Append, Meta, Recorded, Transaction
from domain.thread import thread_of
from services.kit.eventlog.recorder import ForeignLedger
from services.kit.eventlog.sqlite import SqliteLog, SqliteRecorder
from services.kit.ids import uuid7

REPOSITORY = Path(__file__).parents[2]
META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")
WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from contracts.codec import EventCodec
from contracts.events import ThreadCreated
from contracts.ledger import Append, Meta, Transaction
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7

async def main():
    log = SqliteLog(Path(sys.argv[1]), EventCodec())
    await log.start()
    async def write():
        while True:
            stream = uuid7()
            tx = Transaction(meta=Meta(at=datetime.now(UTC), actor="t"),
                             appends=(Append(stream, 0, (ThreadCreated(user_id="u"),)),))
            await log.append(tx)
            print(stream, flush=True)
    await asyncio.gather(*(write() for _ in range(8)))
asyncio.run(main())
"""


def tx() -> Transaction:
    return Transaction(meta=META, appends=(Append(uuid7(), 0, (ThreadCreated(user_id="u"),)),))


def test_sigkill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(500)]
        process.kill()
        acknowledged += [line.strip() for line in process.stdout if len(line) == 37]
    db = sqlite3.connect(path)
    stored = {bytes(row[0]).hex() for row in db.execute("SELECT originator_id FROM stored_events")}
    db.close()
    assert {line.replace("-", "") for line in acknowledged} <= stored


async def test_positions_are_never_reused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    log = SqliteLog(path, EventCodec())
    await log.start()
    for _ in range(3):
        await log.append(tx())
    await log.stop()
    db = sqlite3.connect(path)
    db.execute("DELETE FROM stored_events")
    db.commit()
    db.close()
    await log.start()
    assert await log.append(tx()) == 4
    await log.stop()


async def test_the_library_reads_and_writes_it(tmp_path: Path) -> None:
    log, codec = SqliteLog(tmp_path / "ledger.db", EventCodec()), EventCodec()
    await log.start()
    await log.append(tx())
    [recorded] = log.read(0, 10)
    recorder = SqliteRecorder(tmp_path / "ledger.db")
    [stored] = recorder.select_events(recorded.stream_id)
    assert (stored.topic, stored.originator_version) == ("thread.created.v1", 1)
    [notification] = recorder.select_notifications(1, 10)
    assert notification.id == recorder.max_notification_id() == 1
    assert recorder.select_notifications(1, 10, topics=["thread.updated.v1"]) == []
    events = EventStore[UUID](codec, recorder)
    new = Recorded(0, recorded.stream_id, 2, "", META, ThreadUpdated(metadata={"by": "library"}))
    [recording] = events.put([new])
    assert recording.notification.id == 2
    assert [event.body for event in log.stream(recorded.stream_id)] == [recorded.body, new.body]
    thread = Repository(events).get(recorded.stream_id, projector_func=thread_by_the_library)
    assert thread == thread_of(recorded.stream_id, log.stream(recorded.stream_id))
    recorder.close_readers()
    recorder.datastore.close()
    await log.stop()


def thread_by_the_library(_: Any, events: Iterable[Any]) -> Any:
    found = list(events)
    return thread_of(found[0].stream_id, found)


def test_durable_and_private(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    recorder = SqliteRecorder(path)
    recorder.open()
    with recorder.datastore.get_connection(commit=True) as connection:
        shown = []
        for name in ("journal_mode", "synchronous"):
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA {name}")
            shown.append(cursor.fetchone()[0])
        assert shown == ["wal", 2]
        connection.cursor().execute("PRAGMA user_version=99")
    assert os.stat(path).st_mode & 0o777 == 0o600
    with pytest.raises(ForeignLedger, match="newer"):
        recorder.open()
    recorder.datastore.close()
