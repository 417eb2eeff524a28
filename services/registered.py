"""The graphs that workers have registered, and whose pool of workers has each, as their default assistants say."""

from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from contracts.ledger import Recorded
from contracts.subjects import DEFAULT_POOL
from domain.assistant import assistant_of
from services.kit.eventlog import EventLog
from services.kit.queries import named
from services.kit.views import Views

SQL = named(Path(__file__).with_name("queries.sql"))
DERIVED = 5
"""The version of the ids that are made of the names of graphs."""


class Graphs:
    """Kept up by whoever follows the log: first `load`, then `take` what came behind the position that it gives."""

    def __init__(self, log: EventLog, views: Views) -> None:
        self._log, self._views = log, views
        self._pools: dict[str, str] = {}
        self._names: dict[UUID, str] = {}

    @property
    def names(self) -> list[str]:
        """Those that are not missing, sorted."""
        return sorted(self._names.values())

    @property
    def is_one_pool(self) -> bool:
        """Whether all of them are in the default pool."""
        return all(pool == DEFAULT_POOL for pool in self._pools.values())

    def pool_of(self, graph_id: str) -> str:
        """Whose workers have the graph, or had it; the default pool for one that nobody has registered."""
        return self._pools.get(graph_id, DEFAULT_POOL)

    def load(self) -> int:
        """Read them all, which blocks; the position from which on they are to be followed."""
        # What is stored between the two looks is taken twice, and means the same.
        position = self._views.position("assistants")
        ids = [UUID(bytes=row["assistant_id"]) for row in self._views.all(SQL["default_assistants"])]
        self.take(self._log.newest(ids).values())
        return position

    def take(self, events: Iterable[Recorded]) -> bool:
        """Go on by these, oldest first; whether a graph is in another pool than it was."""
        moved = False
        for recorded in events:
            if recorded.stream_id.version != DERIVED or not recorded.topic.startswith("assistant."):
                continue
            self._names.pop(recorded.stream_id, None)
            found = assistant_of(recorded.stream_id, recorded)
            if found is None or not found.system:
                continue
            if not found.missing:
                self._names[recorded.stream_id] = found.graph_id
            moved |= self._pools.get(found.graph_id, found.pool) != found.pool
            self._pools[found.graph_id] = found.pool
        return moved
