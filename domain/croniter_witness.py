"""What croniter would do with the same text: the reading that users of other servers are used to."""

from datetime import UTC, datetime

from croniter import croniter

from domain.cron_grammar import Schedule
from domain.schedule import next_after
from domain.zones import Zone

COMPARED = 5


def witness_warnings(schedule: Schedule, place: Zone, after: int) -> tuple[str, ...]:
    """A sentence when croniter's next five occurrences are others than ours; empty when they agree."""
    ours = _ours(schedule, place, after)
    try:
        theirs = _theirs(schedule, place, after)
    # Whatever a foreign parser raises is a difference, and never a reason to refuse the schedule.
    except Exception as exc:
        return (f"croniter, which other servers use, can't evaluate this schedule: {exc}",)
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            here, there = (datetime.fromtimestamp(epoch, UTC).isoformat() for epoch in (mine, other))
            return (
                f"croniter, which other servers use, would fire at {there} where this server fires at {here}",
            )
    return ()


def _ours(schedule: Schedule, place: Zone, after: int) -> list[int]:
    found: list[int] = []
    epoch: int | None = after
    while len(found) < COMPARED and epoch is not None:
        epoch = next_after(schedule, place, epoch)
        if epoch is not None:
            found.append(epoch)
    return found


def _theirs(schedule: Schedule, place: Zone, after: int) -> list[int]:
    start = datetime.fromtimestamp(after, place.info)
    iterator = croniter(schedule.text, start, second_at_beginning=True)
    return [int(iterator.get_next(float)) for _ in range(COMPARED)]
