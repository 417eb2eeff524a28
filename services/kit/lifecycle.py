"""Parts that live long: started and stopped in order, their loops supervised."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec
from tenacity import wait_random_exponential

from contracts.codec import UnknownTopic
from services.kit.logs import Log
from services.kit.retries import pause_s

FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    UnknownTopic,
    msgspec.MsgspecError,
)
"""What our code raises over one thing that it can't digest. Edges raise others (OSError, sqlite3.Error, ...).

A loop that works for many passes such a thing over alone, tells of it, and tries it again: it must not keep the
others from their turn, as a failing edge does.
"""
STOP_S = 6.0
"""How long one part may take to stop."""
ALL_STOP_S = 7.0
LEAST_STOP_S = 0.2
"""What each of the others still has when those before it took all the time; the process has ten seconds."""
AGAIN_S = 1.0
LOOK_S = 1.0


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


@runtime_checkable
class Noting(Protocol):
    """A part that can be well and have something to say all the same: what users' code does is no fault of ours."""

    @property
    def notice(self) -> str:
        """What an operator should know, '' without anything."""
        ...


def notices(parts: Sequence[Part]) -> dict[str, str]:
    """Name -> notice, of the parts that have one."""
    told = {part.name: part.notice for part in parts if isinstance(part, Noting) and part.notice}
    for part in parts:
        told |= notices(part.parts)
    return told


class Whole:
    """A part that consists of others: started in order, stopped newest first. It is well when they are."""

    def __init__(self, name: str, parts: Sequence["Part"] = ()) -> None:
        self.name = name
        self.parts: list[Part] = list(parts)
        self._begun: list[Part] = []
        self._log = Log(name)
        self.started = False
        self.stopping: list[str] = []
        """Names of the parts that were told to stop and have not yet."""

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
        until = time.monotonic() + ALL_STOP_S
        while self._begun:
            part = self._begun.pop()
            self.stopping.append(part.name)
            try:
                await _stopped(part, max(LEAST_STOP_S, min(STOP_S, until - time.monotonic())))
                self.stopping.remove(part.name)
            except Exception as exc:
                self._log.error(f"{self.name}.not_stopped", part=part.name, error=exc)

    async def ended(self) -> str:
        """Wait until a part has ended though nobody stopped it; which, and why."""
        while not self.started or (part := _dead(self.parts)) is None:  # noqa: ASYNC110 - threads die silently
            await asyncio.sleep(LOOK_S)
        return f"{part.name} has ended: {part.failing or 'it does not say why'}"


async def _stopped(part: Part, within_s: float) -> None:
    """Stop it. Raises TimeoutError, even when it does not care for being cancelled, and whatever its stop raises."""
    stopping = asyncio.create_task(part.stop())
    try:
        await asyncio.wait({stopping}, timeout=within_s)
        if not stopping.done():
            raise TimeoutError(f"not within {within_s:.1f} s")
        if stopping.cancelled():
            raise InterruptedError("what it waited for was cancelled")
        stopping.result()
    finally:
        stopping.cancel()


class Step:
    """A part that is done once, when it is its turn to start, and undone when it is its turn to stop."""

    def __init__(
        self,
        name: str,
        do: Callable[[], Awaitable[object]],
        undo: Callable[[], object] = lambda: None,
    ) -> None:
        self.name, self._do, self._undo = name, do, undo
        self.parts: Sequence[Part] = ()
        self.started, self.failing = False, ""

    async def start(self) -> None:
        """Do it; raises what that raises."""
        if not self.started:
            await self._do()
            self.started = True

    async def stop(self) -> None:
        """Undo it; safe twice and when it was not done to its end."""
        self.started = False
        self._undo()


def _dead(parts: Sequence[Part]) -> Part | None:
    """The first that should live and does not: a part of a whole, or a loop or thread of any part.

    Other parts of parts (a child process, say) end and are replaced by whoever owns them.
    """
    for part in parts:
        if not part.started:
            return part
        kept = [p for p in part.parts if isinstance(part, Whole) or isinstance(p, Loop | Whole)]
        if (found := _dead(kept)) is not None:
            return found
    return None


async def ended(task: "asyncio.Task[Any]") -> None:
    """Cancel the task and wait until it has ended.

    Asked again and again: in 3.11 a cancellation that comes at the same time as what a `wait_for` waits for is
    lost, and the client of the bus is full of these.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)


class NotYet(Exception):
    """What a step waits for is not there, and comes by itself: no fault of anybody."""


class Loop:
    """What every endless loop has: a name, and how its steps went."""

    def __init__(self, name: str, most_s: float) -> None:
        self._log = Log(name)
        self.name = name
        self.parts: Sequence[Part] = ()
        self.failing = ""
        self._wait = wait_random_exponential(multiplier=0.1, max=most_s, min=min(0.05, most_s))
        self._failures = 0

    def _well(self) -> None:
        self._failures, self.failing = 0, ""

    def _failed(self, exc: BaseException) -> float:
        """Tell of a failed step; the seconds until the next one."""
        self._failures += 1
        self.failing = f"{type(exc).__name__}: {exc}"
        if isinstance(exc, NotYet):
            self._log.info(f"{self.name}.waits", failures=self._failures, why=exc)
        elif self._failures == 1:
            self._log.error(f"{self.name}.failed", exc)
        else:
            self._log.warning(f"{self.name}.failed_again", failures=self._failures, error=self.failing)
        return pause_s(self._wait, self._failures)


class Supervised(Loop):
    """One endless loop of a service: an error of an edge is logged once, and tried again with a back-off.

    This and its sister for threads are the places that catch every exception. `step` is called again and
    again; it waits by itself.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[None]], most_s: float = 5.0) -> None:
        super().__init__(name, most_s)
        self._step = step
        self._task: asyncio.Task[None] | None = None

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
        while True:
            try:
                await self._step()
                self._well()
            except (Exception, asyncio.CancelledError) as exc:
                if _is_told_to_end(exc):
                    raise
                await asyncio.sleep(self._failed(exc))


def _is_told_to_end(exc: BaseException) -> bool:
    """Whether the task itself was cancelled, and not only something that it waited for."""
    task = asyncio.current_task()
    return isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class SupervisedThread(Loop):
    """The same for a step that blocks, in a thread of its own: `step` waits for work by itself, and `wake` ends
    that wait. `done` is called in the thread when it ends.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], None],
        wake: Callable[[], None],
        done: Callable[[], None],
        most_s: float = 5.0,
    ) -> None:
        super().__init__(name, most_s)
        self._step, self._wake, self._done = step, wake, done
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """True while the thread lives and nobody has asked it to end."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping.is_set()

    @property
    def stopping(self) -> bool:
        """True when the step should come to its end."""
        return self._stopping.is_set()

    async def start(self) -> None:
        """Begin; twice is harmless."""
        if self._thread is not None:
            return
        self._stopping.clear()
        self._loop, self._gone = asyncio.get_running_loop(), asyncio.Event()
        # A daemon: one that hangs in the kernel must not keep the process.
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Let the step come to its end; safe unstarted. Raises TimeoutError when it hangs."""
        if self._thread is None:
            return
        self._stopping.set()
        self._wake()
        async with asyncio.timeout(STOP_S):
            await self._gone.wait()
        self._thread = None

    def _run(self) -> None:
        try:
            while not self.stopping:
                try:
                    self._step()
                    self._well()
                except Exception as exc:
                    self._stopping.wait(self._failed(exc))
        finally:
            try:
                self._done()
            finally:
                if not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._gone.set)


class Background:
    """Work that outlives whoever began it; `stop` waits for it a while."""

    def __init__(self, name: str) -> None:
        self._log = Log(name)
        self.name = name
        self.parts: Sequence[Part] = ()
        self.started, self.failing = False, ""
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it, whoever goes away meanwhile; what it raises is logged."""
        task = asyncio.create_task(work, name=self.name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def start(self) -> None:
        """There is nothing to begin."""
        self.started = True

    async def stop(self) -> None:
        """Wait until all of it is done, for at most half of a part's time; the rest is cancelled."""
        self.started = False
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_S / 2)
            await asyncio.gather(*(ended(task) for task in late))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._log.error(f"{self.name}.failed", exc)
