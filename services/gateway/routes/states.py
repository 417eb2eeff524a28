"""/threads/{thread_id}/state, history and copy: a thread's state now, at a checkpoint, its past; written, copied."""

from typing import Annotated, Any
from uuid import UUID

from litestar import Controller
from litestar.params import Parameter

from contracts.answers.states import StateAnswer, StateWritten
from contracts.answers.threads import ThreadAnswer
from contracts.api import HistoryQuery, StateAtCheckpoint, StateUpdate
from services.gateway.commands import states as commands
from services.gateway.commands.states import checked, place_of
from services.gateway.handlers import By, Limit, Parts, posts, reads
from services.gateway.queries import states as queries
from services.gateway.queries import threads

WithSubgraphs = Annotated[bool, Parameter(description="whether subgraphs that pause show their states")]
Before = Annotated[str | None, Parameter(description="a checkpoint id: only states before it")]


class StateController(Controller):
    """States of threads."""

    path = "/threads/{thread_id:str}"
    tags = ["threads"]

    @reads("/state", summary="The state of a thread")
    async def get_state(self, parts: Parts, thread_id: UUID, subgraphs: WithSubgraphs = False) -> StateAnswer:
        """Without a worker, what the last run left."""
        return await queries.newest(parts, thread_id, subgraphs=subgraphs)

    @posts("/state", summary="Write into a thread's state")
    async def update_state(
        self, parts: Parts, caller: By, thread_id: UUID, data: StateUpdate
    ) -> StateWritten:
        """On top of the newest checkpoint, or of the one that is named: that forks it."""
        return await commands.update(parts, caller, thread_id, data)

    @reads("/state/{checkpoint_id:str}", summary="The state at a checkpoint, by its id")
    async def get_state_at(
        self, parts: Parts, thread_id: UUID, checkpoint_id: str, subgraphs: WithSubgraphs = False
    ) -> StateAnswer:
        """Empty values when there is no such checkpoint."""
        place = checked("checkpoint_id", checkpoint_id)
        return await queries.at(parts, thread_id, checkpoint_id=place, subgraphs=subgraphs)

    @posts("/state/checkpoint", summary="The state at a checkpoint")
    async def find_state_at(self, parts: Parts, thread_id: UUID, data: StateAtCheckpoint) -> StateAnswer:
        """A checkpoint of a subgraph too."""
        place = place_of(data.checkpoint)
        return await queries.at(parts, thread_id, **place, subgraphs=bool(data.subgraphs))

    @reads("/history", summary="States of a thread")
    async def get_history(
        self, parts: Parts, thread_id: UUID, limit: Limit = 10, before: Before = None
    ) -> list[StateAnswer]:
        """Newest first."""
        fields: dict[str, Any] = {} if before is None else {"before": checked("before", before)}
        return await queries.history(parts, thread_id, limit=limit, **fields)

    @posts("/history", summary="Search the states of a thread")
    async def search_history(self, parts: Parts, thread_id: UUID, data: HistoryQuery) -> list[StateAnswer]:
        """Newest first."""
        fields: dict[str, Any] = {"limit": data.limit or 1, "metadata": data.metadata or None}
        if data.before is not None:
            fields["before"] = _before(data.before)
        if data.checkpoint is not None:
            fields["checkpoint_ns"] = place_of(data.checkpoint)["checkpoint_ns"]
        return await queries.history(parts, thread_id, **fields)

    @posts("/copy", summary="Copy a thread with its state and history")
    async def copy_thread(self, parts: Parts, caller: By, thread_id: UUID) -> ThreadAnswer:
        """The new thread."""
        copy_id = await commands.copy(parts, caller, thread_id)
        return await parts.read(lambda: threads.by_id(parts, copy_id))


def _before(before: str | dict[str, Any]) -> str:
    """The id in any form: itself, in a checkpoint, in a config that holds one. Raises InvalidField."""
    if isinstance(before, str):
        return checked("before", before)
    holder = before.get("configurable", before)
    return checked("before", holder.get("checkpoint_id") if isinstance(holder, dict) else None)
