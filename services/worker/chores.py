"""Chores: what has to be done some time, and twice is harmless. Today: forgetting a thread's checkpoints."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec
from tenacity import wait_exponential

from contracts.queries import Forget
from contracts.subjects import CHORES, DEFAULT_POOL, RUNS, run_queue_subject
from contracts.work import Chore
from domain.thread import thread_of
from services.kit.bus.nats import NatsBus
from services.kit.bus.work import Delivery, PullLoop
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Supervised
from services.kit.logs import Log
from services.kit.reads import read
from services.kit.retries import pause_s
from services.worker.graph_child import NoAnswer

AT_ONCE = 4
ACK_WAIT_S = 30.0
NOT_DONE = wait_exponential(multiplier=2.0, max=600.0)
STOP_S = 1.0
Ask = Callable[[str, msgspec.Raw], Awaitable[msgspec.Raw]]
log_ = Log("worker")


class Chores:
    """Does them, a few at a time; `ask` is a child's answer in bounded time. Raises NoAnswer: later, then."""

    def __init__(self, bus: NatsBus, ask: Ask, log: EventLog) -> None:
        self._ask, self._log = ask, log
        subject, name = run_queue_subject(DEFAULT_POOL, CHORES), f"w_{DEFAULT_POOL}_{CHORES}"
        self._queue = PullLoop(bus, RUNS.name, name, subject, AT_ONCE, ACK_WAIT_S)
        self._loop = Supervised("worker.chores", self._take)
        self._doing: set[asyncio.Task[None]] = set()
        self.name, self.parts = self._loop.name, [self._queue]

    @property
    def started(self) -> bool:
        return self._loop.started

    @property
    def failing(self) -> str:
        return self._loop.failing

    async def start(self) -> None:
        """Begin to take them; twice is harmless. Raises ConnectionError."""
        await self._queue.start()
        await self._loop.start()

    async def stop(self) -> None:
        """End, whatever is being done: it comes again. Safe unstarted."""
        await self._loop.stop()
        await self._queue.stop()
        for task in self._doing:
            task.cancel()
        if self._doing:
            await asyncio.wait(self._doing, timeout=STOP_S)

    async def _take(self) -> None:
        delivery = await self._queue.next()
        task = asyncio.create_task(self._do(delivery))
        self._doing.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._doing.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log_.error("chore.broke", exc)  # it comes again

    async def _do(self, delivery: Delivery) -> None:
        try:
            chore = msgspec.json.decode(delivery.data, type=Chore)
        except msgspec.DecodeError:
            await delivery.term("no chore")
            return
        try:
            if chore.forget_thread is not None:
                await forget_deleted(self._log, self._ask, chore.forget_thread)
            await delivery.ack()
        except NoAnswer as exc:
            log_.warning("chore.failed", chore=chore, deliveries=delivery.num_delivered, error=exc)
        finally:
            # Whatever it was: a message without an answer would keep its slot.
            await delivery.nak(pause_s(NOT_DONE, delivery.num_delivered))  # nothing when it is done


async def forget_deleted(log: EventLog, ask: Ask, thread_id: UUID, *, fence: bool = False) -> None:
    """Remove what a deleted thread has left; harmless for one that lives, or lives again. Raises NoAnswer."""

    def look() -> tuple[int, bool]:
        # The position first: when the thread is deleted after it, every claim of a new life is behind it, and
        # a new life that begins after this look is passed over by the child.
        head = log.head()
        return head, thread_of(thread_id, log.newest([thread_id]).values()) is not None

    head, lives = await read(log, look)
    if not lives:
        query = Forget(thread_id=str(thread_id), token=head, fence=fence)
        await ask(query.VERB, msgspec.Raw(msgspec.json.encode(query)))
