"""Backfills on a real log: what has had no run has one, once, whatever fails."""

from datetime import timedelta
from typing import Any
from unittest.mock import ANY
from uuid import UUID

import pytest

from contracts.api import CronBackfill
from contracts.events import (
    BackfillCancelled,
    BackfillFinished,
    BackfillRequested,
    LaneChanged,
    LaneRun,
    OccurrenceSkipped,
    OccurrencesMissed,
    RunRequested,
)
from contracts.ledger import Append, Meta
from domain.cron import DeleteCron, UpdateCron
from domain.errors import BackfillNotFound, CronNotFound, InvalidField
from domain.identity import run_id_of
from domain.lane import lane_id_of
from projections.rows import Row
from services.gateway.commands import backfills
from services.gateway.queries import backfills as queries
from services.kit.eventlog import LogUnavailable
from services.kit.ids import uuid7
from services.scheduler.partitions import EVERY, partition_of
from services.scheduler.scheduler import LEASE_S
from tests.services.gateways import gateway_parts
from tests.services.schedulers import START, Bench, die

NOON = START.replace(microsecond=0)


class Asker:
    """Who asks, and through which gateway."""

    user_id = "u"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.parts = gateway_parts(bench.log, bench.views, bench.projector, clock=bench.clock)

    def meta(self, parts: Any) -> Meta:
        return Meta(at=self.bench.clock.now(), actor="alice")

    async def begin(self, cron_id: UUID, minutes: float, **fields: Any) -> tuple[UUID | None, int, int]:
        """A backfill of what came before so many minutes after the start."""
        body = CronBackfill(start=fields.pop("start", START), end=NOON + timedelta(minutes=minutes), **fields)
        backfill_id, plan = await backfills.begin(self.parts, self, cron_id, body)  # type: ignore[arg-type]
        return backfill_id, len(plan.planned), plan.already_fired

    async def cancel(self, cron_id: UUID, backfill_id: UUID) -> None:
        await backfills.cancel(self.parts, self, cron_id, backfill_id)  # type: ignore[arg-type]


@pytest.fixture
def asker(bench: Bench) -> Asker:
    return Asker(bench)


async def missing(bench: Bench, **fields: Any) -> UUID:
    """A cron that has missed 12:10 to 12:50, and fired 13:00 late; the scheduler runs."""
    cron_id = await bench.cron("*/10 * * * *", **fields)
    bench.clock.move(minutes=65)
    await bench.schedule()
    await bench.until(lambda: bench.fired(cron_id))
    await bench.projector.reached(bench.log.head())
    return cron_id


async def released(bench: Bench, cron_id: UUID, how_many: int) -> None:
    """Time goes on until the cron has so many runs."""
    await bench.quiet()
    while (known := len(bench.fired(cron_id))) < how_many:
        bench.clock.move(seconds=0.11)
        await bench.settled(lambda: len(bench.fired(cron_id)) == known)
    assert len(bench.fired(cron_id)) == how_many


def row_of(bench: Bench, backfill_id: UUID | None) -> Row:
    assert backfill_id is not None
    row = bench.views.one("SELECT * FROM backfills WHERE backfill_id = ?", (backfill_id.bytes,))
    assert row is not None
    return row


async def over(
    bench: Bench, kind: type[BackfillFinished | BackfillCancelled] = BackfillFinished, how_many: int = 1
) -> None:
    def is_over() -> bool:
        bench.clock.move(seconds=0.11)
        return len(bench.events(kind)) == how_many

    await bench.until(is_over)
    await bench.projector.reached(bench.log.head())


async def test_it_goes_on_where_the_scheduler_that_had_it_died(bench: Bench, asker: Asker) -> None:
    cron_id = await bench.cron("* * * * *")
    bench.clock.move(minutes=91)
    schedulers = await bench.rivals(2)
    await bench.until(lambda: bench.fired(cron_id))
    await bench.projector.reached(bench.log.head())
    owner, other = sorted(schedulers, key=lambda s: partition_of(cron_id.bytes) not in s.partitions)
    assert await asker.begin(cron_id, 91) == (ANY, 89, 1)
    while (known := len(bench.fired(cron_id))) < 80:
        bench.clock.move(seconds=0.11)
        await bench.settled(lambda: len(bench.fired(cron_id)) == known)
    await die(owner)
    bench.clock.move(seconds=LEASE_S + 0.1)
    await bench.until(lambda: other.partitions == EVERY)
    died = bench.clock.now()
    await over(bench)
    assert len(bench.fired(cron_id)) == len(set(bench.fired(cron_id))) == 91
    assert bench.clock.now() - died < timedelta(seconds=5)  # not for those that were there


async def test_what_was_missed_runs_once_at_ten_a_second(bench: Bench, asker: Asker) -> None:
    cron_id = await missing(bench)
    before = bench.views.one("SELECT cursor, next_at FROM crons", ())
    backfill_id, planned, already = await asker.begin(cron_id, 65)
    assert (planned, already) == (5, 1)
    for n in range(2, 7):
        await bench.until(lambda: len(bench.fired(cron_id)) == n)  # noqa: B023
        await bench.quiet()
        assert len(bench.fired(cron_id)) == n
        bench.clock.move(seconds=0.11)
    await over(bench)
    runs = bench.events(RunRequested)[1:]
    assert [e.scheduled_for.minute for e in runs] == [10, 20, 30, 40, 50]
    assert {(e.kind, e.backfill_id, e.local[-6:]) for e in runs} == {("backfill", backfill_id, "+00:00")}
    row = row_of(bench, backfill_id)
    assert (row["state"], row["planned"], row["fired"], row["already_fired"]) == ("finished", 5, 5, 1)
    assert row["requested_by"] == "alice"
    assert bench.views.one("SELECT cursor, next_at FROM crons", ()) == before
    assert await asker.begin(cron_id, 65) == (None, 0, 6)  # again: nothing
    bench.clock.at = START + timedelta(minutes=70)
    await bench.until(lambda: bench.fired(cron_id)[-1] == "13:10:00")
    asked = next(e for e in bench.log.read(0, 1000) if isinstance(e.body, BackfillRequested))
    first = next(
        e for e in bench.log.read(0, 1000) if isinstance(e.body, RunRequested) and e.body.kind == "backfill"
    )
    assert first.meta.cause == f"{asked.stream_id}/1"


async def test_all_have_a_run_once_more(bench: Bench, asker: Asker) -> None:
    cron_id = await missing(bench, on_run_completed="keep")
    _, planned, already = await asker.begin(
        cron_id, 65, include="all", limit=2, start=NOON + timedelta(minutes=45)
    )
    assert (planned, already) == (2, 0)
    await released(bench, cron_id, 3)
    assert bench.fired(cron_id) == ["13:00:00", "12:50:00", "13:00:00"]
    assert len({e.thread_id for e in bench.events(RunRequested)}) == 3
    assert (await asker.begin(cron_id, 65, include="all"))[1] == 6


async def test_a_dry_run_stores_nothing(bench: Bench, asker: Asker) -> None:
    cron_id = await missing(bench)
    head = bench.log.head()
    assert await asker.begin(cron_id, 65, dry_run=True) == (None, 5, 1)
    assert bench.log.head() == head


async def test_before_the_cron_was_and_while_it_is_paused(bench: Bench, asker: Asker) -> None:
    cron_id = await missing(bench)
    await bench.command(cron_id, UpdateCron(enabled=False))
    bench.clock.move(minutes=20)
    backfill_id, planned, _ = await asker.begin(cron_id, 85, start=NOON - timedelta(minutes=15))
    assert planned == 9  # 11:50, 12:00, ..., 13:20 but 13:00
    await released(bench, cron_id, 10)
    assert row_of(bench, backfill_id)["fired"] == 9
    await bench.command(cron_id, UpdateCron(enabled=True, makes_up="latest"))
    bench.clock.move(seconds=3)
    await bench.quiet()
    bench.clock.move(minutes=5)
    await bench.until(lambda: bench.fired(cron_id)[-1] == "13:30:00")
    assert len(bench.fired(cron_id)) == 11  # what was made up for had its run


async def test_an_occurrence_that_was_skipped_runs_behind_what_told_so(bench: Bench, asker: Asker) -> None:
    thread_id = await bench.thread()
    held = LaneChanged(thread_id=thread_id, change="joined", run_id=uuid7(), in_flight=(LaneRun(uuid7()),))
    await bench.store(Append(lane_id_of(thread_id), 0, (held,)))
    cron_id = await bench.cron("*/10 * * * *", thread_id=thread_id, overlap="skip")
    await bench.schedule()
    bench.clock.move(minutes=10)
    await bench.until(lambda: bench.events(OccurrenceSkipped))
    _, planned, _ = await asker.begin(cron_id, 10.005, overlap="buffer_all")
    assert planned == 1
    await released(bench, cron_id, 1)
    run_id = run_id_of(cron_id, int(NOON.timestamp()) + 600)
    assert [type(e.body) for e in bench.log.stream(run_id)] == [OccurrenceSkipped, RunRequested]
    await over(bench)
    again, planned, already = await asker.begin(cron_id, 10.005)
    assert (again, planned, already) == (None, 0, 1)
    again, *_ = await asker.begin(cron_id, 10.005, include="all", overlap="skip")
    await over(bench, how_many=2)
    row = row_of(bench, again)
    assert (row["fired"], row["skipped"], row["state"]) == (0, 1, "finished")
    statuses = bench.views.all("SELECT status, kind FROM occurrences ORDER BY position", ())
    assert [(r["status"], r["kind"]) for r in statuses] == [
        ("skipped", "schedule"),
        ("fired", "backfill"),
        ("skipped", "backfill"),
    ]


async def test_it_waits_while_too_many_wait(bench: Bench, asker: Asker) -> None:
    thread_id = await bench.thread()
    cron_id = await bench.cron("* * * * *", thread_id=thread_id, overlap="buffer_one")
    bench.clock.move(minutes=5, seconds=30)
    await bench.schedule()
    await bench.until(lambda: bench.fired(cron_id))
    backfill_id, planned, _ = await asker.begin(cron_id, 5)
    assert planned == 4
    await released(bench, cron_id, 2)
    bench.clock.move(seconds=1)
    await bench.quiet()
    assert len(bench.fired(cron_id)) == 2
    lane = lane_id_of(thread_id)
    version = bench.log.stream(lane)[-1].version
    emptied = LaneChanged(thread_id=thread_id, change="left", in_flight=())
    await bench.store(Append(lane, version, (emptied,)))
    await released(bench, cron_id, 4)
    assert row_of(bench, backfill_id)["skipped"] == 0
    assert bench.events(OccurrenceSkipped) == []


@pytest.mark.parametrize(
    "fault", ["append raises", "answer is lost", "restart", "two schedulers", "reads raise"]
)
async def test_each_has_one_run_whatever_fails(bench: Bench, asker: Asker, fault: str) -> None:
    cron_id = await missing(bench)
    if fault == "two schedulers":
        await bench.schedule()
    backfill_id, *_ = await asker.begin(cron_id, 65)
    await bench.until(lambda: len(bench.fired(cron_id)) > 1)
    if fault == "append raises":
        bench.edge_log.fail("append_many", times=2)
    elif fault == "reads raise":
        bench.edge_log.fail("newest", times=2)
    elif fault == "answer is lost":
        append = bench.log.append_many

        async def stored_and_lost(txs: Any) -> Any:
            await append(txs)
            bench.log.append_many = append  # type: ignore[method-assign]
            raise LogUnavailable("nobody answered")

        bench.log.append_many = stored_and_lost  # type: ignore[method-assign]
    elif fault == "restart":
        await bench.halt()
        await bench.projector.reached(bench.log.head())
        await bench.schedule()
    await over(bench)
    fired = bench.fired(cron_id)
    assert (len(fired), len(set(fired))) == (6, 6)
    assert row_of(bench, backfill_id)["fired"] == 5
    assert len(bench.events(BackfillFinished)) == 1


@pytest.mark.parametrize("by", ["request", "cron_deleted"])
async def test_no_more_of_it_begins(bench: Bench, asker: Asker, by: str) -> None:
    cron_id = await missing(bench)
    backfill_id, *_ = await asker.begin(cron_id, 65)
    assert backfill_id is not None
    await released(bench, cron_id, 3)
    if by == "request":
        await asker.cancel(cron_id, backfill_id)
        await asker.cancel(cron_id, backfill_id)  # harmless
    else:
        await bench.command(cron_id, DeleteCron())
    await over(bench, BackfillCancelled)
    [cancelled] = bench.events(BackfillCancelled)
    assert cancelled.reason == by
    bench.clock.move(seconds=1)
    await bench.quiet()
    assert len(bench.fired(cron_id)) == 3
    shown = queries.by_id(asker.parts, cron_id, backfill_id)
    assert (shown.state, shown.reason, shown.fired, shown.left) == ("cancelled", by, 2, 0)


async def test_clocks_that_are_wrong(bench: Bench, asker: Asker) -> None:
    """One that is set back holds nothing up; beside another clock than the store's nothing is released."""
    cron_id = await missing(bench)
    await asker.begin(cron_id, 65)
    await released(bench, cron_id, 3)
    right = bench.clock.at
    bench.log._recorder.clock = lambda: right - timedelta(hours=1)  # type: ignore[method-assign]
    await bench.quiet()
    bench.clock.move(seconds=1)
    await bench.quiet()
    assert len(bench.fired(cron_id)) == 3
    bench.log._recorder.clock = bench.clock.now  # type: ignore[method-assign]
    bench.clock.at = right - timedelta(minutes=40)
    await over(bench)
    assert len(bench.fired(cron_id)) == 6


async def test_one_that_cannot_go_on_holds_up_no_other(bench: Bench, asker: Asker) -> None:
    broken = await missing(bench)
    sound = await bench.cron("*/10 * * * *")
    edge = bench.edge_log
    real = bench.log.stream

    def stream(stream_id: UUID, *more: Any) -> Any:
        if stream_id == broken:
            raise ValueError("no such thing")
        return real(stream_id, *more)

    await asker.begin(broken, 65)
    edge.stream = stream  # type: ignore[attr-defined]
    await asker.begin(sound, 65)
    await released(bench, sound, 6)


async def test_what_nobody_can_ask_for(bench: Bench, asker: Asker) -> None:
    cron_id = await bench.cron("* * * * * *")
    bench.clock.move(minutes=30)
    for fields, words in (
        ({"minutes": 31}, "end: must not lie in the future"),
        ({"minutes": 0}, "end: must be after start"),
        ({"minutes": 20}, "end: over 1000"),
        ({"minutes": 20, "limit": 5, "overlap": "cancel_other"}, ""),
    ):
        if words:
            with pytest.raises(InvalidField, match=words):
                await asker.begin(cron_id, **fields)
        else:
            assert (await asker.begin(cron_id, **fields))[1] == 5
    on_thread = await bench.cron("* * * * *", thread_id=await bench.thread())
    with pytest.raises(InvalidField, match="overlap"):
        await asker.begin(on_thread, 20, overlap="allow")
    with pytest.raises(CronNotFound):
        await asker.begin(uuid7(), 20)
    backfill_id, *_ = await asker.begin(on_thread, 20)
    assert backfill_id is not None
    with pytest.raises(BackfillNotFound):
        await asker.cancel(cron_id, backfill_id)
    with pytest.raises(BackfillNotFound):
        queries.by_id(asker.parts, cron_id, backfill_id)


async def test_what_the_schedule_has_not_decided_is_left_to_it(bench: Bench, asker: Asker) -> None:
    await bench.schedule()
    cron_id = await bench.cron("*/10 * * * *", jitter_s=599)
    bench.clock.move(minutes=10, seconds=1)
    await bench.quiet()
    is_early = not bench.fired(cron_id)
    _, planned, _ = await asker.begin(cron_id, 10.01)
    bench.clock.move(seconds=1)
    await bench.quiet()
    if is_early:
        assert (planned, bench.fired(cron_id)) == (1, [])
    bench.clock.move(minutes=10)
    await bench.until(lambda: bench.fired(cron_id))
    await over(bench)
    assert "backfill" not in {e.kind for e in bench.events(RunRequested)}
    assert bench.events(OccurrencesMissed) == []
