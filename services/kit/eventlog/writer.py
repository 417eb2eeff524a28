"""Group commit: one thread writes; what queued up during one commit is the next one."""

import asyncio
import queue
import time
from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

from services.kit.eventlog import LogUnavailable
from services.kit.eventlog.recorder import Committing, WorkFailed
from services.kit.lifecycle import SupervisedThread

MOST_WORKS = 512
"""Pieces of work in one commit at most, so that nobody waits for an endless batch."""
MOST_WAITING = 10_000
"""Pieces of work that wait at most: a disk that hangs must not fill the memory."""
ANSWER_S = 10.0
"""After so long nobody waits any more for a commit that does not come back."""
STUCK_S = 2.0


class _Asked(NamedTuple):
    """A piece of work, who waits for it, and until when."""

    work: Any
    future: asyncio.Future[Any]
    until: float


class GroupWriter(SupervisedThread):
    """What writes, its thread, and the queue in front of it: a part.

    If a piece of work raises, it alone is not stored.
    """

    def __init__(
        self,
        committing: Committing,
        committed: Callable[[list[Any]], None],
        answer_s: float = ANSWER_S,
    ) -> None:
        self._told = ""
        super().__init__("log.writer", self._write, self._nudge, self._finish, most_s=1.0)
        self._committing, self._committed, self._answer_s = committing, committed, answer_s
        self._queue: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._waiting: deque[_Asked] = deque()  # in the order of the queue
        self._look: asyncio.TimerHandle | None = None
        self._began: float | None = None
        self._broken: BaseException | None = None
        self._is_open = False

    @property
    def failing(self) -> str:
        """Why it is not well: what the last commit said, or that one does not come back; '' when it is."""
        began = self._began
        if began is not None and (for_s := time.monotonic() - began) > STUCK_S:
            return f"a commit has been under way for {for_s:.0f} s"
        return self._told

    @failing.setter
    def failing(self, why: str) -> None:
        self._told = why

    async def start(self) -> None:
        """Open the database and begin; raises what opening raises."""
        if not self._is_open:
            await asyncio.to_thread(self._committing.open)
        await super().start()
        self._is_open = True

    async def stop(self) -> None:
        """Write what is queued, and close. Raises TimeoutError when the disk hangs."""
        self._is_open = False
        await super().stop()

    async def do(self, work: Any) -> Any:
        """The result of the work, once it is durable. Raises LogUnavailable."""
        if not self._is_open:
            raise LogUnavailable("the log is closed")
        if len(self._waiting) >= MOST_WAITING:
            raise LogUnavailable(f"{MOST_WAITING} transactions wait to be written: nothing more is taken")
        asked = _Asked(work, self._loop.create_future(), time.monotonic() + self._answer_s)
        self._waiting.append(asked)
        self._queue.put(asked)
        # One clock for all: a time-out of its own for each would cost a tenth of the whole append.
        if self._look is None:
            self._look = self._loop.call_later(self._answer_s / 10, self._give_up)
        return await asked.future

    def _give_up(self) -> None:
        """Let those go that have waited too long."""
        self._look = self._loop.call_later(self._answer_s / 10, self._give_up) if self._waiting else None
        now = time.monotonic()
        for asked in takewhile(lambda asked: asked.until <= now, self._waiting):
            if not asked.future.done():
                told = f"no answer of the ledger in {self._answer_s:g} s; whether it was stored is not known"
                asked.future.set_exception(LogUnavailable(told))

    def _nudge(self) -> None:
        self._queue.put(None)

    def _write(self) -> None:
        batch = self._next_batch()
        if not batch:
            return
        self._began, self._broken = time.monotonic(), None
        results: list[Any] = [LogUnavailable("the log's writer has failed")] * len(batch)
        try:
            # Nobody waits for those that were given up: to store them now would only surprise.
            results = self._stored([None if asked.future.done() else asked.work for asked in batch])
        finally:
            self._began = None
            self._loop.call_soon_threadsafe(self._resolve, [asked.future for asked in batch], results)
        if self._broken is not None:
            raise self._broken

    def _next_batch(self) -> list[_Asked]:
        batch: list[_Asked] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) == MOST_WORKS:
                return batch
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch
        return batch

    def _stored(self, works: list[Any]) -> list[Any]:
        """Results in the same order, LogUnavailable for what was not stored or may not have been."""
        try:
            return self._committing.commit(works)
        except WorkFailed as exc:
            self._committing.recover()
            if len(works) == 1:
                if exc.is_edge:
                    self._broken = exc.__cause__
                return [_unavailable(exc.__cause__)]
        except Exception as exc:
            # Not again: a commit that failed may have been stored all the same.
            self._committing.recover()
            self._broken = exc
            return [_unavailable(exc)] * len(works)
        # One of them can't be stored, and the others must not suffer for it.
        return [self._stored([work])[0] for work in works]

    def _finish(self) -> None:
        """Write what is queued, then end."""
        while not self._queue.empty():
            try:
                self._write()
            except Exception as exc:
                self._log.error("log.not_written", error=exc)
        self._committing.close()

    def _resolve(self, futures: list[asyncio.Future[Any]], results: list[Any]) -> None:
        for future, result in zip(futures, results, strict=True):
            self._waiting.popleft()
            if future.done():  # whoever asked has gone away; what is stored stays stored
                continue
            if isinstance(result, LogUnavailable):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._committed(results)


def _unavailable(exc: BaseException | None) -> LogUnavailable:
    return LogUnavailable(f"the ledger could not be written: {exc}")
