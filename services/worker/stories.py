"""What the log says about a run, read when it is needed."""

from datetime import timedelta
from uuid import UUID

import msgspec

from contracts.api import RunKwargs
from contracts.codec import unpack
from contracts.ledger import Meta, Payload, Recorded
from domain.decisions import Places
from domain.run import Run, run_of
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.repository import Aggregates

TICK = timedelta(milliseconds=1)


class InputErased(Exception):
    """The large value that the run was to get is no longer in the log."""


class Story(msgspec.Struct, frozen=True):
    """A run with the events that tell of it, oldest first, and the lanes in which it stands."""

    run: Run | None
    events: list[Recorded]
    places: Places

    @property
    def corr(self) -> str:
        """The id shared by everything that the run's request led to."""
        return self.events[0].meta.corr if self.events else ""

    def meta(self, clock: Clock, actor: str) -> Meta:
        """The meta of what the newest event leads to; the time of a run never goes back, whatever clocks do."""
        newest = self.events[-1]
        return Meta(
            at=max(clock.now(), newest.meta.at + TICK),
            actor=actor,
            cause=f"{newest.stream_id}.{newest.version}",
            corr=self.corr,
        )


def story_of(log: Aggregates, run_id: UUID) -> Story:
    """The run as the log has it now; its run is None when there is none, or it was skipped."""
    events = log.stream(run_id)
    run = run_of(run_id, events)
    return Story(run, events, () if run is None else log.lanes(run.lanes))


def kwargs_of(log: EventLog, payload: Payload) -> RunKwargs:
    """What the run was asked to do. Raises InputErased."""
    return _decode_kwargs(value_of(log, payload))


def value_of(log: EventLog, payload: Payload) -> bytes:
    """The JSON of a payload, inline or not. Raises InputErased."""
    data = unpack(payload, log.blob)
    if data is None:
        raise InputErased(f"the value {payload.sha256} is no longer in the log")
    return data


_decode_kwargs = msgspec.json.Decoder(RunKwargs).decode
