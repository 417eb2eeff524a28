"""The ledger file: what was acknowledged survives SIGKILL, positions are never reused, the library reads it."""

import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.codec import EventCodec
from contracts.events import ThreadCreated
from contracts.ledger import Append, Meta, Transaction
from services.kit.eventlog.recorder import ForeignLedger, library_recorder, open_writer
from services.kit.eventlog.sqlite import SqliteLog
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
    path = tmp_path / "ledger.db"
    log = SqliteLog(path, EventCodec())
    await log.start()
    await log.append(tx())
    [recorded] = log.read(0, 10)
    recorder = library_recorder(path)
    [stored] = recorder.select_events(recorded.stream_id)
    assert (stored.topic, stored.originator_version) == ("thread.created.v1", 1)
    [notification] = recorder.select_notifications(1, 10)
    assert notification.id == recorder.max_notification_id() == 1
    recorder.datastore.close()
    await log.stop()


def test_durable_and_private(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    db = open_writer(path)
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert os.stat(path).st_mode & 0o777 == 0o600
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(ForeignLedger, match="newer"):
        open_writer(path)
