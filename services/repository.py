"""Aggregates from the log: load, decide, append. The one place where commands of any service meet the log."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from contracts.ledger import Body, Expect, Meta, Recorded, Transaction
from domain.assistant import Assistant, assistant_of, default_assistant_id
from domain.backfill import Backfill, backfill_of
from domain.changes import Changes
from domain.cron import Cron, cron_of
from domain.decisions import Line
from domain.delivery import WebhookDelivery, delivery_of
from domain.errors import AlreadyExists, AssistantNotFound, RunNotFound, ThreadNotFound
from domain.lane import TAKES_PLACES, Lane, MultitaskStrategy, lane_of
from domain.run import Run, run_of
from domain.thread import Thread, thread_of
from services.kit.commands import execute
from services.kit.eventlog import EventLog
from services.kit.ids import parse_uuid
from services.kit.reads import Store, read

T = TypeVar("T")


class Aggregates:
    """What a command looks at, as the log has it now; it remembers at which versions it saw what it saw.

    Reads are synchronous: `Repository` calls whoever loads where that is harmless.

    Not the library's own `Repository` with a projector function, which was tried on the whole-stream loads: a run of
    three events took 26.4 us in place of 25.1, one that is not there 9.9 in place of 6.4 (PostgreSQL: 103 and 93, 48
    and 43), but 19 more lines. It has no load by the newest event alone, which lanes, threads and assistants are read
    by; it raises where there is none, which is an answer here, whose version 0 the append rests on; and its types
    want `id` and `version` of an aggregate.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.seen: dict[UUID, int] = {}
        """Versions of the streams that were looked at, 0 for one that has no event."""

    def thread_or_none(self, thread_id: UUID) -> Thread | None:
        """The thread; None when there is none or it is deleted."""
        newest = self._newest(thread_id)
        return thread_of(thread_id, [] if newest is None else [newest])

    def thread(self, thread_id: UUID) -> Thread:
        """The thread. Raises ThreadNotFound."""
        found = self.thread_or_none(thread_id)
        if found is None:
            raise ThreadNotFound("Thread not found")
        return found

    def lane(self, thread_id: UUID) -> Lane:
        """The thread's lane; an empty one when there is none yet."""
        return self.lanes([Lane(thread_id=thread_id)])[0]

    def line(self, empty: Lane, strategy: MultitaskStrategy) -> Line:
        """The lane of that thread or cron, with all that a strategy needs that takes the places of others."""
        [lane] = self.lanes([empty])
        return self.whole_line(lane) if strategy in TAKES_PLACES else Line(lane=lane)

    def whole_line(self, lane: Lane) -> Line:
        """The lane with the runs that stand in it, and the other lanes in which these stand."""
        runs = self.runs_of(lane)
        places = {place.owner_id: place for run in runs.values() for place in run.lanes}
        places.pop(lane.owner_id, None)
        return Line(lane=lane, runs=runs, others=self.lanes(places.values()) if places else ())

    def runs_of(self, lane: Lane) -> Mapping[UUID, Run]:
        """The runs that stand in a lane."""
        found = {entry.run_id: self.run_or_none(entry.run_id) for entry in lane.in_flight}
        return {run_id: run for run_id, run in found.items() if run is not None}

    def run_or_none(self, run_id: UUID) -> Run | None:
        """The run, of whichever thread; None when there is none, or it was skipped."""
        return run_of(run_id, self.stream(run_id))

    def run(self, thread_id: UUID, run_id: UUID) -> Run:
        """The run of that thread. Raises RunNotFound."""
        found = self.run_or_none(run_id)
        if found is None or found.gone or found.request.thread_id != thread_id:
            raise RunNotFound("Run not found")
        return found

    def requested(self, run_id: UUID, since: datetime) -> UUID | None:
        """The id, if a run of that id was asked for since then, whatever became of it."""
        events = self.stream(run_id)
        return run_id if events and events[0].meta.at > since else None

    def assistant_or_none(self, assistant_id: UUID) -> Assistant | None:
        """The assistant; None when there is none or it is deleted."""
        return assistant_of(assistant_id, self._newest(assistant_id))

    def lanes(self, empty: Iterable[Lane]) -> list[Lane]:
        """These lanes as they are, in the same order; empty they stay where nobody has joined yet."""
        asked = [(lane.stream_id, lane) for lane in empty]
        newest = self.log.newest([stream_id for stream_id, _ in asked]) if asked else {}
        found = [lane_of(lane, newest.get(stream_id)) for stream_id, lane in asked]
        self.seen |= {lane.stream_id: lane.version for lane in found}
        return found

    def assistant(self, text: str) -> Assistant:
        """The assistant of that id, or the default one of that graph. Raises AssistantNotFound."""
        found = self.assistant_or_none(parse_uuid(text) or default_assistant_id(text))
        if found is None:
            raise AssistantNotFound(f"assistant_id: assistant or graph '{text[:100]}' not found")
        return found

    def cron(self, cron_id: UUID) -> Cron | None:
        """The cron; None when there is none or it is deleted."""
        return cron_of(cron_id, self.stream(cron_id))

    def delivery(self, delivery_id: UUID) -> WebhookDelivery | None:
        """The delivery of a webhook; None when there is none."""
        return delivery_of(delivery_id, self.stream(delivery_id))

    def backfill(self, backfill_id: UUID) -> Backfill | None:
        """The backfill of a cron; None when there is none."""
        return backfill_of(backfill_id, self.stream(backfill_id))

    def stream(self, stream_id: UUID) -> list[Recorded]:
        """The events of a stream, oldest first."""
        events = self.log.stream(stream_id)
        self.seen[stream_id] = events[-1].version if events else 0
        return events

    def former(self, stream_id: UUID, ended: type[Body]) -> int:
        """The version behind which a new life of an id begins: 0, or that of the event that `ended` the last one.

        Raises AlreadyExists when it is in use, or was of something else.
        """
        newest = self._newest(stream_id)
        if newest is None:
            return 0
        if not isinstance(newest.body, ended):
            raise AlreadyExists(
                f"{ended.__name__.removesuffix('Deleted').lower()}_id: {stream_id} is in use already"
            )
        return newest.version

    def forget(self, stream_id: UUID) -> None:
        """Let the append not rest on that stream: whoever does says why it may change meanwhile."""
        self.seen.pop(stream_id, None)

    def _newest(self, stream_id: UUID) -> Recorded | None:
        found = self.log.newest([stream_id]).get(stream_id)
        self.seen[stream_id] = 0 if found is None else found.version
        return found


class Repository:
    """Carries out commands on the log."""

    def __init__(self, log: EventLog, *beside: Store) -> None:
        """`beside` are stores in which a `load` may look as well."""
        self._log, self._stores = log, (log, *beside)

    async def load(self, load: Callable[[Aggregates], T]) -> T:
        """What `load` looks up, without a command."""
        return await read(self._stores, lambda: load(Aggregates(self._log)))

    async def carry_out(
        self,
        load: Callable[[Aggregates], T],
        decide: Callable[[T], Changes],
        meta: Meta | Callable[[T], Meta],
        *,
        attempts: int = 8,
    ) -> int | None:
        """The position of what was decided; None when there was nothing to do.

        `load` looks up all that the decision needs; `decide` is a function of that alone. The append rests on
        everything that was looked up: when somebody else was quicker, both are called again.
        Raises Conflict, LogUnavailable and whatever the two refuse.
        """

        async def transaction() -> Transaction | None:
            aggregates = Aggregates(self._log)
            found = await read(self._stores, lambda: load(aggregates))
            changes = decide(found)
            if not changes.appends:
                return None
            return (changes + _rest(aggregates, changes)).by(meta(found) if callable(meta) else meta)

        return await execute(self._log, transaction, attempts=attempts)


def _rest(aggregates: Aggregates, changes: Changes) -> Changes:
    """What the changes rest on without saying so by an append or by themselves."""
    said = {append.stream_id for append in changes.appends} | {expect.stream_id for expect in changes.expects}
    return Changes(
        expects=tuple(
            Expect(stream, version) for stream, version in aggregates.seen.items() if stream not in said
        )
    )
