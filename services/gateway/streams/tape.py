"""Everything that the runs of a thread have emitted and will emit, run after run: a tape without an end."""

import asyncio
from collections import deque
from typing import Any
from uuid import UUID

import msgspec

from contracts.events import RunDeleted, RunStarted
from contracts.subjects import RUNEV
from domain.run import run_of
from services.gateway.answers.values import payload_of
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import SQL
from services.gateway.streams.channel import BEGINNING
from services.gateway.streams.cursor import Cursor, Ended, Step
from services.gateway.streams.ends import ENDINGS
from services.gateway.streams.outcomes import Outcome
from services.kit.views import Row

KEPT_S = RUNEV.max_age_s
"""How long events are there at most: of runs that ended before, nothing can be told."""
ROWS = 100
LAG_S = 0.5
OF_POSITION = 1 << 22
"""Events are numbered by the log's position at which their attempt began, times this, and by their place in it:
so the numbers are the same for whoever asks, grow along a thread, and stay below 2^53 up to position 2^31."""
OUTCOMES = ENDINGS - {RunDeleted.TOPIC}


class TapeRun(msgspec.Struct):
    """A run on the tape, with the numbers of its beginning and, once that was told, of its end."""

    run_id: UUID
    graph_id: str
    kind: str
    first: int
    began_ms: int
    last: int = 0
    ended_ms: int = 0
    answered: tuple[str, ...] = ()  # interrupts that it answers, as far as it names them


class Begun(msgspec.Struct, frozen=True):
    """The run has begun; or it has ended and never will."""


TapeStep = tuple[TapeRun, Begun | Step]


class Tape:
    """The runs of a thread in the order in which they began, one after the other: in a lane no two work at a time.

    A run that ended while it waited comes behind the one that worked then. A thread that does not exist has an empty
    tape. `is_whole`: it begins with what is still there, otherwise with what comes from now on. Whoever opens one must
    close it.
    """

    def __init__(self, parts: GatewayParts, thread_id: UUID, *, is_whole: bool = True) -> None:
        self._parts, self._thread_id, self._is_whole = parts, thread_id, is_whole
        self._position = -1  # of the log, up to which runs were looked for; -1: not yet
        self._now = 0  # the position at which it was opened
        self._rows: deque[Row] = deque()
        self._cursor: Cursor | None = None
        self._run: TapeRun | None = None  # the one that is followed, or was last
        self._rank = 0  # how many have ended without beginning, behind that one
        self._news = asyncio.Event()
        self._leave = parts.ends.watch_thread(thread_id, self._news.set)

    @property
    def is_cut_off(self) -> bool:
        """True when the server stops: the stream closes, and its client comes back."""
        return not self._parts.live.started

    def close(self) -> None:
        """Give back what it holds; twice is harmless."""
        self._leave()
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()

    async def next(self, timeout_s: float) -> list[TapeStep]:
        """What comes next; nothing when that took longer, or it is cut off. Raises ConnectionError."""
        clock = self._parts.clock
        until_s = clock.monotonic_s() + timeout_s
        while not self.is_cut_off:
            left_s = until_s - clock.monotonic_s()
            if self._cursor is not None:
                steps = await self._followed(self._cursor, left_s)
            else:
                self._news.clear()
                steps = await self._begun()
                if not steps and left_s > 0:
                    await self._wait(left_s)
            if steps or left_s <= 0:
                return steps
        return []

    async def _wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            pass

    # --- a run --------------------------------------------------------------------------------------

    async def _followed(self, cursor: Cursor, timeout_s: float) -> list[TapeStep]:
        run = self._run
        assert run is not None
        steps = await cursor.next(timeout_s)
        if steps and isinstance(steps[-1], Ended):
            history = await self._history(run.run_id)
            ended = next((row for row in history if row["topic"] in OUTCOMES), history[-1])
            run.last, run.ended_ms = ended["position"] * OF_POSITION, ended["at"] // 1000
            self._cursor = None
            cursor.close()
        return [(run, step) for step in steps]

    # --- the next run -------------------------------------------------------------------------------

    async def _begun(self) -> list[TapeStep]:
        """The next run that begins, or that has ended and did not."""
        if self._position < 0:
            await self._rewind()
        while self._rows or await self._look():
            row = self._rows.popleft()
            run_id = row["run_id"]
            if run_id is None or (self._run is not None and self._run.run_id.bytes == run_id):
                continue
            if row["topic"] == RunStarted.TOPIC or row["topic"] in OUTCOMES:
                steps = await self._opened(UUID(bytes=run_id), row)
                if steps:
                    return steps
        return []

    async def _opened(self, run_id: UUID, row: Row) -> list[TapeStep]:
        log = self._parts.log
        run = await self._parts.read(lambda: run_of(run_id, log.stream(run_id)))
        if run is None:
            return []
        history = await self._history(run_id)
        began = next((one for one in history if one["topic"] == RunStarted.TOPIC), None)
        found = TapeRun(run_id, run.request.graph_id, run.request.kind, 0, row["at"] // 1000)
        found.answered = await self._parts.read(lambda: _answered(payload_of(run.request.kwargs, log.blob)))
        if began is None:
            return await self._never_begun(found, row)
        found.first, found.began_ms = began["position"] * OF_POSITION, began["at"] // 1000
        is_new = self._is_whole or row["position"] > self._now
        self._cursor = await Cursor.open(self._parts.live, run_id, BEGINNING if is_new else None)
        self._run, self._rank = found, 0
        return [(found, Begun())]

    async def _never_begun(self, run: TapeRun, row: Row) -> list[TapeStep]:
        """It may have ended before the one that worked then, behind which it is told."""
        number = row["position"] * OF_POSITION
        if self._run is not None and number < self._run.last:
            number = self._run.last + 1 + 2 * self._rank
            self._rank += 1
        run.first, run.last, run.ended_ms = number, number + 1, run.began_ms
        return [(run, Begun()), (run, Ended(await self._outcome(run.run_id)))]

    async def _outcome(self, run_id: UUID) -> Outcome:
        while (found := await self._parts.live.outcome_of(run_id)) is None:
            await self._parts.changed(LAG_S)  # one read model is behind the other
        return found

    # --- what the read models have -------------------------------------------------------------------

    async def _rewind(self) -> None:
        """Begin with what may still be there: runs that work, and whatever happened in the time of the stream."""
        views, thread = self._parts.views, self._thread_id.bytes
        since = int((self._parts.clock.wall_s() - KEPT_S) * 1_000_000)

        def look() -> tuple[Row | None, Row | None, list[Row]]:
            working = views.all(SQL["at_work_on_thread"], (thread,))
            return views.one(SQL["happened_until"]), views.one(SQL["happened_before"], (since,)), working

        now, before, working = await self._parts.read(look)
        self._now = 0 if now is None else int(now["position"])
        kept_from = 0 if before is None else int(before["position"])
        self._position = kept_from if self._is_whole else self._now
        for row in working:
            for one in await self._history(UUID(bytes=row["run_id"])):
                if one["topic"] == RunStarted.TOPIC and one["position"] <= self._position:
                    self._rows.append(one)

    async def _look(self) -> bool:
        """Whether something more has happened on the thread."""
        views, params = self._parts.views, (self._thread_id.bytes, self._position, ROWS)
        rows = await self._parts.read(lambda: views.all(SQL["happened_on_thread"], params))
        if rows:
            self._rows.extend(rows)
            self._position = rows[-1]["position"]
        return bool(rows)

    async def _history(self, run_id: UUID) -> list[Row]:
        views, params = self._parts.views, (run_id.bytes,)
        found: list[Row] = await self._parts.read(lambda: views.all(SQL["happened_to_run"], params))
        return found


def _answered(kwargs: Any) -> tuple[str, ...]:
    """The interrupts to which a run brings answers, by their ids."""
    if kwargs is None:  # erased
        return ()
    try:
        command = _resuming(kwargs).command
    except msgspec.MsgspecError:  # it answers without a name
        return ()
    return () if command is None else tuple(command.resume)


class _Command(msgspec.Struct):
    resume: dict[str, msgspec.Raw] = {}


class _Resuming(msgspec.Struct):
    command: _Command | None = None


_resuming = msgspec.json.Decoder(_Resuming).decode
