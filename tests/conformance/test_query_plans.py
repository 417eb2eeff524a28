"""Each named query, with its plan on a populated database: nothing looks at all of a table that grows."""

import re
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.codec import EventCodec
from contracts.events import ThreadCreated, ThreadUpdated
from contracts.ledger import Append, Blob, Meta, Transaction
from services.kit.eventlog.reading import SQL as LOG_SQL
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.queries import named

META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")


def plan(db: sqlite3.Connection, query: str) -> list[str]:
    """The steps of the query, without their indentation. Parameters need no value for it."""
    marks = [None] * query.count("?")
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", marks)]


def steps(db: sqlite3.Connection, query: str) -> str:
    """The plan in a line, with the versions of tables and the numbers of indexes left out."""
    return "; ".join(re.sub(r"(\w+?)__v\d+", r"\1", step) for step in plan(db, query))


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    await log.start()
    long = uuid7()
    for n in range(3):
        events = (ThreadCreated(user_id="u"), *(ThreadUpdated(metadata={"n": n}) for _ in range(500)))
        blob = Blob(f"{n}", b"x")
        await log.append(
            Transaction(meta=META, appends=(Append(uuid7() if n else long, 0, events),), blobs=(blob,))
        )
        await log.renew_lease(f"worker.{n}", "me", 10)
    await log.close()
    db = sqlite3.connect(tmp_path / "ledger.db")
    yield db
    db.close()


STREAM_KEY = "sqlite_autoindex_stored_events_1"
POSITIONS = "SEARCH stored_events USING INTEGER PRIMARY KEY"
LOG_PLANS = {
    "stream": f"SEARCH stored_events USING INDEX {STREAM_KEY} (originator_id=? AND originator_version>?)",
    "newest": f"SEARCH stored_events USING INDEX {STREAM_KEY} (originator_id=?)",
    "range": f"{POSITIONS} (rowid>? AND rowid<?)",
    "topics": f"{POSITIONS} (rowid>? AND rowid<?)",
    "at": f"{POSITIONS} (rowid=?)",
    "head": "SEARCH stored_events",  # of the primary key: its last entry
    "version": f"SEARCH stored_events USING COVERING INDEX {STREAM_KEY} (originator_id=?)",
    "append": "",
    "keep_blob": "",
    "blob": "SEARCH blobs USING PRIMARY KEY (sha256=?)",
    "leases": "SEARCH leases USING PRIMARY KEY (name>? AND name<?)",
    "take_lease": "",
    "drop_lease": "SEARCH leases USING PRIMARY KEY (name=?)",
    "cursor": "SEARCH cursors USING PRIMARY KEY (name=?)",
    "move_cursor": "",
}


def test_log(ledger: sqlite3.Connection) -> None:
    assert {name: steps(ledger, query) for name, query in LOG_SQL.items()} == LOG_PLANS


def test_newest_costs_the_same_at_any_age(ledger: sqlite3.Connection) -> None:
    """Counted in steps of SQLite's machine, which do not depend on the machine that runs the test."""
    ids = [row[0] for row in ledger.execute("SELECT DISTINCT originator_id FROM stored_events")]
    looked = []
    ledger.set_progress_handler(lambda: looked.append(1), 1)
    ledger.execute(LOG_SQL["newest"], (ids[0],)).fetchall()
    assert len(looked) < 50


def test_names_stand_once(tmp_path: Path) -> None:
    path = tmp_path / "queries.sql"
    path.write_text("-- name: a\n-- why\nSELECT 1;\n-- name: a\nSELECT 2;\n")
    with pytest.raises(ValueError, match="a stands there twice"):
        named(path)
    path.write_text("-- name: a\n-- name: b\nSELECT 2\n")
    with pytest.raises(ValueError, match="no query under a"):
        named(path)
