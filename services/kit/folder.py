"""The data folder: one owner at a time, and after a clean stop one file for each database in it."""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from services.kit.lifecycle import Part
from services.kit.logs import Log
from services.kit.mendable import Mendable

SETTLE_S = 2.0
log_ = Log("folder")


class FolderInUse(Mendable):
    """Another process has the folder; the text says what to do."""


class DataFolder:
    """A folder that is ours alone from `start` to `stop`: the first part of a process, and the last to go."""

    name, failing = "folder", ""
    parts: Sequence[Part] = ()

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = -1

    @property
    def started(self) -> bool:
        """True while it is ours."""
        return self._lock >= 0

    async def start(self) -> None:
        """Make it if it is missing, and take it. Raises FolderInUse."""
        if not self.started and not self.take():
            raise FolderInUse(
                f"another cronledger runs on {self.path}; stop it or give another folder with --data"
            )

    async def stop(self) -> None:
        """Leave one file for each database, and let it go; safe twice and unstarted."""
        if not self.started:
            return
        try:
            async with asyncio.timeout(SETTLE_S):
                await asyncio.to_thread(self.settle)
        finally:
            self.let_go()

    def take(self) -> bool:
        """Take the folder, if nobody has it; the kernel lets go of it when we die."""
        (self.path / "run").mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        lock = os.open(self.path / "run" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def let_go(self) -> None:
        """Leave it to others; safe twice."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def settle(self) -> None:
        """Bring what lies beside the databases into them: `cp ledger.db` is then a backup."""
        for wal in self.path.glob("*.db-wal"):
            path = Path(str(wal).removesuffix("-wal"))
            try:
                _settle(path)
            except sqlite3.Error as exc:
                log_.warning("folder.not_settled", path=path, error=exc)


def _settle(path: Path) -> None:
    db = sqlite3.connect(path, timeout=SETTLE_S / 4)
    try:
        # Whoever closes a database last does the same, but a child that was killed closed nothing.
        [busy] = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][:1]
    finally:
        db.close()
    if busy:
        log_.warning("folder.not_settled", path=path, error="somebody still has it open")
