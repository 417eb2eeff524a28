"""Runs that were asked for with a delay: dispatched when their time has come."""

import asyncio
import heapq
from collections.abc import Callable
from uuid import UUID

from contracts.events import RunRequested
from contracts.ledger import Meta, Transaction
from domain.lane import Lane, lane_id_of, lane_of
from domain.requests import release
from domain.run import Run, run_of
from services.kit.clock import Clock
from services.kit.commands import execute
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Supervised
from services.kit.views import Views

POLL_S = 0.25
PAGE = 1000
SURE_S = 0.001
"""So much later, lest rounding makes an instant look as if it had come."""
WAITING = "SELECT run_id, not_before FROM runs WHERE phase = 'pending' AND dispatched = 0 AND not_before > 0"


class DelayedRuns:
    """Follows the log for delayed runs. Two of them on one log are harmless: a run is dispatched once.

    A run whose time has come and whose lane is busy is dispatched by whoever settles the run before it.
    """

    def __init__(self, log: EventLog, views: Views, clock: Clock) -> None:
        self._log, self._views, self._clock = log, views, clock
        self._waiting: list[tuple[float, bytes]] = []
        self._position = 0
        self._wake = asyncio.Event()
        self._loop = Supervised("scheduler.delayed", self._step)
        self._unsubscribe: Callable[[], None] | None = None

    async def start(self) -> None:
        """Take over what waits, then follow; twice is harmless."""
        if self._unsubscribe is not None:
            return
        self._unsubscribe = self._log.on_commit(lambda _: self._wake.set())
        self._position = self._log.head()
        while self._views.position("runs") < self._position:  # noqa: ASYNC110 - another process may project
            await asyncio.sleep(0.01)
        rows = self._views.all(WAITING)
        self._waiting = [(row["not_before"] / 1_000_000 + SURE_S, row["run_id"]) for row in rows]
        heapq.heapify(self._waiting)
        await self._loop.start()

    async def stop(self) -> None:
        """End; safe twice and unstarted."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
            await self._loop.stop()

    async def _step(self) -> None:
        self._wake.clear()
        self._follow()
        while self._waiting and self._waiting[0][0] <= self._clock.wall_s():
            await self._release(UUID(bytes=self._waiting[0][1]))
            heapq.heappop(self._waiting)  # only now: after an error it is tried again
        pause_s = POLL_S
        if self._waiting:
            pause_s = min(pause_s, max(0.0, self._waiting[0][0] - self._clock.wall_s()))
        await self._clock.wait(self._wake, pause_s)

    def _follow(self) -> None:
        head = self._log.head()
        while self._position < head:
            events = self._log.read_topics("run.requested", self._position, head, PAGE)
            for recorded in events:
                body = recorded.body
                if isinstance(body, RunRequested) and body.not_before is not None:
                    heapq.heappush(
                        self._waiting, (body.not_before.timestamp() + SURE_S, recorded.stream_id.bytes)
                    )
            self._position = events[-1].position if len(events) == PAGE else head

    async def _release(self, run_id: UUID) -> None:
        def decide() -> Transaction | None:
            run = run_of(run_id, self._log.stream(run_id))
            if run is None or not run.is_active or run.dispatched:
                return None
            meta = Meta(at=self._clock.now(), actor="scheduler", cause=f"{run_id}.1", corr=str(run_id))
            return release(run, self._lane(run), meta.at).by(meta)

        await execute(self._log, decide, attempts=20)

    def _lane(self, run: Run) -> Lane:
        thread_id = run.request.thread_id
        lane_id = lane_id_of(thread_id)
        return lane_of(thread_id, self._log.newest([lane_id]).get(lane_id))
