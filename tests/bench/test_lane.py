"""What a lane costs when it is young and when it is old: read, firing, claim, settlement."""

import statistics
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contracts.codec import EventCodec
from contracts.events import LaneChanged, RunSucceeded, ThreadCreated
from contracts.ledger import Append, Meta, Transaction
from contracts.spec import RunSpec
from domain.assistant import Assistant
from domain.decisions import Line, Occurrence, fire_on_thread, plan_of
from domain.lane import Lane, lane_id_of, lane_of
from services.kit.clock import SystemClock
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.worker.claims import Claims
from services.worker.job import Job
from services.worker.outcomes import Ending
from services.worker.settlements import Settlements

pytestmark = pytest.mark.bench
Say = Callable[[str, str, str], None]
DUE = datetime(2026, 11, 24, tzinfo=UTC)
META = Meta(at=DUE, actor="bench")
ASSISTANT = Assistant(assistant_id=UUID(int=7), version=1, graph_id="agent", name="agent")
PLAN = plan_of(RunSpec(), ASSISTANT, "u", cron_id=UUID(int=8))
OLD, AT_ONCE, ROUNDS = 1_000_000, 20_000, 300


class LongLane:
    """A thread on which so much has happened; nobody waits."""

    def __init__(self, path: Path) -> None:
        self.log = SqliteLog(path, EventCodec())
        self.thread_id = uuid7()
        self.took: dict[str, list[float]] = {}

    async def grow(self, events: int) -> None:
        """Let that many events have happened."""
        line = LaneChanged(thread_id=self.thread_id, change="left", run_id=self.thread_id)
        version = self.lane.version
        while version < events:
            bodies = (line,) * min(AT_ONCE, events - version)
            append = Append(lane_id_of(self.thread_id), version, bodies)
            await self.log.append(Transaction(meta=META, appends=(append,)))
            version += len(bodies)

    @property
    def lane(self) -> Lane:
        lane_id = lane_id_of(self.thread_id)
        return lane_of(Lane(thread_id=self.thread_id), self.log.newest([lane_id]).get(lane_id))

    async def round(self) -> None:
        """One run of a cron, from its firing to its end."""
        run_id = uuid7()
        lane = await self.timed("read", self.read)
        occurrence = Occurrence(run_id=run_id, thread_id=self.thread_id, scheduled_for=DUE)
        fired = fire_on_thread(PLAN, occurrence, Line(lane=lane), {}, DUE).by(META)
        await self.timed("firing", lambda: self.log.append(fired))
        job: Job = Job(None, run_id)  # type: ignore[arg-type]
        claims = Claims(self.log, SystemClock(), "w", (), ("agent",))
        await self.timed("claim", lambda: claims.claim(job))
        ending = Ending(RunSucceeded(thread_id=self.thread_id, attempt=1))
        settlements = Settlements(self.log, SystemClock())
        assert await self.timed("settle", lambda: settlements.settle(job, ending))

    async def read(self) -> Lane:
        return self.lane

    async def timed(self, what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = await work()
        self.took.setdefault(what, []).append(time.perf_counter() - began)
        return done


@pytest.fixture
async def lanes(tmp_path: Path) -> AsyncIterator[dict[int, LongLane]]:
    made = {}
    for events in (100, OLD):
        lane = made[events] = LongLane(tmp_path / f"{events}.db")
        await lane.log.start()
        await lane.log.append(
            Transaction(meta=META, appends=(Append(lane.thread_id, 0, (ThreadCreated(user_id="u"),)),))
        )
        await lane.grow(events)
    yield made
    for lane in made.values():
        await lane.log.stop()


async def test_age(lanes: dict[int, LongLane], say: Say) -> None:
    for _ in range(ROUNDS):  # in turns: the machine is the same for both
        for lane in lanes.values():
            await lane.round()
    young, old = lanes.values()
    for what in ("read", "firing", "claim", "settle"):
        before, after = (statistics.median(lane.took[what]) * 1e3 for lane in (young, old))
        measured = f"{before:.3f} and {after:.3f} ms, x{after / before:.2f}"
        say(f"{what}, at 100 and at {OLD:,} events of the lane", measured, "x2")
