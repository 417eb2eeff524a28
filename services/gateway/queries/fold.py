"""Rows for an answer while the read models are behind: what they show, and what the log says beyond it."""

from uuid import UUID

from projections.rows import Projection
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import SQL
from services.kit.views import Row


class _Shown:
    """The rows of a read model, with changes that stay in memory."""

    def __init__(self, parts: GatewayParts, projection: Projection) -> None:
        self._views = parts.views
        self._keys = {table.name: table.key for table in projection.TABLES}
        self._rows: dict[tuple[str, bytes | int], Row | None] = {}

    def get(self, table: str, key: bytes | int) -> Row | None:
        if (table, key) not in self._rows:
            query = SQL["row"].format(table=table, key=self._keys[table])
            self._rows[table, key] = self._views.one(query, (key,))
        return self._rows[table, key]

    def put(self, table: str, row: Row) -> None:
        self._rows[table, row[self._keys[table]]] = row

    def delete(self, table: str, key: bytes | int) -> None:
        self._rows[table, key] = None

    def delete_where(self, table: str, column: str, value: bytes | int) -> None:
        """Rows of other keys are in no answer about this one."""


def row(parts: GatewayParts, projection: Projection, table: str, stream_id: UUID) -> Row | None:
    """The row of that id, also when the read models have not come to it yet; None when there is none."""
    newest = parts.log.newest([stream_id]).get(stream_id)
    is_shown = newest is None or newest.position <= parts.views.position(projection.NAME)
    events = [] if is_shown else parts.log.stream(stream_id)
    shown = _Shown(parts, projection)
    for recorded in events:
        projection.apply(shown, recorded)
    return shown.get(table, stream_id.bytes)
