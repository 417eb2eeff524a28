"""Time from outside: wall clock, monotonic clock, waiting. Give a clock rather than sleep."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from; a test moves its own."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC, microseconds."""
        ...

    def wall_s(self) -> float:
        """The wall clock in seconds since the epoch."""
        ...

    def monotonic_s(self) -> float:
        """A clock in seconds that only goes forward and that nobody sets."""
        ...

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """True when the event was set in time, False when the time is over."""
        ...


class SystemClock:
    """The host's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wall_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        try:
            # Not wait_for: in 3.11 it can swallow a cancellation that comes with its time-out.
            async with asyncio.timeout(max(timeout_s, 0.0)):
                await event.wait()
        except TimeoutError:
            return False
        return True
