"""The row of a cron tells all that its events tell of what is undecided, whatever is edited when."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import CronCreated, CronExpired, OccurrenceSkipped, OccurrencesMissed, Rule, RuleEvent
from contracts.ledger import Body, Meta, Payload, Recorded
from domain.cron import Cron, UpdateCron, decide, evolve
from domain.identity import run_id_of
from domain.timeline import FOREVER, Fire, Stretch, Timeline, missed, timeline_of, undecided
from projections import crons
from projections.rows import Row

CRON = UUID(int=1)
BEGIN = int(datetime(2026, 11, 24, 9, tzinfo=UTC).timestamp())
LEFT = msgspec.json.Decoder(list[tuple[int, int, Rule]])


class Ledger:
    """A cron's row beside its aggregate and its whole timeline, told the same events."""

    def __init__(self) -> None:
        self.row: Row = {}
        self.cron: Cron | None = None
        self.position = self.version = 0
        self.cursor = self.now = BEGIN
        created = CronCreated(
            assistant_id=UUID(int=2),
            graph_id="g",
            user_id="u",
            schedule="*/10 * * * *",
            canonical="*/10 * * * *",
            payload=Payload(inline=msgspec.Raw(b"{}")),
            tzdata="t",
        )
        self.timeline = timeline_of(created, BEGIN)
        self.tell(CRON, created)

    def get(self, table: str, key: bytes | int) -> Row | None:
        return dict(self.row) if self.row else None

    def put(self, table: str, row: Row) -> None:
        self.row = dict(row)

    def tell(self, stream_id: UUID, body: Body) -> None:
        self.position += 1
        self.version += stream_id == CRON
        at = datetime.fromtimestamp(self.now, UTC)
        version = self.version if stream_id == CRON else 1
        recorded = Recorded(self.position, stream_id, version, body.TOPIC, Meta(at=at, actor="t"), body)
        crons.apply(self, recorded)  # type: ignore[arg-type]
        crons.apply(self, recorded)  # type: ignore[arg-type] # twice is harmless
        if stream_id == CRON:
            self.cron = evolve(self.cron, CRON, recorded)
        if isinstance(body, RuleEvent) and body.rule is not None:
            since = max(int(body.since(at).timestamp()), self.cursor)
            self.timeline = self.timeline.then(since, body.rule, body.made_up)

    def edit(self, command: UpdateCron) -> None:
        for event in decide(self.cron, command, datetime.fromtimestamp(self.now, UTC))[0]:
            self.tell(CRON, event)

    def record(self, stored: int) -> None:
        """A scheduler stores so many decisions, and dies."""
        for decision in list(undecided(self.timeline, self.cursor, self.now, 1800, b"x"))[:stored]:
            if isinstance(decision, Fire):
                due = datetime.fromtimestamp(decision.due, UTC)
                skipped = OccurrenceSkipped(thread_id=CRON, cron_id=CRON, scheduled_for=due, reason="overlap")
                self.tell(run_id_of(CRON, decision.due), skipped)
                self.cursor = decision.due
            else:
                self.tell(CRON, missed(decision, 1))
                self.cursor = decision.last

    def as_loaded(self) -> tuple[Timeline, int]:
        """What a scheduler starts from."""
        row, rule = self.row, crons.rule_of(self.row)
        left = [Stretch(*parts) for parts in LEFT.decode(row["undecided"] or "[]")]
        return Timeline((*left, Stretch(row["since"], FOREVER, rule))), row["cursor"]


fields: dict[str, st.SearchStrategy[Any]] = {
    "schedule": st.sampled_from(["*/10 * * * *", "*/25 * * * *", "0 0 1 1 *", "* * * * *"]),
    "enabled": st.booleans(),
    "timezone": st.sampled_from([None, "Europe/Berlin"]),
    "end_time": st.none()
    | st.integers(1, 9000).map(lambda s: datetime.fromtimestamp(BEGIN + 20_000 + s, UTC)),
    "metadata": st.just({"k": 1}),
    "catch_up": st.sampled_from(["latest", "skip", "all"]),
    "catch_up_window_s": st.sampled_from([None, 0, 600]),
    "jitter_s": st.sampled_from([0, 30, 3600]),
    "start_time": st.none() | st.integers(0, 9000).map(lambda s: datetime.fromtimestamp(BEGIN + s, UTC)),
    "paused_until": st.none()
    | st.integers(20_000, 29_000).map(lambda s: datetime.fromtimestamp(BEGIN + s, UTC)),
    "makes_up": st.sampled_from(["skip", "latest", "all"]),
}
edits = st.fixed_dictionaries({}, optional=fields).map(lambda given: UpdateCron(**given))
walk = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 6) | edits), max_size=10)


@settings(max_examples=200, deadline=None)
@given(walk=walk)
def test_the_row_leaves_the_same_undecided_as_the_whole_history(
    walk: list[tuple[int, int | UpdateCron]],
) -> None:
    ledger = Ledger()
    for after_s, step in walk:
        ledger.now += after_s
        if isinstance(step, UpdateCron):
            ledger.edit(step)
        else:
            ledger.record(step)
        for later_s in (0.5, 700, 29_000):
            now = ledger.now + later_s
            whole = list(undecided(ledger.timeline, ledger.cursor, now, 1800, b"x"))
            assert list(undecided(*ledger.as_loaded(), now, 1800, b"x")) == whole


def test_edits_that_leave_nothing_undecided_leave_nothing_behind() -> None:
    """A cron that is edited a thousand times between two firings costs no more than one that never was."""
    ledger = Ledger()
    for n in range(200):
        ledger.now += 1
        ledger.edit(UpdateCron(enabled=n % 2 == 1))
    assert ledger.row["undecided"] == ""
    assert ledger.row["cursor"] == ledger.now
    ledger.now = BEGIN + 605
    ledger.edit(UpdateCron(enabled=False))
    assert [part[:2] for part in LEFT.decode(ledger.row["undecided"])] == [(BEGIN + 200, BEGIN + 600)]
    ledger.record(1)
    assert ledger.row["undecided"] == ""


def test_what_is_shown_of_a_pause_that_is_over() -> None:
    ledger = Ledger()
    ledger.now += 60
    ledger.edit(UpdateCron(enabled=False))
    assert (ledger.row["state"], ledger.row["enabled"]) == ("paused", 0)
    ledger.now += 3600
    ledger.edit(UpdateCron(enabled=True))
    [miss, *_] = undecided(*ledger.as_loaded(), ledger.now, 1800)
    ledger.record(1)
    assert not isinstance(miss, Fire)
    assert (miss.count, ledger.row["missed"], ledger.row["enabled"]) == (6, 6, 1)
    event = missed(miss, 1)
    assert isinstance(event, OccurrencesMissed)
    assert event.reason == "paused"


def test_an_expired_cron_is_off() -> None:
    ledger = Ledger()
    assert ledger.cron is not None
    off = msgspec.structs.replace(ledger.cron.rule, active=False)
    ledger.tell(CRON, CronExpired(rule=off))
    assert (ledger.row["state"], ledger.row["next_at"]) == ("expired", None)
    assert list(undecided(*ledger.as_loaded(), BEGIN + 86_400, 1800)) == []
