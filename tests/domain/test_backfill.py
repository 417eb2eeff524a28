"""Which occurrences a backfill is of."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.ledger import Payload
from domain.backfill import MOST, RequestBackfill, candidates, planned
from domain.cron import Cron
from domain.errors import InvalidField
from domain.identity import run_id_of
from domain.schedule import occurrences, parse_canonical, zone

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def cron_of(schedule: str, timezone: str | None, start: datetime | None, end: datetime | None) -> Cron:
    return Cron(
        cron_id=UUID(int=1),
        version=1,
        revision=1,
        assistant_id=UUID(int=2),
        graph_id="g",
        user_id="u",
        schedule=schedule,
        canonical=schedule,
        payload=Payload(),
        timezone=timezone,
        start_time=start,
        end_time=end,
        since=NOW,
    )


instants = st.integers(0, 20 * 86_400_000).map(lambda ms: NOW - timedelta(milliseconds=ms))


@settings(max_examples=150, deadline=None)
@given(
    schedule=st.sampled_from(["0 9 * * *", "*/30 * * * *", "30 1 * * *", "0 0 1 1 *", "* * * * *"]),
    timezone=st.sampled_from([None, "America/New_York", "Australia/Lord_Howe"]),
    start=instants,
    end=instants,
    bounds=st.tuples(st.none() | instants, st.none() | instants),
    limit=st.none() | st.integers(1, MOST),
    fired=st.sets(st.integers(0, 200)),
)
def test_it_is_of_what_the_schedule_says_and_of_each_once(
    schedule: str,
    timezone: str | None,
    start: datetime,
    end: datetime,
    bounds: tuple[datetime | None, datetime | None],
    limit: int | None,
    fired: set[int],
) -> None:
    cron = cron_of(schedule, timezone, *bounds)
    command = RequestBackfill(backfill_id=UUID(int=3), start=start, end=end, limit=limit)
    found = occurrences(
        parse_canonical(schedule), zone(timezone), int(start.timestamp()) - 1, int(NOW.timestamp()), 100_000
    )
    wanted = [
        at
        for at in found
        if start <= (due := datetime.fromtimestamp(at, UTC)) < end
        and (bounds[0] is None or due >= bounds[0])
        and (bounds[1] is None or due <= bounds[1])
    ]
    try:
        due_at = candidates(cron, command, NOW)
    except InvalidField:
        assert start >= end or (limit is None and len(wanted) > MOST)
        return
    assert list(due_at) == (wanted if limit is None else wanted[:10_000])
    runs = [run_id_of(cron.cron_id, at) for n, at in enumerate(due_at) if n in fired]
    plan = planned(cron, command, due_at, runs)
    # Whoever asks again and again with a limit comes to the end.
    assert len(plan.planned) == min(len(due_at) - len(runs), MOST if limit is None else limit)
    assert plan.already_fired == len(runs)
    again = planned(cron, command, due_at, [run_id_of(cron.cron_id, at) for at in due_at])
    assert (again.planned, again.already_fired) == ((), len(due_at))
