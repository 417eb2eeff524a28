"""What the store of the read models needs of a database; an implementation for each stands beside."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from projections.rows import Table

Values = tuple[Any, ...]
MISSING = "?"


class Result(Protocol):
    """What a statement came to: a cursor, as the drivers have it."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Stored(msgspec.Struct, frozen=True, eq=False):
    """A table of a copy: what it is made of, and its name in the database."""

    table: Table
    physical: str
    columns: tuple[str, ...]


class RowChanges(msgspec.Struct):
    """What becomes of the rows of a table: those put whole, columns (by number) of others, and keys that go."""

    put: list[Values] = msgspec.field(default_factory=list)
    update: dict[tuple[int, ...], list[Values]] = msgspec.field(
        default_factory=dict
    )  # the values, then the key
    gone: list[Any] = msgspec.field(default_factory=list)


class Database(Protocol):
    """A connection to it. Used by one thread at a time. What it raises over an edge is the driver's."""

    @property
    def execute(self) -> Callable[..., Result]:
        """(query with `?`, parameters) -> what it came to."""
        ...

    @property
    def learns(self) -> bool:
        """Whether reading many rows at once is worth that a batch is looked at twice."""
        ...

    def transaction(self, *, alone: bool = False) -> AbstractContextManager[None]:
        """All or nothing; `alone`: no other writes meanwhile."""
        ...

    def generation(self) -> int:
        """A number for the tables of a copy, never given before. In a transaction."""
        ...

    def create(self, stored: Stored) -> None:
        """Make an empty table with its indexes."""
        ...

    def names(self) -> list[str]:
        """Of the tables of copies that there are."""
        ...

    def row(self, stored: Stored, key: Any) -> Values | None:
        """The row of that key."""
        ...

    def rows(self, wanted: Sequence[tuple[Stored, list[Any]]]) -> Iterable[tuple[Stored, list[Values]]]:
        """The rows of many keys; those that are not there are left out."""
        ...

    def write(self, changes: Sequence[tuple[Stored, RowChanges]]) -> None:
        """Do that."""
        ...

    def close(self) -> None:
        """Close the connection; twice is harmless."""
        ...


class Home(Protocol):
    """Where a database is."""

    def opened(self) -> Database:
        """A connection to it, laid out. Raises what the driver does, and OtherLayout."""
        ...

    def picture(self) -> AbstractContextManager[Any]:
        """What reads it as it is now (`execute` -> Result), however it goes on."""
        ...

    def is_damage(self, exc: Exception) -> bool:
        """Whether it must be made anew; a lock, a full disk and a server that is away are no damage."""
        ...

    def remove(self) -> None:
        """Remove what can be built again."""
        ...
