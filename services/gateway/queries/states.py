"""States of a thread: asked of its graph; of one without a graph, what the read models know."""

from typing import Any
from uuid import UUID

import msgspec

from contracts import queries
from contracts.answers.states import StateAnswer
from domain.assistant import Assistant, default_assistant_id
from domain.errors import NotFound, ThreadWithoutGraph
from domain.spec import points_of
from services.gateway.answers import states as answers
from services.gateway.answers.values import Row
from services.gateway.parts import GatewayParts
from services.gateway.queries import graphs
from services.gateway.queries.graphs import GraphsUnavailable
from services.gateway.queries.search import thread_row
from services.repository import Aggregates


class Belonging(msgspec.Struct, frozen=True):
    """A thread's row, its graph ('' = none), and the assistant of its newest run, if it is still there."""

    row: Row
    graph_id: str
    assistant: Assistant | None

    @property
    def about(self) -> dict[str, Any]:
        """Which graph is asked about which thread, configured as for the newest run."""
        return {
            "graph_id": self.graph_id,
            "thread_id": str(UUID(bytes=self.row["thread_id"])),
            "config": self.assistant.config if self.assistant else {},
            "context": self.assistant.context if self.assistant else {},
        }


async def newest(parts: GatewayParts, thread_id: UUID, *, subgraphs: bool) -> StateAnswer:
    """The state now; without a worker, what the last run left. Raises ThreadNotFound, and what `ask` raises."""
    try:
        return await at(parts, thread_id, subgraphs=subgraphs)
    except (GraphsUnavailable, NotFound):
        if subgraphs:
            raise
        return await parts.read(lambda: answers.state(thread_row(parts, thread_id), parts.log.blob))


async def at(parts: GatewayParts, thread_id: UUID, **place: Any) -> StateAnswer:
    """The state at a checkpoint. Raises ThreadNotFound, and what `ask` raises."""
    found = await belonging(parts, thread_id)
    if not found.graph_id:
        return await parts.read(lambda: answers.state(found.row, parts.log.blob))
    state: StateAnswer = await _asked(parts, found, queries.State(**found.about, **place))
    return state


async def history(parts: GatewayParts, thread_id: UUID, **fields: Any) -> list[StateAnswer]:
    """States, newest first. Raises ThreadNotFound, and what `ask` raises."""
    found = await belonging(parts, thread_id)
    if not found.graph_id:
        return []
    states: list[StateAnswer] = await _asked(parts, found, queries.History(**found.about, **fields))
    return states


async def must_have(parts: GatewayParts, thread_id: UUID, configurable: dict[str, Any]) -> None:
    """Raises NotFound unless the thread has every checkpoint that the configurable names."""
    points = points_of(configurable)
    if points:
        query = queries.CheckpointsExist(thread_id=str(thread_id), points=points)
        await graphs.ask(parts, query, None)


async def belonging(parts: GatewayParts, thread_id: UUID) -> Belonging:
    """The thread with what its state depends on. Raises ThreadNotFound."""

    def load(log: Aggregates) -> Belonging:
        row = thread_row(parts, thread_id)
        assistant_id = row["assistant_id"]
        assistant = log.assistant_or_none(UUID(bytes=assistant_id)) if assistant_id else None
        return Belonging(row, _graph_of(row), assistant)

    return await parts.read(lambda: load(Aggregates(parts.log)))


async def writing_assistant(parts: GatewayParts, found: Belonging) -> Assistant:
    """Whose configuration the graph has while the state is written. Raises ThreadWithoutGraph, NotFound."""
    if not found.graph_id:
        raise ThreadWithoutGraph(
            "Thread has no graph: start a run on it, or create it with 'graph_id' in its metadata."
        )
    _known(parts, found.graph_id)
    default = str(default_assistant_id(found.graph_id))
    assistant = found.assistant
    if assistant is None:
        assistant = await parts.repository.load(lambda log: log.assistant(default))
    # It may have been given another graph since the run.
    return msgspec.structs.replace(assistant, graph_id=found.graph_id)


def _graph_of(row: Row) -> str:
    """The graph of the thread: its newest run's, else the one that its metadata name; '' when there is none."""
    if row["temporary"]:
        return ""  # nothing of it is kept
    named = row["graph_id"] or msgspec.json.decode(row["metadata"]).get("graph_id")
    return named if isinstance(named, str) else ""


async def _asked(parts: GatewayParts, found: Belonging, query: queries.GraphQuery) -> Any:
    _known(parts, found.graph_id)
    return await graphs.ask(parts, query, msgspec.Raw)


def _known(parts: GatewayParts, graph_id: str) -> None:
    if graph_id not in parts.graphs:
        raise NotFound(f"graph_id: the project has no graph '{graph_id[:100]}', which the thread belongs to")
