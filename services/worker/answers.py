"""Answers questions about graphs, states and the store: any worker's child can."""

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from contracts.queries import QUERIES, Forget, ForgetDeleted, GraphQuery, QueryAnswer, QueryFailed, Rollback
from contracts.subjects import DEFAULT_POOL, graph_query_subject
from services.kit.bus import Msg, Subscription
from services.kit.bus.large import answer
from services.kit.bus.nats import NatsBus
from services.kit.eventlog import EventLog
from services.kit.ids import parse_uuid
from services.kit.lifecycle import Part
from services.kit.logs import Log
from services.worker.children import ChildPool
from services.worker.chores import forget_deleted
from services.worker.graph_child import NoAnswer

QUEUE = "graphs"
AT_ONCE = 64
STOP_S = 0.5
"""What is nearly answered may be; who asks the others asks another worker, or hears that there is none."""
ANYBODYS = [query for query in QUERIES if query not in (Forget, Rollback)]
DECODERS = {query.VERB: msgspec.json.Decoder(query) for query in ANYBODYS}
"""What anybody may ask; the others are part of a run's or a thread's end, which the worker sees to."""
log_ = Log("worker")


class Answering:
    """One member of the queue group that answers."""

    def __init__(self, bus: NatsBus, children: ChildPool, log: EventLog, pool: str) -> None:
        self._bus, self._children, self._log = bus, children, log
        self._subjects = [graph_query_subject(pool=pool)]
        if pool != DEFAULT_POOL:  # what is about no graph any worker answers
            others = (query.VERB for query in ANYBODYS if not issubclass(query, GraphQuery))
            self._subjects += map(graph_query_subject, others)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []
        self.name, self.failing = "worker.answering", ""
        self.parts: Sequence[Part] = ()

    @property
    def started(self) -> bool:
        return bool(self._subscriptions)

    async def start(self) -> None:
        """Begin to answer; twice is harmless."""
        for subject in self._subjects[len(self._subscriptions) :]:
            self._subscriptions.append(await self._bus.subscribe(subject, self._on_msg, QUEUE))

    async def stop(self) -> None:
        """Answer what takes no time, then end. Safe unstarted."""
        subscriptions, self._subscriptions = self._subscriptions, []
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(STOP_S):
                for subscription in subscriptions:
                    await subscription.unsubscribe()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in self._tasks:
            task.cancel()

    async def _on_msg(self, msg: Msg) -> None:
        # In a task: messages of a subscription come one after the other, and graphs may take their time.
        task = asyncio.create_task(self._answer(msg))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, msg: Msg) -> None:
        verb = msg.subject.rpartition(".")[2]
        async with self._slots:
            told = await self._told(verb, msg.data)
        try:
            await answer(msg, msgspec.json.encode(told))
        except ConnectionError as exc:
            log_.warning("query.not_answered", verb=verb, error=exc)

    async def _told(self, verb: str, data: bytes) -> QueryAnswer:
        if (decoder := DECODERS.get(verb)) is None:
            return QueryAnswer(failed=QueryFailed("invalid", f"nobody answers '{verb[:50]}'"))
        try:
            # Not the bytes as they came: what is no JSON would end the child, and everybody else's answers with it.
            question = msgspec.Raw(msgspec.json.encode(decoder.decode(data)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return QueryAnswer(failed=QueryFailed("invalid", f"{verb}: {exc}"))
        try:
            if verb == ForgetDeleted.VERB:
                return await self._forgotten(data)
            return QueryAnswer(body=await self._children.ask(verb, question))
        except NoAnswer as exc:
            return QueryAnswer(failed=exc.failed)

    async def _forgotten(self, data: bytes) -> QueryAnswer:
        """A fence is left: somebody is about to use the id again, and nobody of its former life may come back."""
        thread_id = parse_uuid(msgspec.json.decode(data, type=ForgetDeleted).thread_id)
        if thread_id is None:
            return QueryAnswer(failed=QueryFailed("invalid", "thread_id: must be a UUID"))
        await forget_deleted(self._log, self._children.ask, thread_id, fence=True)
        return QueryAnswer(body=msgspec.Raw(b"null"))
