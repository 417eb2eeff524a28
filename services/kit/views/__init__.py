"""Reads of the read models' database; knows no table.

Queries are in the SQL that both databases understand, to the same effect: `?` for a parameter, `ASC NULLS FIRST` or
`DESC NULLS LAST` where a column that is sorted by may be missing, `true`, an alias for each subquery. Beyond it there
are `json_contains(json, json)` (PostgreSQL's `@>`; of nothing false) and `instr(text, text)`. A plus before a
column or a condition keeps SQLite from an index by it, and says nothing to PostgreSQL.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from services.kit.mendable import Mendable

Row = dict[str, Any]
POSITION = "SELECT pos FROM tracking WHERE name = ?"


class ViewsUnavailable(Mendable):
    """The database of the read models can't be reached, or does not answer in time."""


class Views(Protocol):
    """Reads for any thread, one query after the other. Raises ViewsUnavailable, and what the driver says of a file."""

    @property
    def is_near(self) -> bool:
        """Whether a point read costs less than a thread hop; if not, it is no read for the event loop."""
        ...

    def all(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        """Every row of the answer."""
        ...

    def one(self, query: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row of the answer, None when there is none."""
        ...

    def position(self, name: str) -> int:
        """The position of the log that this read model has reached; 0 when it does not exist."""
        ...

    def close(self) -> None:
        """Close the connections of all threads; the next read opens a new one."""
        ...
