"""Follows the log and keeps the read models in step, in a thread of its own."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from contracts.ledger import Recorded
from projections.rows import Projection
from services.kit.eventlog import EventLog
from services.kit.positions import PositionSignal
from services.projector.catalog import ALL
from services.projector.store import PositionMoved, ViewStore

POLL_S = 0.25
BATCH = 2000
log_ = logging.getLogger("cronledger.projector")


class Projector:
    """Read models that follow the log. After `start` they exist; `reached` tells how far they are."""

    def __init__(self, log: EventLog, path: Path, projections: Sequence[Projection] = ALL) -> None:
        self._log = log
        self._path = path
        self._projections = projections
        self.signal = PositionSignal()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Begin to follow; read models of a new version are built before this returns."""
        if self._thread is not None:
            return
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        store = await asyncio.to_thread(self._opened)
        self._unsubscribe = self._log.on_commit(lambda _: self._wake.set())
        self._thread = threading.Thread(target=self._run, args=(store,), name="projector", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End it; what is not projected yet will be at the next start."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._unsubscribe()
        self._stopping = True
        self._wake.set()
        await asyncio.to_thread(thread.join)

    async def reached(self, position: int, timeout_s: float = 2.0) -> bool:
        """True once every read model has passed the position, False when the time is over."""
        return await self.signal.wait_for(position, timeout_s)

    async def changed(self, timeout_s: float) -> None:
        """Wait until the read models move, or the time is over."""
        await self.signal.wait_for(self.signal.current + 1, timeout_s)

    def _opened(self) -> ViewStore:
        try:
            return self._prepared()
        except sqlite3.DatabaseError as exc:
            # It can be built again from the log, so a damaged file is no reason not to start.
            log_.warning("projector.damaged path=%s error=%s", self._path, exc)
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            return self._prepared()

    def _prepared(self) -> ViewStore:
        store = ViewStore(self._path, self._projections)
        store.prepare(self._log.head())
        for projection in self._projections:
            if not store.is_live(projection.NAME):
                position = store.build(projection.NAME, batches(self._log, 0))
                store.swap(projection.NAME, position)
                log_.info("projector.rebuilt name=%s position=%d", projection.NAME, position)
        return store

    def _run(self, store: ViewStore) -> None:
        while not self._stopping:
            try:
                self._follow(store)
            except (sqlite3.Error, PositionMoved) as exc:
                log_.warning("projector.failed error=%s", exc)
                self._wake.wait(POLL_S)
        store.close()

    def _follow(self, store: ViewStore) -> None:
        positions = store.prepare(self._log.head())
        self._catch_up(store, positions)
        names, position = list(positions), max(positions.values(), default=0)
        self._announce(position)
        while not self._stopping:
            self._wake.clear()
            events = self._log.read(position, BATCH)
            if not events:
                self._wake.wait(POLL_S)
                continue
            store.apply(names, events, position)
            position = events[-1].position
            self._announce(position)

    def _catch_up(self, store: ViewStore, positions: dict[str, int]) -> None:
        """Bring those that are behind to the position of the foremost."""
        target = max(positions.values(), default=0)
        for name, position in positions.items():
            for events in batches(self._log, position, target):
                store.apply([name], events, positions[name])
                positions[name] = events[-1].position
                if self._stopping:
                    return

    def _announce(self, position: int) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.signal.advance, position)


def batches(log: EventLog, after: int, until: int | None = None) -> Iterator[list[Recorded]]:
    """The log from a position on, in batches, until its end or `until`."""
    while events := log.read(after, BATCH, until):
        yield events
        after = events[-1].position
