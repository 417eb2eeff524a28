"""/threads: create, read, change, delete, search."""

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from contracts.answers.threads import ThreadAnswer
from contracts.api import ThreadCount, ThreadCreate, ThreadPatch, ThreadSearch
from domain.errors import NotSupported
from domain.thread import UpdateThread
from services.gateway.commands import endings
from services.gateway.commands import threads as commands
from services.gateway.handlers import By, Parts, deletes, many, nothing, patches, posts, reads
from services.gateway.queries import threads as queries
from services.gateway.queries.search import count

NOTHING = ResponseSpec(None, description="`Prefer: return=minimal` was asked for.")
Prefer = Annotated[str, Parameter(header="prefer", description="`return=minimal`: answer 204 without a body")]


class ThreadController(Controller):
    """Conversations."""

    path = "/threads"
    tags = ["threads"]

    @posts(summary="Create a thread")
    async def create_thread(self, parts: Parts, caller: By, data: ThreadCreate) -> ThreadAnswer:
        """Empty, or with the state that supersteps make: then all of it, or nothing."""
        thread_id = await commands.create(parts, caller, data)
        return await parts.read(lambda: queries.just_made(parts, thread_id))

    @posts("/search", summary="Search threads")
    async def search_threads(self, parts: Parts, data: ThreadSearch) -> Response[list[ThreadAnswer]]:
        """With `select` an object has the named keys only, with `extract` what paths into it lead to."""
        found, headers = await queries.matching(parts, data)
        return await many(parts, found, headers)

    @posts("/count", summary="Count threads")
    async def count_threads(self, parts: Parts, data: ThreadCount) -> int:
        """How many match."""
        return await count(parts.views, queries.filter_of(data))

    @reads("/{thread_id:str}", summary="Get a thread")
    async def get_thread(self, parts: Parts, thread_id: UUID) -> ThreadAnswer:
        """The thread with the state that its last run left."""
        return await parts.read(lambda: queries.by_id(parts, thread_id))

    @patches("/{thread_id:str}", summary="Merge into a thread's metadata", responses={204: NOTHING})
    async def update_thread(
        self, parts: Parts, caller: By, thread_id: UUID, data: ThreadPatch, prefer: Prefer = ""
    ) -> Response[ThreadAnswer]:
        """Keys are merged (shallow)."""
        if data.ttl is not None:
            raise NotSupported("ttl: not supported yet")
        await commands.change(parts, caller, thread_id, UpdateThread(metadata=data.metadata or {}))
        if "return=minimal" in prefer:
            return nothing()
        return Response(await parts.read(lambda: queries.by_id(parts, thread_id)))

    @deletes("/{thread_id:str}", summary="Delete a thread with its runs and crons")
    async def delete_thread(self, parts: Parts, caller: By, thread_id: UUID) -> None:
        """Its runs are stopped, its crons end."""
        await parts.repository.load(lambda log: log.thread(thread_id))
        await endings.delete_thread(parts, caller, thread_id)
