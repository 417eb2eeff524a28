"""The fence around checkpoints: what comes too late is refused, and holds nobody up."""

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from services.worker.child.checkpoints import Lease, LeaseEnded, Saver

PLACE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


def write_elsewhere(path: Path) -> None:
    """What another child does. Raises OperationalError when the database is held."""
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.rollback()


@pytest.mark.parametrize("leaves", [False, True])
async def test_refused_write_holds_no_lock(tmp_path: Path, leaves: bool) -> None:
    path = tmp_path / "checkpoints.db"
    lease = Lease(time.monotonic() + 60)
    saver = await Saver.opened(str(path), lease)
    await saver.aput(PLACE, empty_checkpoint(), {}, {})
    lease.until_s = 0
    writing = asyncio.ensure_future(saver.aput(PLACE, empty_checkpoint(), {}, {}))
    if leaves:
        await asyncio.sleep(0)
        writing.cancel()  # as when its run is cancelled: the write goes on without it
    with pytest.raises(asyncio.CancelledError if leaves else LeaseEnded):
        await writing
    await asyncio.to_thread(write_elsewhere, path)
    lease.until_s = time.monotonic() + 60
    await saver.aput(PLACE, empty_checkpoint(), {}, {})
    await saver.conn.close()
