"""The stream of one run for one client: what is kept, what comes live, and how it ends."""

from collections.abc import AsyncIterator, Callable
from typing import TypeVar
from uuid import UUID

from contracts.work import LiveBatch
from services.gateway.answers import runs as answers
from services.gateway.answers.values import Row
from services.gateway.parts import GatewayParts
from services.gateway.queries.runs import has_ended, in_log
from services.gateway.queries.search import by_id
from services.gateway.streams import frames
from services.gateway.streams.channels import Listener
from services.gateway.streams.frames import EventChoice, Mark

T = TypeVar("T")
HEARTBEAT_S = 5.0
GRACE_S = 1.0
"""How long the last events may come after the read models have shown a run's end."""


class RunStream:
    """Frames of a run, each event once and in order, behind the event that the client saw last.

    `since` = the last event that the client saw; None = what comes from now on. With `whole` the first event
    that comes must be the run's first one: one that was missed is fetched from the bus.
    """

    def __init__(
        self,
        parts: GatewayParts,
        listener: Listener,
        choice: EventChoice,
        *,
        since: Mark | None = None,
        whole: bool = False,
    ) -> None:
        self._parts, self._listener, self._choice = parts, listener, choice
        self._run_id = listener.run_id
        self._since, self._seen = since, since
        self._whole = whole
        self._settled = 0
        self._has_kept = False
        self._nothing_comes = False
        self._leave: Callable[[], None] = lambda: None
        self._grace_until: float | None = None

    def close(self) -> None:
        """Give back what it holds; twice is harmless."""
        self._leave()
        self._listener.close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """One or more frames at a time, heartbeats between; it ends with the run, or when the client lags."""
        self._watch()
        if self._since is not None:
            yield await self._caught_up()
        elif not self._whole and await self._read(has_ended):
            self._nothing_comes = True
        beat_at = self._now() + HEARTBEAT_S
        while not await self._is_over() and not self._listener.is_cut_off:
            if await self._listener.news(self._wait_s(beat_at)):
                piece = await self._taken()
                if piece:
                    yield piece
            elif self._now() >= beat_at:
                yield frames.HEARTBEAT
                beat_at = self._now() + HEARTBEAT_S
        if self._listener.is_cut_off:
            return
        if self._listener.is_doubtful:
            yield await self._kept()
        while self._settled and not await self._parts.reached(self._settled, HEARTBEAT_S):
            yield frames.HEARTBEAT  # nobody hears of an end that nobody can read
        yield await self._read(ending)

    # --- live ---------------------------------------------------------------------------------------

    async def _taken(self) -> bytes:
        piece = b""
        for batch in self._listener.take():
            if self._skips(batch):
                piece += await self._kept()
            piece += self._new(batch)
        return piece

    def _new(self, batch: LiveBatch) -> bytes:
        """The frames of what was not seen yet."""
        began, seq = self._seen or frames.BEGINNING
        if batch.began_ms < began:
            return b""  # of an attempt that was given up
        events = batch.events
        if batch.began_ms == began and events and events[0].seq <= seq:
            events = [event for event in events if event.seq > seq]
        if events:
            self._seen = (batch.began_ms, events[-1].seq)
        self._settled = batch.settled or self._settled
        return frames.frames(batch, events, self._choice)

    def _skips(self, batch: LiveBatch) -> bool:
        """Whether something between what was seen and this batch did not come."""
        if not batch.events or (self._seen is None and not self._whole):
            return False
        began, seq = self._seen or frames.BEGINNING
        if batch.began_ms < began:
            return False
        return batch.events[0].seq > (seq + 1 if batch.began_ms == began else 1)

    # --- kept on the bus ----------------------------------------------------------------------------

    async def _kept(self, *, is_known: bool = True) -> bytes:
        """The frames of what the bus has and the client has not seen; all of it if nobody knows what that was."""
        try:
            batches = await self._parts.live.kept(self._run_id)
        except (ConnectionError, TimeoutError):
            return b""
        self._has_kept = self._has_kept or bool(batches)
        batches.sort(key=_place)  # after a lost connection older ones are sent again
        if not is_known and self._seen and all(batch.began_ms != self._seen[0] for batch in batches):
            self._seen = frames.BEGINNING  # an id of no attempt that we know
        return b"".join([self._new(batch) for batch in batches])

    async def _caught_up(self) -> bytes:
        """The frames behind `since`; milestones when the bus has forgotten the run."""
        piece = await self._kept(is_known=False)
        row = await self._read(_row)
        if self._has_kept or row is None or not self._ended_long_ago(row):
            return piece
        self._nothing_comes = True
        return await self._parts.read(lambda: milestones(self._parts, row, self._choice))

    def _ended_long_ago(self, row: Row) -> bool:
        ended_at = row["ended_at"]
        return ended_at is not None and self._parts.clock.wall_s() > ended_at / 1_000_000 + GRACE_S

    async def _read(self, question: Callable[[GatewayParts, UUID], T]) -> T:
        return await self._parts.read(lambda: question(self._parts, self._run_id))

    # --- the end ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._leave()
        self._leave = self._parts.ends.watch(self._run_id, self._listener.ended)

    async def _is_over(self) -> bool:
        """Whether nothing of the run is still to come."""
        if self._settled or self._nothing_comes:
            return True
        if not self._listener.has_ended:
            return False
        if self._grace_until is None:
            await self._begin_grace()
        return self._grace_until is not None and self._now() >= self._grace_until

    async def _begin_grace(self) -> None:
        """The read models show the end: the worker's last events are on their way, if it lives."""
        if not await self._read(has_ended):
            self._listener.has_ended = False
            self._watch()  # the read models lag behind the request
        elif await self._read(was_started):
            self._listener.doubt()
            self._grace_until = self._now() + GRACE_S
        else:
            self._grace_until = self._now()

    def _wait_s(self, beat_at: float) -> float:
        until = beat_at if self._grace_until is None else min(beat_at, self._grace_until)
        return max(0.0, until - self._now())

    def _now(self) -> float:
        return self._parts.clock.monotonic_s()


def ending(parts: GatewayParts, run_id: UUID) -> bytes:
    """The frame that closes a run's stream; empty while it goes on."""
    row = by_id(parts.views, "runs", "run_id", run_id)
    if row is not None and row["phase"] == "ended":
        if row["status"] == "error":
            return frames.frame("error", answers.failure_of(row))
        return frames.frame("end", {"status": row["status"]})
    if not has_ended(parts, run_id):
        return b""
    run = in_log(parts, run_id)
    if run is not None and run.gone and run.cancel == "rollback":
        return frames.frame("end", {"status": "rollback"})
    is_known = run is not None and run.status not in ("pending", "running")
    return frames.frame("end", {"status": run.status if run is not None and is_known else "interrupted"})


def was_started(parts: GatewayParts, run_id: UUID) -> bool:
    """Whether a worker ever had the run."""
    run = in_log(parts, run_id)
    return run is not None and run.attempt > 0


def milestones(parts: GatewayParts, row: Row, choice: EventChoice) -> bytes:
    """What can still be told of a run that has ended and whose events are forgotten."""
    run_id, blob_of = UUID(bytes=row["run_id"]), parts.log.blob
    told = frames.frame("metadata", {"run_id": run_id, "attempt": row["attempt"]})
    modes = answers.kwargs_of(row, blob_of).stream_mode
    if "values" in modes and choice.has("values") and row["output"] is not None:
        told += frames.frame("values", answers.values_of(row, blob_of))
    return told


def _place(batch: LiveBatch) -> tuple[int, float]:
    return batch.began_ms, batch.events[0].seq if batch.events else float("inf")


def _row(parts: GatewayParts, run_id: UUID) -> Row | None:
    return by_id(parts.views, "runs", "run_id", run_id)
