"""Follows the log and keeps the read models in step, in a thread of its own; alone writes their database."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from contracts.ledger import Recorded
from contracts.rebuild import RebuildTold
from projections.rows import Projection
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Part, SupervisedThread
from services.kit.logs import Log
from services.kit.positions import PositionSignal
from services.projector.catalog import ALL
from services.projector.store import ViewStore, home_of, mark_of_raw

POLL_S = 1.0
"""Each commit wakes it, but one whose outcome was not known: that is told by nobody."""
STUCK_S = 10.0
"""A step takes half a second at most, on a slow machine two."""
BATCH = 2000
BESIDE = 500
"""Events that are projected beside the live read models before it is the live ones' turn again."""
log_ = Log("projector")


class RebuildBusy(Exception):
    """Other read models are being built anew just now."""


class Projector:
    """Read models that follow the log: a part. After `start` they exist; `reached` tells how far they are."""

    name = "projector"

    def __init__(self, log: EventLog, place: Path | str, projections: Sequence[Projection] = ALL) -> None:
        self._log, self._place, self._home = log, place, home_of(place)
        self._projections = projections
        self.signal = PositionSignal()
        self._wake = threading.Event()
        self._thread = SupervisedThread("projector.thread", self._step, self._wake.set, self._close)
        self.parts: Sequence[Part] = (self._thread,)
        self._store: ViewStore | None = None
        self._many, self._began = BATCH, 0.0
        self._is_damaged = self._to_sweep = self._given_up = False
        self._told = RebuildTold(0, ended=True)

    @property
    def started(self) -> bool:
        """True while it follows."""
        return self._thread.started

    @property
    def failing(self) -> str:
        """Where the read models stand still, while they do."""
        if self._is_damaged:
            return f"{self._home} is damaged: it is built again at the next start"
        is_stuck = self.started and time.monotonic() - self._began > STUCK_S
        if self._thread.failing or is_stuck:
            return f"nothing is shown after position {self.signal.current}"
        return ""

    async def start(self) -> None:
        """Begin to follow; read models of a new version are built before this returns."""
        if self._thread.started:
            return
        self._given_up, self._loop = False, asyncio.get_running_loop()
        try:
            self._store = await asyncio.to_thread(self._opened)
        except asyncio.CancelledError:
            self._given_up = True  # the thread must not build for hours what nobody waits for
            raise
        self._unsubscribe = self._log.on_commit(lambda _: self._wake.set())
        self._began = time.monotonic()
        await self._thread.start()

    async def stop(self) -> None:
        """End it; what is not projected yet will be at the next start."""
        if self._thread.started:
            self._unsubscribe()
        await self._thread.stop()

    async def reached(self, position: int, timeout_s: float = 2.0) -> bool:
        """True once every read model has passed the position, False when the time is over."""
        return await self.signal.wait_for(position, timeout_s)

    async def changed(self, timeout_s: float) -> None:
        """Wait until the read models move, or the time is over."""
        await self.signal.wait_for(self.signal.current + 1, timeout_s)

    def rebuild(self, names: Sequence[str] = ()) -> RebuildTold:
        """Build read models anew beside the live ones, and swap; how far it is then says `rebuilding`.

        Raises ValueError for unknown names, RebuildBusy.
        """
        chosen = chosen_of(self._projections, names)
        if self._told.ended:
            self._told = RebuildTold(self._told.number + 1, chosen, 0, self.signal.current)
            self._wake.set()
        elif self._told.names != chosen:
            raise RebuildBusy(f"{', '.join(self._told.names)} are being built; try again later")
        return self._told

    @property
    def rebuilding(self) -> RebuildTold:
        """How far the newest rebuilding is."""
        return self._told

    # --- in the thread ------------------------------------------------------------------------------------

    def _step(self) -> None:
        self._began = time.monotonic()
        self._wake.clear()
        try:
            if self._store is None:
                self._store = self._prepared()
            is_busy = self._followed(self._store)
            is_busy |= self._build_beside(self._store)
            if not is_busy and self._to_sweep:
                is_busy = self._to_sweep = self._store.sweep()
        except Exception as exc:
            # One event at a time next, so that all before a bad one are shown; and whatever it was that
            # failed, on a connection of which nothing is known.
            self._many = 1
            self._is_damaged = self._is_damaged or self._home.is_damage(exc)
            self._let_go()
            raise
        if not is_busy:
            self._wake.wait(POLL_S)

    def _followed(self, store: ViewStore) -> bool:
        try:
            return self._follow(store)
        except Exception:
            # Rows that can't go on are what is mended by building them anew, so that it must not wait for them;
            # after a first failure it does, because nearly always the next step succeeds.
            while self._thread.failing and not self._thread.stopping and self._build_beside(store):
                self._began = time.monotonic()
            raise

    def _follow(self, store: ViewStore) -> bool:
        """Project one batch into those that are behind the others, or into all; False when nothing was there."""
        positions = store.positions()
        first = min(positions.values())
        names = [name for name, position in positions.items() if position == first]
        until = min((p for p in positions.values() if p > first), default=None)
        self._announce(first)
        events = self._log.read(first, self._many, until)
        if not events:
            return False
        store.apply(names, events, first)
        self._many = min(BATCH, 2 * self._many)
        if until is None:
            self._announce(events[-1].position)
        return True

    def _build_beside(self, store: ViewStore) -> bool:
        """One portion of what was asked for; the swap is made when it has the live ones' position."""
        told = self._told
        if told.ended:
            return False
        try:
            self._told = self._built(store, told)
        except Exception as exc:
            # It fails for whoever asked for it; the live ones go on.
            log_.error("projector.not_rebuilt", exc)
            store.discard()
            self._told = msgspec.structs.replace(told, ended=True, failed=f"{type(exc).__name__}: {exc}")
        self._to_sweep = self._to_sweep or self._told.ended
        return True

    def _built(self, store: ViewStore, told: RebuildTold) -> RebuildTold:
        beside, shown = store.building(), store.positions()
        if not beside:
            store.begin(told.names)
        position = min(beside.get(name, 0) for name in told.names)
        until = max(shown[name] for name in told.names)  # nobody is taken back
        events = self._log.read(position, BESIDE, until)
        if events:
            store.fill(told.names, events, position)
            return msgspec.structs.replace(told, position=events[-1].position, head=max(until, told.head))
        store.swap(told.names)
        log_.info("projector.rebuilt", names=",".join(told.names), position=position)
        return msgspec.structs.replace(told, position=position, ended=True)

    def _opened(self) -> ViewStore:
        try:
            return self._prepared()
        except sqlite3.DatabaseError as exc:
            if not self._home.is_damage(exc):
                raise
            # It can be built again from the log, so a damaged file is no reason not to start.
            log_.warning("projector.damaged", path=str(self._home), error=exc)
            self._home.remove()
            return self._prepared()

    def _prepared(self) -> ViewStore:
        store = ViewStore(self._place, self._projections)
        try:
            store.prepare(self._log.head(), lambda position: mark_at(self._log, position))
            old = [p.NAME for p in self._projections if p.NAME not in store.positions()]
            for position in build(store, self._log, old) if old else ():
                if self._given_up or self._thread.stopping:
                    raise InterruptedError(
                        f"stopped while {', '.join(old)} were built, at position {position}"
                    )
        except BaseException:
            store.close()
            raise
        self._to_sweep = True
        return store

    def _announce(self, position: int) -> None:
        if position > self.signal.current and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.signal.advance, position)

    def _let_go(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _close(self) -> None:
        self._let_go()
        if self._is_damaged:
            self._home.remove()


def build(store: ViewStore, log: EventLog, names: Sequence[str]) -> Iterator[int]:
    """Build read models beside those that are shown, up to the log's end, and swap; the positions on the way."""
    store.begin(names)
    position = 0
    for events in batches(log, 0):
        store.fill(names, events, position)
        position = events[-1].position
        yield position
    store.swap(names)


def chosen_of(projections: Sequence[Projection], names: Sequence[str]) -> tuple[str, ...]:
    """The names of the read models that are meant; none = all. Raises ValueError for unknown ones."""
    known = [projection.NAME for projection in projections]
    if unknown := set(names) - set(known):
        raise ValueError(f"unknown read models: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return tuple(name for name in known if name in names or not names)


def batches(log: EventLog, after: int, until: int | None = None) -> Iterator[list[Recorded]]:
    """The log from a position on, in batches, until its end or `until`."""
    while events := log.read(after, BATCH, until):
        yield events
        after = events[-1].position


def mark_at(log: EventLog, position: int) -> str:
    """Which event the log has at that position, for `ViewStore.prepare`; '-' when there is none."""
    found = log.read_raw(position - 1, 1, position)
    return mark_of_raw(found[0]) if found else "-"
