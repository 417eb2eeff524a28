"""A start with very many crons that are behind, and a fresh one in the midst of it."""

import asyncio
import gc
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from contracts.codec import EventCodec
from contracts.events import AssistantCreated, CronCreated, CronExpired, OccurrencesMissed, RunRequested
from contracts.ledger import Append, Meta, Payload, Transaction
from domain.schedule import tzdata_version
from services.kit.clock import SystemClock
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7
from services.kit.process import spare_the_present
from services.kit.settings import Settings
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from services.scheduler.scheduler import Scheduler

pytestmark = pytest.mark.bench
Say = Callable[[str, str, str], None]
ASSISTANT = UUID(int=7)


def created(schedule: str, end_time: datetime | None = None) -> CronCreated:
    return CronCreated(
        assistant_id=ASSISTANT,
        graph_id="agent",
        user_id="u",
        schedule=schedule,
        canonical=schedule,
        end_time=end_time,
        payload=Payload(inline=msgspec.Raw(b"{}")),
        tzdata=tzdata_version(),
    )


class Blocks:
    """For how long the event loop was blocked at most: by the clock, and of that on the processor."""

    def __init__(self) -> None:
        self.worst_s = self.worst_cpu_s = 0.0

    async def measure(self) -> None:
        while True:
            began, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0)
            self.worst_s = max(self.worst_s, time.perf_counter() - began)
            self.worst_cpu_s = max(self.worst_cpu_s, time.thread_time() - cpu)
            await asyncio.sleep(0.001)


async def ledger(folder: Path, many: int) -> SqliteLog:
    """Crons of two days ago, each of another minute of the day, over since yesterday but for every tenth."""
    log = SqliteLog(folder / "ledger.db", EventCodec())
    await log.start()
    meta = Meta(at=datetime.now(UTC) - timedelta(days=2), actor="bench")
    assistant = AssistantCreated(graph_id="agent", name="agent", system=True)
    await log.append(Transaction(meta=meta, appends=(Append(ASSISTANT, 0, (assistant,)),)))
    over = datetime.now(UTC) - timedelta(hours=1)
    for start in range(0, many, 1000):
        crons = [
            created(f"{n % 60} {n // 60 % 24} * * *", over if n % 10 else None)
            for n in range(start, start + 1000)
        ]
        await log.append_many([Transaction(meta=meta, appends=(Append(uuid7(), 0, (c,)),)) for c in crons])
    return log


@pytest.mark.parametrize("many", [10_000, 100_000])
async def test_start_with_crons_behind(say: Say, tmp_path: Path, many: int) -> None:
    log = await ledger(tmp_path, many)
    projector = Projector(log, tmp_path / "views.db")
    await projector.start()
    while not await projector.reached(log.head(), 60.0):
        pass
    scheduler = Scheduler(
        log, SqliteViews(tmp_path / "views.db"), SystemClock(), Settings(catch_up_spread_s=0)
    )
    head, blocks = log.head(), Blocks()
    spare_the_present()
    measuring = asyncio.create_task(blocks.measure())
    began, cpu = time.perf_counter(), time.process_time()
    await scheduler.start()
    loaded = time.perf_counter() - began
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    fresh = uuid7()
    meta = Meta(at=datetime.now(UTC), actor="bench")
    cron = created(f"{due.second} {due.minute} {due.hour} {due.day} {due.month} *")
    await log.append(Transaction(meta=meta, appends=(Append(fresh, 0, (cron,)),)))
    # Bytes, because the garbage collector looks at each UUID.
    decided, late_s, position, waits = set[bytes](), 0.0, head, True
    while len(decided) < many or waits:
        await asyncio.sleep(0.2)
        # In small pages: this test shares the loop that it measures.
        while events := log.read(position, 200):
            position = events[-1].position
            await asyncio.sleep(0)
            for recorded in events:
                if isinstance(recorded.body, RunRequested):
                    assert recorded.body.cron_id is not None
                    decided.add(recorded.body.cron_id.bytes)
                    if recorded.body.cron_id == fresh:
                        waits, late_s = False, (recorded.meta.at - due).total_seconds()
                elif isinstance(recorded.body, CronExpired | OccurrencesMissed):
                    decided.add(recorded.stream_id.bytes)
        decided.discard(fresh.bytes)
    took = time.perf_counter() - began
    measuring.cancel()
    say(f"{many:,} crons behind: loaded", f"{loaded:.2f} s", "linear")
    say("  all decided", f"{took:.1f} s, CPU {time.process_time() - cpu:.1f} s", "linear")
    blocked = f"{blocks.worst_cpu_s * 1000:.0f} ms CPU, {blocks.worst_s * 1000:.0f} ms"
    say("  loop blocked at most", blocked, "50 ms")
    say("  a fresh cron meanwhile, late", f"{late_s * 1000:.0f} ms", "100 ms")
    say("  memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB", "-")
    await scheduler.stop()
    await projector.stop()
    await log.stop()
    gc.unfreeze()
