"""Who of several does a work that one is enough for: whoever holds its lease in the log."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from services.kit.clock import Clock
from services.kit.eventlog import EventLog, LeaseRow
from services.kit.lifecycle import Part, Supervised, Whole
from services.kit.reads import read

RENEWALS = 3
"""In the time of a lease, by who holds it."""
MARGIN = 0.9
"""Part of the lease's time that its holder trusts: clocks of two hosts do not run alike."""
LOOK_S = 0.25
"""How often the others look whether it is free: so long after an end in order is nobody at work."""
FORGOTTEN_S = 60.0
"""After so long nobody remembers that a process has died: each has a name of its own, so that they would add up."""
NEVER = float("-inf")


class Tenured:
    """Parts that one process of several runs at a time: started when the lease is its own, stopped when it is not."""

    def __init__(self, tenure: "Tenure", parts: Sequence[Part]) -> None:
        self.name, self.failing = f"{tenure.name}.tenure", ""
        self._tenure, self._whole = tenure, Whole(tenure.name, parts)
        # By itself: a lease is not to end because the parts take long to start.
        self._renewing = Supervised(f"{tenure.name}.lease", tenure.renew, 1.0)
        self._working = Supervised(f"{tenure.name}.work", self._work, 1.0)

    @property
    def parts(self) -> Sequence[Part]:
        """The loops, and what they run, while it is this one that does."""
        loops = (self._renewing, self._working)
        return (*loops, *self._whole.parts) if self._whole.started else loops

    @property
    def started(self) -> bool:
        """True while it works or stands by."""
        return self._working.started

    async def start(self) -> None:
        """Begin to ask for the lease; twice is harmless."""
        await self._renewing.start()
        await self._working.start()

    async def stop(self) -> None:
        """Stop the parts and give the lease back; safe twice and unstarted."""
        await self._renewing.stop()
        await self._working.stop()
        await self._whole.stop()
        await self._tenure.release()

    async def _work(self) -> None:
        is_dead = self._whole.started and not all(part.started for part in self._whole.parts)
        if self._whole.started and (is_dead or not self._tenure.held):
            await self._whole.stop()
        if is_dead:
            raise RuntimeError(f"a part of {self._tenure.name} has ended by itself")
        if self._tenure.held and not self._whole.started:
            await self._whole.start()
        await asyncio.sleep(LOOK_S)


async def living(log: EventLog, prefix: str) -> list[LeaseRow]:
    """The leases whose name begins so and that go on. Those that ended long ago are let go of. Raises LogUnavailable."""
    now, rows = await read(log, lambda: (log.clock(), log.leases(prefix)))
    for row in rows:
        if (now - row.until).total_seconds() > FORGOTTEN_S:
            await log.renew_lease(row.name, row.holder, 0)
    return [row for row in rows if row.until >= now]


class Membership:
    """Those that share a work: each has a lease of its own, and sees whose go on. For economy, as a tenure is."""

    def __init__(self, log: EventLog, clock: Clock, prefix: str, ttl_s: float) -> None:
        self._log, self._prefix = log, f"{prefix}."
        self._tenure = Tenure(log, clock, f"{prefix}.{uuid4().hex[:12]}", ttl_s)
        self._seen: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Ours."""
        return self._tenure.name

    @property
    def members(self) -> tuple[str, ...]:
        """Sorted, with our own name; empty when our lease goes on no longer: who knows what the others do."""
        return self._seen if self._tenure.held else ()

    async def renew(self) -> None:
        """Renew our lease when it is time to, look at the others', and wait: the step of a loop. Raises LogUnavailable."""
        if await self._tenure.is_ours():
            others = await living(self._log, self._prefix)
            self._seen = tuple(sorted({self.name, *(row.name for row in others)}))
        await asyncio.sleep(min(LOOK_S, max(0.01, self._tenure.pause_s)))

    async def release(self) -> None:
        """Leave: the others see it at their next look. Safe when we are no member. Raises LogUnavailable."""
        await self._tenure.release()


class Tenure:
    """A lease that is asked for, renewed while it is held, and given back.

    It is for economy, and never what keeps two from doing the same: between a look at it and what is done then a
    process may stand still for as long as it likes.
    """

    def __init__(self, log: EventLog, clock: Clock, name: str, ttl_s: float) -> None:
        self._log, self._clock, self.name, self._ttl_s = log, clock, name, ttl_s
        self._holder = f"{name}-{uuid4().hex[:12]}"
        self._held_until_s = self._ask_at_s = NEVER

    @property
    def held(self) -> bool:
        """Whether it is ours still, on the monotonic clock from before it was asked for."""
        return self._clock.monotonic_s() < self._held_until_s

    @property
    def pause_s(self) -> float:
        """Seconds until it is to be asked for again."""
        return max(0.0, self._ask_at_s - self._clock.monotonic_s())

    async def is_ours(self) -> bool:
        """Whether it is, asking for it when it is time to. Raises LogUnavailable."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._ask_at_s:
            row = None
            if self.held or await self._is_free():
                row = await self._log.renew_lease(self.name, self._holder, self._ttl_s)
            self._held_until_s = NEVER if row is None else now_s + self._ttl_s * MARGIN
            self._ask_at_s = now_s + (min(LOOK_S, self._ttl_s) if row is None else self._ttl_s / RENEWALS)
        return self.held

    async def renew(self) -> None:
        """Ask for it, and wait until it is to be asked for again: the step of a loop. Raises LogUnavailable."""
        await self.is_ours()
        await asyncio.sleep(max(0.01, self.pause_s))

    async def release(self) -> None:
        """Let another one take it at once; safe when it is not held. Raises LogUnavailable."""
        if self._held_until_s > NEVER:
            self._held_until_s = self._ask_at_s = NEVER
            await self._log.renew_lease(self.name, self._holder, 0)

    async def _is_free(self) -> bool:
        """A look before the write: the others look often."""

        def free() -> bool:
            now = self._log.clock()
            rows = [row for row in self._log.leases(self.name) if row.name == self.name]
            return all(row.holder == self._holder or row.until < now for row in rows)

        return await read(self._log, free)
