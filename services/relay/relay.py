"""The relay: what the log says, on NATS. Everything on NATS can be made again from the log by it."""

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID, uuid4

import msgspec

from contracts.events import RunCancelRequested, RunDispatched, RunReleased, RunRequested, ThreadDeleted
from contracts.ledger import Recorded
from contracts.subjects import (
    CHORES,
    DEFAULT_POOL,
    LEDGER,
    NORMAL,
    RUNS,
    run_cancel_subject,
    run_queue_subject,
)
from contracts.work import Chore, RunDue
from services.kit.bus.nats import NatsBus
from services.kit.bus.ordered import OrderedPublisher
from services.kit.bus.work import WorkQueue
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Supervised
from services.kit.views import Views
from services.relay.outgoing import outgoing

POLL_S = 0.25
PAGE = 500
AT_ONCE = 64
SWEEP_S = 5.0
FORGOTTEN_S = 60
"""A run that nobody claimed for so long is put on the queue again; a double is harmless."""
PREFIX = "worker."
WAITING = """
SELECT run_id, version FROM runs
WHERE phase = 'pending' AND dispatched = 1 AND updated_at < ? ORDER BY updated_at
"""
RUNNING = "SELECT run_id, version, worker FROM runs WHERE phase = 'running'"
log_ = logging.getLogger("cronledger.relay")


class Relay:
    """Three followers: the ledger for subscribers, work and stops for workers, a look at what was forgotten."""

    def __init__(self, log: EventLog, views: Views, bus: NatsBus, clock: Clock) -> None:
        self._log, self._views, self._bus, self._clock = log, views, bus, clock
        self._ledger = OrderedPublisher(bus, LEDGER.name, "ledger.>")
        self._queue = WorkQueue(bus, RUNS.name)
        self._source = "/cronledger"
        self._published: int | None = None  # position of the stream's newest message, None = not known
        self._dispatched = 0
        self._swept: dict[bytes, float] = {}
        self._news = (asyncio.Event(), asyncio.Event())
        self._unsubscribe: Callable[[], None] | None = None
        self._loops = [
            Supervised("relay.ledger", self._publish),
            Supervised("relay.runs", self._dispatch),
            Supervised("relay.sweep", self._sweep_again),
        ]

    async def start(self) -> None:
        """Put on the queue what is due since long ago, then follow; twice is harmless."""
        if self._unsubscribe is not None:
            return
        self._unsubscribe = self._log.on_commit(self._wake)
        self._dispatched = self._log.head()
        await self._sweep(0)
        for loop in self._loops:
            await loop.start()

    async def stop(self) -> None:
        """End; safe twice and unstarted."""
        if self._unsubscribe is None:
            return
        self._unsubscribe()
        self._unsubscribe = None
        for loop in self._loops:
            await loop.stop()

    def _wake(self, _: int) -> None:
        for event in self._news:
            event.set()

    # --- the ledger -------------------------------------------------------------------------------

    async def _publish(self) -> None:
        if self._published is None:
            self._published, _ = await self._ledger.resync()
        event = self._news[0]
        event.clear()
        raws = self._log.read_raw(self._published, PAGE)
        if not raws:
            await self._clock.wait(event, POLL_S)
            return
        try:
            done = await self._ledger.publish([outgoing(raw, self._source) for raw in raws])
        except (ConnectionError, TimeoutError):
            self._published = None  # whether it was stored is not known: the stream will tell
            raise
        # False: somebody else published meanwhile.
        self._published = raws[-1].position if done else None

    # --- work -------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        event = self._news[1]
        event.clear()
        events = self._log.read(self._dispatched, PAGE)
        if not events:
            await self._clock.wait(event, POLL_S)
            return
        for recorded in events:
            if isinstance(recorded.body, RunCancelRequested):
                # A hint to whoever has the run; it looks at the log at each heartbeat too.
                await self._bus.publish(run_cancel_subject(recorded.stream_id), b"")
        work = [item for recorded in events if (item := _work_of(recorded)) is not None]
        # Ids of two minutes make a repeat after a failure harmless; after that, the claim does.
        for start in range(0, len(work), AT_ONCE):
            await asyncio.gather(*(self._queue.put(*item) for item in work[start : start + AT_ONCE]))
        self._dispatched = events[-1].position

    async def _sweep_again(self) -> None:
        await asyncio.sleep(SWEEP_S)
        await self._sweep(FORGOTTEN_S)

    async def _sweep(self, older_than_s: int) -> None:
        """Queue runs that should be claimed and are not: nobody took them, or whoever did is gone."""
        now = self._clock.wall_s()
        self._swept = {run_id: at for run_id, at in self._swept.items() if now - at < FORGOTTEN_S}
        clock = self._log.clock()
        alive = {row.name.removeprefix(PREFIX) for row in self._log.leases(PREFIX) if row.until > clock}
        rows = self._views.all(WAITING, (int((now - older_than_s) * 1_000_000),))
        rows += [row for row in self._views.all(RUNNING) if row["worker"] not in alive]
        fresh = [row for row in rows if row["run_id"] not in self._swept]
        round_id = uuid4().hex[:8]
        for start in range(0, len(fresh), AT_ONCE):
            part = fresh[start : start + AT_ONCE]
            await asyncio.gather(*(self._put_again(row["run_id"], row["version"], round_id) for row in part))
            self._swept |= {row["run_id"]: now for row in part}
        if fresh:
            log_.info("relay.swept runs=%d", len(fresh))

    async def _put_again(self, run_id: bytes, version: int, round_id: str) -> None:
        due = RunDue(UUID(bytes=run_id))
        subject = run_queue_subject(DEFAULT_POOL, NORMAL)
        await self._queue.put(subject, msgspec.json.encode(due), f"{due.run_id}.{version}.{round_id}")


def _work_of(recorded: Recorded) -> tuple[str, bytes, str] | None:
    """(subject, message, id) of what the event makes due; None when it makes nothing due."""
    stream_id, message_id = recorded.stream_id, f"{recorded.stream_id}.{recorded.version}"
    match recorded.body:
        case RunRequested(waits=False) | RunDispatched() | RunReleased():
            return run_queue_subject(DEFAULT_POOL, NORMAL), msgspec.json.encode(RunDue(stream_id)), message_id
        case ThreadDeleted():
            chore = msgspec.json.encode(Chore(forget_thread=stream_id))
            return run_queue_subject(DEFAULT_POOL, CHORES), chore, message_id
        case _:
            return None
