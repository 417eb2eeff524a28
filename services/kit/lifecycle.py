"""Parts that live long: started and stopped in order, their loops supervised."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol


class Part(Protocol):
    """Something with a life. Both methods are safe twice, and `stop` is safe unstarted."""

    async def start(self) -> object: ...

    async def stop(self) -> None: ...


AGAIN_S = 1.0


async def ended(task: "asyncio.Task[Any]") -> None:
    """Cancel the task and wait until it has ended.

    Asked again and again: in 3.11 a cancellation that comes at the same time as what a `wait_for` waits for is
    lost, and the client of the bus is full of these.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)


class Supervised:
    """One endless loop of a service: an error of an edge is logged once, and tried again with a back-off.

    This is the one place that catches every exception. `step` is called again and again; it waits by itself.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[None]], most_s: float = 5.0) -> None:
        self._log = logging.getLogger(f"cronledger.{name}")
        self._name = name
        self._step = step
        self._most_s = most_s
        self._task: asyncio.Task[None] | None = None
        self.failing = ""

    async def start(self) -> None:
        """Begin; twice is harmless."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """End it and wait until it has ended; safe unstarted."""
        task, self._task = self._task, None
        if task is not None:
            await ended(task)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._step()
                failures, self.failing = 0, ""
            except asyncio.CancelledError:
                raise
            except Exception as exc:
                failures += 1
                self._report(exc, failures)
                await asyncio.sleep(self._back_off_s(failures))

    def _report(self, exc: Exception, failures: int) -> None:
        self.failing = f"{type(exc).__name__}: {exc}"
        if failures == 1:
            self._log.exception("%s.failed", self._name)
        else:
            self._log.warning("%s.failed_again failures=%d error=%s", self._name, failures, self.failing)

    def _back_off_s(self, failures: int) -> float:
        longest_s = min(self._most_s, 0.05 * 2.0 ** min(failures, 10))
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311


class Background:
    """Work that outlives whoever began it; `stop` waits for it."""

    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(f"cronledger.{name}")
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it, whoever goes away meanwhile; what it raises is logged."""
        task = asyncio.create_task(work, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def start(self) -> None:
        """There is nothing to begin."""

    async def stop(self) -> None:
        """Wait until all of it is done."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._log.error("%s.failed", self._name, exc_info=exc)
