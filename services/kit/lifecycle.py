"""Parts that live long: started and stopped in order, their loops supervised."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol


class Part(Protocol):
    """Something with a life: a thread, a loop, a pool, a child process, a connection, or a whole of these.

    `start` and `stop` are safe twice, and `stop` is safe unstarted. Nothing that lives is not a part, so that
    health is read off the parts and nobody has to remember a list.
    """

    @property
    def name(self) -> str:
        """Dotted, lower case: `worker.heartbeat`."""
        ...

    @property
    def parts(self) -> Sequence["Part"]:
        """What it consists of, in the order of their start; empty for one that stands for itself."""
        ...

    @property
    def started(self) -> bool:
        """True from when it does its work until it is stopped."""
        ...

    @property
    def failing(self) -> str:
        """Why it is not well, for whoever operates it; '' when it is."""
        ...

    async def start(self) -> object:
        """Return when it does its work; raises when it can't, and then holds nothing."""
        ...

    async def stop(self) -> None:
        """Return when it holds nothing any more, within a bounded time, whatever hangs."""
        ...


def health(parts: Sequence[Part]) -> dict[str, str]:
    """Name -> '' or why it is not well, of the parts and all that they consist of."""
    told: dict[str, str] = {}
    for part in parts:
        told[part.name] = part.failing or ("" if part.started else "not started")
        told |= health(part.parts)
    return told


class Whole:
    """A part that consists of others: started in order, stopped newest first. It is well when they are."""

    def __init__(self, name: str, parts: Sequence["Part"] = ()) -> None:
        self.name = name
        self.parts: list[Part] = list(parts)
        self._begun: list[Part] = []
        self._log = logging.getLogger(f"cronledger.{name}")
        self.started = False

    @property
    def failing(self) -> str:
        """'' : those of its parts that are not well say so themselves."""
        return ""

    async def start(self) -> None:
        """Start what is not started; when one can't be, those before it are stopped again."""
        if self.started:
            return
        try:
            for part in self.parts:
                self._begun.append(part)
                await part.start()
        except BaseException:
            await self.stop()
            raise
        self.started = True

    async def stop(self) -> None:
        """Stop them, newest first; one that can't be stopped does not keep the others."""
        self.started = False
        while self._begun:
            part = self._begun.pop()
            try:
                async with asyncio.timeout(STOP_S):
                    await part.stop()
            except Exception as exc:
                self._log.error("%s.not_stopped part=%s error=%r", self.name, part.name, exc)


STOP_S = 8.0
"""How long a part may take to stop; the whole server has ten seconds."""
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
        self.name = name
        self.parts: Sequence[Part] = ()
        self._step = step
        self._most_s = most_s
        self._task: asyncio.Task[None] | None = None
        self.failing = ""

    @property
    def started(self) -> bool:
        """True while the loop goes round."""
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Begin; twice is harmless."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self.name)

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
            self._log.exception("%s.failed", self.name)
        else:
            self._log.warning("%s.failed_again failures=%d error=%s", self.name, failures, self.failing)

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
