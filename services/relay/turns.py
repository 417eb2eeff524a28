"""Turns: which run may run now. Each is put on the queue when its turn has come, once."""

import asyncio
import heapq
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import msgspec

from contracts.codec import EventCodec
from contracts.events import (
    AssistantCreated,
    AssistantUpdated,
    AssistantVersionChosen,
    LaneChanged,
    RunCancelRequested,
    RunRequested,
    ThreadDeleted,
)
from contracts.ledger import Body, Recorded
from contracts.subjects import (
    CHORES,
    DEFAULT_POOL,
    NORMAL,
    RUNS,
    run_cancel_subject,
    run_queue_subject,
)
from contracts.work import Chore, RunDue
from domain.lane import lane_id_of
from services.kit.bus.nats import NatsBus
from services.kit.bus.work import WorkQueue
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.follower import Follower, each
from services.kit.queries import named
from services.kit.reads import read
from services.kit.views import Row, Views
from services.registered import Graphs

T = TypeVar("T")
PAGE = 500
AT_ONCE = 64
SWEEP_S = 30.0
"""How often it is looked for what waits and is not on the queue."""
SURE_S = 0.001
"""So much later, lest rounding makes an instant look as if it had come."""
SQL = named(Path(__file__).with_name("queries.sql"))


class Turn(msgspec.Struct, frozen=True, order=True):
    """A run that may run from an instant on, as long as it is the head of its lane."""

    due_s: float  # since the epoch, 0 = at once
    run_id: UUID
    lane_id: UUID | None = None  # None: it is in no lane
    also: UUID | None = None  # the other lane of which it must be the head


class Delayed:
    """Turns that are to come, each run once."""

    def __init__(self) -> None:
        self._heap: list[Turn] = []
        self._runs: set[UUID] = set()

    @property
    def next_s(self) -> float:
        """When the first of them is due, seconds since the epoch; infinity without any."""
        return self._heap[0].due_s if self._heap else float("inf")

    def add(self, turn: Turn) -> None:
        """Remember it; twice is once: a run's instant never changes."""
        if turn.run_id not in self._runs:
            self._runs.add(turn.run_id)
            heapq.heappush(self._heap, turn)

    def pop(self) -> Turn:
        """The first."""
        turn = heapq.heappop(self._heap)
        self._runs.discard(turn.run_id)
        return turn


class Turns:
    """Follows the log for lanes whose head has changed and for runs without one. Two of them are harmless.

    The queue holds one message for each run from its turn on until it is over, so a put is all that can be
    forgotten: the cursor moves after it, and whenever NATS may have lost something, every head is put again.
    """

    def __init__(self, log: EventLog, views: Views, bus: NatsBus, clock: Clock) -> None:
        self._log, self._views, self._bus, self._clock = log, views, bus, clock
        self._queue = WorkQueue(bus, RUNS.name)
        self._codec = EventCodec()
        kinds = (LaneChanged, RunCancelRequested, RunRequested, ThreadDeleted)
        self._topics = self._codec.topics_of(
            *kinds, AssistantCreated, AssistantUpdated, AssistantVersionChosen
        )
        self._graphs = Graphs(log, views)
        self._delayed = Delayed()
        self._position: int | None = None
        self._is_sure = False  # that every head up to the position is on the queue
        self._swept_s = 0.0
        listen = partial(bus.on_reconnect, self._doubt)
        self.part = Follower("relay.runs", log, clock, self._follow, listen)

    def _doubt(self) -> None:
        self._is_sure = False
        self.part.wake()

    async def _follow(self) -> None:
        if not self._is_sure:
            await self._put_all()
        elif self._clock.monotonic_s() - self._swept_s >= SWEEP_S:
            await self._put_lost()
        assert self._position is not None
        await self._put_delayed()
        position = self._position
        raws = await read(self._log, lambda: self._log.read_raw(position, PAGE))
        # Only what is looked at is decoded: neither is what a graph came to, nor what a newer version wrote.
        events = list(each((raw for raw in raws if raw.topic in self._topics), self._codec.to_domain_event))
        await self._hint(events)
        if self._graphs.take(events):
            self._is_sure = False  # what waits for a graph that has moved is on the former pool's queue
        await self._offer(turns_of(events))
        await self._put(chores_of(events))
        if raws:
            self._position = raws[-1].id
        await self.part.keep(self._position)
        if not raws:
            await self.part.rest(max(0.0, self._delayed.next_s - self._clock.wall_s()))

    async def _put_all(self) -> None:
        """Put every head that is due. What happens meanwhile is found by following from before the look."""
        self._is_sure = True  # unless the connection is lost again meanwhile
        try:
            position = await self.part.cursor() if self._position is None else self._position
            seen, temporary, owners = await read(self._views, self._waiting)
            self._position = min(seen, position, await read((self._log, self._views), self._graphs.load))
            await self._offer_waiting(temporary, owners)
            self._swept_s = self._clock.monotonic_s()
        except BaseException:
            self._is_sure = False
            raise

    async def _put_lost(self) -> None:
        """Put what waits and is not on the queue: a cluster whose servers die one after the other may lose what it has
        acknowledged, and what was lost after the last look nobody else would ever miss.
        """
        _, temporary, owners = await read(self._views, self._waiting)
        if temporary or owners:
            queued = await self._queue.items(run_queue_subject("*", NORMAL))
            await self._offer_waiting(temporary, owners, but=queued)
        self._swept_s = self._clock.monotonic_s()

    async def _offer_waiting(
        self, temporary: Iterable[Row], owners: Iterable[UUID], but: Collection[str] = ()
    ) -> None:
        turns = [Turn(_seconds(row["not_before"]), UUID(bytes=row["run_id"])) for row in temporary]
        await self._offer(turn for turn in turns if str(turn.run_id) not in but)
        for some in _parts(map(lane_id_of, owners), PAGE):
            heads = await read(self._log, partial(self._heads, some))
            await self._offer(turn for turn in heads if str(turn.run_id) not in but)

    def _waiting(self) -> tuple[int, list[Row], list[UUID]]:
        """How far the read model is, the runs without a lane that it shows, and whose lanes there are. The position
        first.
        """
        position = self._views.position("runs")
        temporary, threads = self._views.all(SQL["temporary"]), self._views.all(SQL["lanes"])
        owners = [row["thread_id"] for row in threads]
        owners += [row["cron_id"] for row in self._views.all(SQL["cron_lanes"])]
        return position, temporary, [UUID(bytes=owner) for owner in owners]

    async def _offer(self, turns: Iterable[Turn]) -> None:
        now_s = self._clock.wall_s()
        due: list[Turn] = []
        for turn in turns:
            if turn.due_s <= now_s:
                due.append(turn)
            else:
                self._delayed.add(turn)
        if any(turn.also for turn in due):
            due = await read(self._log, partial(self._ready, due))
        await self._put_runs(dict.fromkeys(turn.run_id for turn in due))

    def _ready(self, turns: Iterable[Turn]) -> list[Turn]:
        """Those that are the head of their other lane too, by what the log has now: a change of it tells of others."""
        return [turn for turn in turns if turn.also is None or self._heads_lane(turn.run_id, turn.also)]

    async def _put_delayed(self) -> None:
        """Put the delayed runs whose time has come; one that lets another go first comes when it is the head."""
        while self._delayed.next_s <= self._clock.wall_s():
            turn = self._delayed.pop()
            try:
                if await read(self._log, partial(self._is_head, turn)):
                    await self._put_runs([turn.run_id])
            except BaseException:
                self._delayed.add(turn)
                raise

    def _is_head(self, turn: Turn) -> bool:
        lanes = (lane_id for lane_id in (turn.lane_id, turn.also) if lane_id is not None)
        return all(self._heads_lane(turn.run_id, lane_id) for lane_id in lanes)

    def _heads_lane(self, run_id: UUID, lane_id: UUID) -> bool:
        return any(head.run_id == run_id for head in self._heads([lane_id]))

    def _heads(self, lane_ids: Iterable[UUID]) -> list[Turn]:
        return [head for head in each(lane_ids, self._head) if head is not None]

    def _head(self, lane_id: UUID) -> Turn | None:
        newest = self._log.newest([lane_id]).get(lane_id)
        return None if newest is None else head_of(lane_id, newest.body)

    async def _put_runs(self, run_ids: Iterable[UUID]) -> None:
        """Each on the queue of the pool that has its graph now."""
        pools: dict[UUID, str] = {}
        if not self._graphs.is_one_pool:
            run_ids = list(run_ids)
            pools = await read(self._log, partial(self._pools_of, run_ids))
        await self._put(_due(run_id, pools.get(run_id, DEFAULT_POOL)) for run_id in run_ids)

    def _pools_of(self, run_ids: Iterable[UUID]) -> dict[UUID, str]:
        events = chain.from_iterable(each(run_ids, self._log.stream))
        return {
            recorded.stream_id: self._graphs.pool_of(recorded.body.graph_id)
            for recorded in events
            if isinstance(recorded.body, RunRequested)
        }

    async def _put(self, work: Iterable[tuple[str, bytes]]) -> None:
        for some in _parts(work, AT_ONCE):
            await asyncio.gather(*(self._queue.put(*item) for item in some))

    async def _hint(self, events: Iterable[Recorded]) -> None:
        for recorded in events:
            if isinstance(recorded.body, RunCancelRequested):
                # To whoever has the run; it looks at the log at each heartbeat too.
                await self._bus.publish(run_cancel_subject(recorded.stream_id), b"")


def turns_of(events: Iterable[Recorded]) -> list[Turn]:
    """Whose turn the events tell of; of each lane only the newest head."""
    found: dict[UUID, Turn | None] = {}
    for recorded in events:
        match recorded.body:
            case RunRequested(temporary=True, cron_lane=False) as body:
                found[recorded.stream_id] = Turn(_instant(body.not_before), recorded.stream_id)
            case LaneChanged() as body if _moves_head(body):
                found[recorded.stream_id] = head_of(recorded.stream_id, body)
    return [turn for turn in found.values() if turn is not None]


def head_of(lane_id: UUID, body: Body) -> Turn | None:
    """The turn of whoever is the head after the change of the lane."""
    assert isinstance(body, LaneChanged)
    if not body.in_flight:
        return None
    head = body.in_flight[0]
    return Turn(_instant(head.not_before), head.run_id, lane_id, head.also)


def chores_of(events: Iterable[Recorded]) -> Iterator[tuple[str, bytes]]:
    """(subject, message) of what is to be done besides."""
    for recorded in events:
        if isinstance(recorded.body, ThreadDeleted):
            chore = msgspec.json.encode(Chore(forget_thread=recorded.stream_id))
            yield run_queue_subject(DEFAULT_POOL, CHORES, recorded.stream_id), chore


def _moves_head(body: LaneChanged) -> bool:
    """False when the same run is the head as before, so that it is on the queue already."""
    if body.change == "joined":
        return body.in_flight[0].run_id == body.run_id
    return body.change in ("left", "closed")


def _due(run_id: UUID, pool: str) -> tuple[str, bytes]:
    return run_queue_subject(pool, NORMAL, run_id), msgspec.json.encode(RunDue(run_id))


def _instant(not_before: datetime | None) -> float:
    return 0.0 if not_before is None else not_before.timestamp() + SURE_S


def _seconds(micros: int | None) -> float:
    return 0.0 if micros is None else micros / 1_000_000 + SURE_S


def _parts(values: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(values)
    while part := list(islice(iterator, size)):
        yield part
