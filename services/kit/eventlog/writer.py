"""Group commit: one thread writes; what queued up during one commit is the next one."""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from services.kit.eventlog import LogUnavailable

MOST_WORKS = 512
"""Pieces of work in one commit at most, so that nobody waits for an endless batch."""

Work = Callable[[sqlite3.Connection], Any]
"""Done inside a transaction; its result goes to whoever asked. An exception of it would roll back the batch."""


class GroupWriter:
    """One writing connection, its thread, and the queue in front of it."""

    def __init__(self, connection: sqlite3.Connection, committed: Callable[[], None]) -> None:
        self._connection = connection
        self._committed = committed
        self._queue: queue.SimpleQueue[tuple[Work, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._closed = False
        self._thread.start()

    async def do(self, work: Work) -> Any:
        """The result of the work, once it is durable. Raises LogUnavailable."""
        if self._closed:
            raise LogUnavailable("the log is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put((work, future))
        return await future

    async def close(self) -> None:
        """Write what is queued, then end."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _run(self) -> None:
        while batch := self._next_batch():
            results: list[Any]
            try:
                results = self._commit([work for work, _ in batch])
            except sqlite3.Error as exc:
                self._roll_back()
                results = [LogUnavailable(f"the ledger could not be written: {exc}")] * len(batch)
            futures = [future for _, future in batch]
            self._loop.call_soon_threadsafe(self._resolve, futures, results)

    def _next_batch(self) -> list[tuple[Work, asyncio.Future[Any]]]:
        batch = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) == MOST_WORKS:
                return batch
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._queue.put(None)  # finish these first, then end
        return batch

    def _commit(self, works: list[Work]) -> list[Any]:
        # IMMEDIATE: what the works read is what they write upon.
        self._connection.execute("BEGIN IMMEDIATE")
        results = [work(self._connection) for work in works]
        self._connection.execute("COMMIT")
        return results

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _resolve(self, futures: list[asyncio.Future[Any]], results: list[Any]) -> None:
        for future, result in zip(futures, results, strict=True):
            if future.done():  # whoever asked has gone away; what is stored stays stored
                continue
            if isinstance(result, LogUnavailable):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._committed()
