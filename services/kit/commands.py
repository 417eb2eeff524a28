"""Load, decide, append; and once more when somebody was quicker."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from itertools import count

from tenacity import wait_random_exponential

from contracts.ledger import Transaction
from services.kit.eventlog import EventLog, WrongExpectedVersion
from services.kit.retries import pause_s

PATIENCE_S = 10.0
"""Commands of one process queue for an object (KeyedLocks), those of several collide: on a thread for which all
of them have work, each is beaten in every second attempt.
"""
COLLIDED = wait_random_exponential(multiplier=0.002, max=0.5)


class Conflict(Exception):
    """Others changed the same object again and again; the command was not carried out."""


async def execute(
    log: EventLog, decide: Callable[[], Awaitable[Transaction | None]], *, attempts: int = 8
) -> int | None:
    """The position of what was decided; None when there was nothing to do.

    `decide` reads the state that it needs by itself, each time anew. It is tried so often, and for PATIENCE_S.
    Raises Conflict, LogUnavailable and whatever `decide` refuses.
    """
    until_s = time.monotonic() + PATIENCE_S
    for attempt in count(1):
        if attempt > attempts and time.monotonic() > until_s:
            break
        tx = await decide()
        if tx is None or not tx.appends:
            return None
        try:
            return await log.append(tx)
        except WrongExpectedVersion:
            await asyncio.sleep(pause_s(COLLIDED, attempt))
    raise Conflict("The object was changed by others at the same time; try again.")


class KeyedLocks:
    """A lock per key, so that commands on one object queue here instead of colliding in the log."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._users: dict[Hashable, int] = {}

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the key's lock; the entry is dropped when nobody uses it."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
