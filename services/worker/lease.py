"""A worker's sign of life: one lease for all its runs."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from contracts.subjects import DEFAULT_POOL
from services.kit.clock import Clock
from services.kit.eventlog import EventLog, LeaseRow
from services.kit.mendable import naming
from services.kit.reads import read
from services.kit.tenure import MARGIN

PREFIX = "worker."
ID = re.compile(r"w-(?:(?P<pool>.+)-)?[0-9a-f]{12}")


def worker_id_of(pool: str) -> str:
    """An id for a new worker of the pool, whose name it bears unless it is the default one."""
    return f"w-{uuid4().hex[:12]}" if pool == DEFAULT_POOL else f"w-{pool}-{uuid4().hex[:12]}"


def pool_of(worker: str) -> str:
    """The pool of a worker, by its id."""
    found = ID.fullmatch(worker)
    return DEFAULT_POOL if found is None else found["pool"] or DEFAULT_POOL


def live_workers(log: EventLog) -> frozenset[str]:
    """The ids of those that nobody may call dead."""
    now = log.clock()
    return frozenset(row.holder for row in log.leases(PREFIX) if row.until > now)


def lease_name(worker: str) -> str:
    """The name of a worker's lease."""
    return PREFIX + worker


def live_until(log: EventLog, worker: str) -> float | None:
    """Seconds for which the worker's lease is alive still; None when it has none or it has expired."""
    name = lease_name(worker)
    row = next((row for row in log.leases(name) if row.name == name), None)
    return rest_s(log, row)


def rest_s(log: EventLog, row: LeaseRow | None) -> float | None:
    """Seconds that are left of a lease on the store's clock; None when nothing is."""
    if row is None:
        return None
    left = (row.until - log.clock()).total_seconds()
    return left if left > 0 else None


async def void_leases(log: EventLog, prefix: str) -> int:
    """End the leases whose name starts so; how many there were.

    For a process that knows that their holders are dead, because it has the data folder for itself now.
    """
    rows = await read(log, lambda: log.leases(prefix))
    for row in rows:
        await log.renew_lease(row.name, row.holder, 0)
    return len(rows)


def void_claims(path: Path, head: int) -> int:
    """Let go of the threads that were claimed at positions which the log does not have; how many there were.

    A ledger that was restored from a backup gives out these positions once more, and whoever claims a thread
    with one would be refused as somebody late. For a process that knows that nobody else runs graphs: on PostgreSQL
    each claim looks at the head instead (`graphs_claims.sql`).
    """
    if not path.exists():
        return 0
    with naming(path), closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'cronledger_claims'").fetchall():
            return 0
        # One more than the head: what is undone is claimed with one more than its run.
        return db.execute("DELETE FROM cronledger_claims WHERE token > ?", (head + 1,)).rowcount


class WorkerLease:
    """The lease of one worker; `held` counts on the monotonic clock from before each renewal was asked for."""

    def __init__(self, log: EventLog, clock: Clock, worker: str, ttl_s: float) -> None:
        self._log = log
        self._clock = clock
        self._worker = worker
        self._ttl_s = ttl_s
        self._until_s = float("-inf")
        self._renewed = asyncio.Event()
        self._asked = set[asyncio.Task[None]]()

    @property
    def held(self) -> bool:
        """True while nobody may call this worker dead."""
        return self._clock.monotonic_s() < self._until_s

    async def renew(self) -> None:
        """Take or renew it. Raises LogUnavailable."""
        asked_s = self._clock.monotonic_s()
        row = await self._log.renew_lease(lease_name(self._worker), self._worker, self._ttl_s)
        if row is not None:
            self._until_s = max(self._until_s, asked_s + self._ttl_s * MARGIN)
            self._renewed.set()

    async def ask(self, patience_s: float) -> None:
        """Ask for a renewal, and wait so long for it; one that comes later counts, too, while its lease goes on.

        A log that is slow is not one that is gone: a renewal that was cancelled for being late would be stored all
        the same, and the next one would stand behind it. Raises LogUnavailable, TimeoutError when it is not held.
        """
        asking = asyncio.create_task(self._renew_in_time())
        self._asked.add(asking)
        asking.add_done_callback(self._answered)
        await asyncio.wait({asking}, timeout=patience_s)
        if asking.done():
            asking.result()
        elif not self.held:
            raise TimeoutError(f"the lease is not renewed within {patience_s:.1f} s")

    async def cease(self) -> None:
        """Wait for no renewal any more; safe when none was asked for."""
        for asking in self._asked:
            asking.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)

    async def _renew_in_time(self) -> None:
        async with asyncio.timeout(self._ttl_s * MARGIN):
            await self.renew()

    def _answered(self, asking: "asyncio.Task[None]") -> None:
        self._asked.discard(asking)
        if not asking.cancelled():
            asking.exception()  # whoever waited has it; else the next one fails as well, or it does not matter

    async def wait_held(self) -> None:
        """Wait until it is held: a claim without it would be void at once."""
        while not self.held:
            self._renewed.clear()
            await self._clock.wait(self._renewed, self._ttl_s)

    async def release(self) -> None:
        """Give it up, so that others need not wait for its end. Safe when it is not held."""
        self._until_s = float("-inf")
        await self._log.renew_lease(lease_name(self._worker), self._worker, 0)
