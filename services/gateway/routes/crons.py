"""/runs/crons, and those of a thread: create, read, change, delete, search, what they did and will do."""

from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import msgspec
from litestar import Controller, Request, Response
from litestar.di import Provide
from litestar.params import Dependency, Parameter

from contracts.answers.crons import (
    Coming,
    CronTold,
    CronWithLedger,
    CronWithRun,
    OccurrenceAnswer,
    SchedulePreview,
)
from contracts.answers.runs import RunAnswer
from contracts.api import (
    CronCount,
    CronCreate,
    CronPatch,
    CronPause,
    CronPreview,
    CronResume,
    CronSearch,
    CronTrigger,
)
from contracts.events import CatchUp, Overlap
from domain.errors import EmptyUpdate, RunNotFound
from services.gateway.commands import crons as commands
from services.gateway.envelope import Caller, uuid_of
from services.gateway.handlers import By, Limit, Parts, deletes, many, patches, posts, reads
from services.gateway.parts import GatewayParts
from services.gateway.queries import crons as queries
from services.gateway.queries.filters import instant_of
from services.gateway.queries.runs import RunAddress, first_shown
from services.gateway.queries.search import count

Became = Annotated[
    Literal["fired", "skipped", "missed", "pending"] | None,
    Parameter(description="only what became of them so; `pending`: those that are to come, soonest first"),
]
After = Annotated[str | None, Parameter(description="strictly after this instant (ISO 8601); now by default")]
IgnoreState = Annotated[
    bool, Parameter(description="whether to tell of one that is paused or has ended, too")
]
Begin = Annotated[str, Parameter(query="from", description="from this instant on (ISO 8601)")]
End = Annotated[str, Parameter(description="before this instant (ISO 8601)")]
OnlyFrom = Annotated[str | None, Parameter(query="from", description="from this instant on (ISO 8601)")]
OnlyTo = Annotated[str | None, Parameter(query="to", description="before this instant (ISO 8601)")]
Counted = Annotated[
    int | None, Parameter(ge=0, le=1 << 53, description="how many to pass over; a cursor costs less")
]
Behind = Annotated[
    str | None, Parameter(description="go on behind this place: the X-Pagination-Next of a page before")
]
OfCron = Annotated[str | None, Parameter(query="cron_id", description="of this cron only")]
IdempotencyKey = Annotated[
    str | None,
    Parameter(
        header="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="the same key within a day gives the same run",
    ),
]


def _extension(name: str, words: str, **bounds: int) -> Any:
    """A field of a cron that may come in the query."""
    return Parameter(query=name, description=f"{words}; in the body too", **bounds)  # type: ignore[arg-type]


NoteOf = Annotated[str | None, _extension("note", "why it is as it is", max_length=500)]
CatchUpOf = Annotated[
    CatchUp | None,
    _extension("catch_up", "what fires late after downtime: the newest missed occurrence, none, or each"),
]
WindowOf = Annotated[
    int | None,
    _extension("catch_up_window_seconds", "occurrences that are older never fire late", ge=0, le=31_536_000),
]
StartOf = Annotated[str | None, _extension("start_time", "nothing is due before this instant (ISO 8601)")]
JitterOf = Annotated[
    int | None,
    _extension(
        "jitter_seconds",
        "each occurrence fires up to so much after it is due, always by the same",
        ge=0,
        le=3600,
    ),
]
MaxRunsOf = Annotated[
    int | None,
    _extension("max_runs", "its schedule fires so many runs, and then it is exhausted", ge=1, le=1 << 53),
]
FailuresOf = Annotated[
    int | None,
    _extension(
        "pause_after_failures",
        "it pauses itself when so many of its runs in a row have failed",
        ge=1,
        le=1 << 53,
    ),
]
OverlapOf = Annotated[
    Overlap | None,
    _extension("overlap", "what an occurrence does while an earlier run of the cron is not over"),
]
C = TypeVar("C", CronCreate, CronPatch)
Force = Annotated[bool, Parameter(description="whether it waits where its `overlap` would refuse it")]
Said = Annotated[dict[str, Any], Dependency(skip_validation=True)]
"""Fields of a cron that came in the query."""
New = Response[CronWithRun | CronWithLedger]
Incoming = Request[Any, Any, Any]


def said_in_query(
    caller: By,
    note: NoteOf = None,
    catch_up: CatchUpOf = None,
    catch_up_window_seconds: WindowOf = None,
    start_time: StartOf = None,
    jitter_seconds: JitterOf = None,
    max_runs: MaxRunsOf = None,
    pause_after_failures: FailuresOf = None,
    overlap: OverlapOf = None,
) -> dict[str, Any]:
    """Fields of a cron in the query, where clients put what their library does not know.

    It rests on `caller` so that it comes after it, as that on `parts`.
    """
    found = {
        "note": note,
        "catch_up": catch_up,
        "catch_up_window_seconds": catch_up_window_seconds,
        "start_time": instant_of("start_time", start_time),
        "jitter_seconds": jitter_seconds,
        "max_runs": max_runs,
        "pause_after_failures": pause_after_failures,
        "overlap": overlap,
    }
    return {name: value for name, value in found.items() if value is not None}


SAID = {"said": Provide(said_in_query, sync_to_thread=False)}


class ThreadCronController(Controller):
    """Schedules on a conversation."""

    path = "/threads/{thread_id:str}/runs/crons"
    tags = ["crons"]
    dependencies = SAID

    @posts(summary="Create a cron for a thread")
    async def create_thread_cron(
        self,
        request: Incoming,
        parts: Parts,
        caller: By,
        thread_id: UUID,
        data: CronCreate,
        said: Said,
    ) -> New:
        """The cron with its first run, which begins at once; the cron alone when it has none."""
        return await _created(request, parts, caller, _with(data, said), thread_id)


class CronController(Controller):
    """Schedules."""

    path = "/runs/crons"
    tags = ["crons"]
    dependencies = SAID

    @posts(summary="Create a cron whose runs have a thread each")
    async def create_cron(
        self, request: Incoming, parts: Parts, caller: By, data: CronCreate, said: Said
    ) -> New:
        """The cron with its first run, which begins at once; the cron alone when it has none."""
        return await _created(request, parts, caller, _with(data, said), None)

    @posts("/search", summary="Search crons")
    async def search_crons(self, parts: Parts, data: CronSearch) -> Response[list[CronWithLedger]]:
        """With `select` an object has the named keys only."""
        found, headers = await queries.matching(parts, data)
        return await many(parts, found, headers)

    @posts("/count", summary="Count crons")
    async def count_crons(self, parts: Parts, data: CronCount) -> int:
        """How many match."""
        return await count(parts.views, queries.filter_of(data))

    @posts("/upcoming", summary="What a schedule means")
    async def preview_schedule(self, parts: Parts, data: CronPreview) -> SchedulePreview:
        """Its next occurrences, its words and what to know of it; nothing is created."""
        return queries.preview(parts, data)

    @reads("/occurrences", summary="What was and what will be, of all crons")
    async def list_calendar(
        self, parts: Parts, begin: Begin, until: End, cron: OfCron = None, limit: Limit = 100
    ) -> list[OccurrenceAnswer]:
        """In a span of at most 366 days, oldest first: what became of occurrences, and what is `pending`."""
        span = queries.span_of(begin, until)
        cron_id = None if cron is None else uuid_of("cron_id", cron)
        return await parts.read(lambda: queries.calendar(parts, *span, cron_id, limit))

    @reads("/{cron_id:str}", summary="Get a cron")
    async def get_cron(self, parts: Parts, cron_id: UUID) -> CronTold:
        """The cron, what became of it with its newest occurrences, and the next ones."""
        return await parts.read(lambda: queries.told(parts, cron_id))

    @patches("/{cron_id:str}", summary="Change, pause or resume a cron")
    async def update_cron(
        self,
        request: Incoming,
        parts: Parts,
        caller: By,
        cron_id: UUID,
        data: CronPatch,
        said: Said,
    ) -> CronWithLedger:
        """Absent fields stay; metadata are merged; null clears what may be absent, or puts it back to its default."""
        if (await request.body()).strip() == b"{}" and not said:
            raise EmptyUpdate("Request body cannot be empty")
        await commands.change(parts, caller, cron_id, _with(data, said))
        return await parts.read(lambda: queries.by_id(parts, cron_id))

    @posts("/{cron_id:str}/pause", summary="Pause a cron")
    async def pause_cron(self, parts: Parts, caller: By, cron_id: UUID, data: CronPause) -> CronWithLedger:
        """Nothing of it fires until it is resumed, or `until` comes; the note says why. Harmless twice."""
        await commands.pause(parts, caller, cron_id, data.note, data.until)
        return await parts.read(lambda: queries.by_id(parts, cron_id))

    @posts("/{cron_id:str}/resume", summary="Resume a cron")
    async def resume_cron(self, parts: Parts, caller: By, cron_id: UUID, data: CronResume) -> CronWithLedger:
        """It fires from now on; what the pause covered is told as missed, unless `catch_up` says that the newest of it
        fires late, or each. Harmless twice.
        """
        await commands.resume(parts, caller, cron_id, data.note, data.catch_up or "skip")
        return await parts.read(lambda: queries.by_id(parts, cron_id))

    @posts("/{cron_id:str}/trigger", summary="Run a cron now")
    async def trigger_cron(
        self,
        parts: Parts,
        caller: By,
        cron_id: UUID,
        data: CronTrigger,
        key: IdempotencyKey = None,
        force: Force = False,
    ) -> Response[RunAnswer]:
        """Besides its schedule, which does not move, and also while it is paused; as its `overlap` says."""
        run_id = await commands.trigger(parts, caller, cron_id, data, key, force=force)
        shown = await parts.read(lambda: first_shown(parts, run_id))
        if shown is None:
            raise RunNotFound("The run of that key was deleted")
        return Response(shown, headers={"Content-Location": RunAddress(run_id, shown.thread_id).path})

    @deletes("/{cron_id:str}", summary="Delete a cron")
    async def delete_cron(self, parts: Parts, caller: By, cron_id: UUID) -> None:
        """Runs that it has begun go on."""
        await commands.delete(parts, caller, cron_id)

    @reads("/{cron_id:str}/upcoming", summary="The next occurrences of a cron")
    async def list_upcoming(
        self,
        parts: Parts,
        cron_id: UUID,
        limit: Limit = 10,
        after: After = None,
        ignore_state: IgnoreState = False,
    ) -> list[Coming]:
        """None of a cron that is paused or has ended, unless its state is to be ignored."""
        begin = instant_of("after", after)
        return await parts.read(
            lambda: queries.upcoming(parts, cron_id, limit, begin, ignore_state=ignore_state)
        )

    @reads("/{cron_id:str}/occurrences", summary="What became of each occurrence of a cron")
    async def list_occurrences(
        self,
        parts: Parts,
        cron_id: UUID,
        status: Became = None,
        begin: OnlyFrom = None,
        end: OnlyTo = None,
        limit: Limit = 100,
        cursor: Behind = None,
        offset: Counted = None,
    ) -> Response[list[OccurrenceAnswer]]:
        """Newest first; a long stretch of missed ones is one object. It stays readable when the cron is deleted.

        `X-Pagination-Next` is the cursor of the next page, or its offset when one was given.
        """
        part = queries.occurrence_page(begin, end, limit, offset, cursor)
        found, headers = await parts.read(lambda: queries.occurrences(parts, cron_id, status, part))
        return await many(parts, found, headers)


async def _created(
    request: Incoming, parts: GatewayParts, caller: Caller, body: CronCreate, thread_id: UUID | None
) -> New:
    cron_id, run_id = await commands.create(parts, caller, body, thread_id)
    shown = await parts.read(lambda: queries.just_made(parts, cron_id, run_id))
    headers = {}
    if isinstance(shown, CronWithRun) and shown.thread_id is not None:
        headers["Content-Location"] = RunAddress(shown.run_id, shown.thread_id).path
    return Response(shown, headers=headers)


def _with(body: C, said: Said) -> C:
    """The body with what the query says."""
    return msgspec.structs.replace(body, **said) if said else body
