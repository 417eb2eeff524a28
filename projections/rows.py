"""What a read model is made of: tables, and the rows that events change."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec

from contracts.ledger import Recorded

Row = dict[str, Any]
_encode = msgspec.json.Encoder().encode


Column = Literal[
    "id", "id?", "bytes", "bytes?", "text", "text?", "json", "json?",
    "instant", "instant?", "second", "second?", "int", "int?", "flag",
]  # fmt: skip
"""What a column holds; with `?` it may be missing.

`id`: the 16 bytes of a UUID. `text`: sorted by its code points. `json`: JSON as text. `instant`: microseconds,
`second`: seconds since 1970. `int`: 64 bits. `flag`: 0 or 1.
"""


class Table(msgspec.Struct, frozen=True):
    """A table: column -> what it holds, the key column, and indexes (`(columns) [WHERE ...]`).

    `rowless`: where a database can, the rows stand in the tree of the key itself; for small rows that are found
    by their key.
    """

    name: str
    columns: dict[str, Column]
    key: str
    indexes: tuple[str, ...] = ()
    rowless: bool = False


class Rows(Protocol):
    """The rows of one batch of events; what is put is seen by the next `get`."""

    def get(self, table: str, key: bytes | int) -> Row | None:
        """The row, to be changed in place and put again; None when there is none."""
        ...

    def put(self, table: str, row: Row) -> None:
        """Insert or replace the row of that key. All columns must be present."""
        ...

    def delete(self, table: str, key: bytes | int) -> None:
        """Remove the row; harmless when there is none."""
        ...

    def delete_where(self, table: str, column: str, value: bytes | int) -> None:
        """Remove every row with that value."""
        ...


class Projection(Protocol):
    """A read model: a module with its name, version and tables, and what each event does to them.

    Raise VERSION when the tables or their meaning change: the read model is then built anew beside the old one.
    """

    @property
    def NAME(self) -> str: ...  # noqa: N802

    @property
    def VERSION(self) -> int: ...  # noqa: N802

    @property
    def TABLES(self) -> Sequence[Table]: ...  # noqa: N802

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        """Change the rows as the event says. Harmless when applied twice."""
        ...


def micros(instant: datetime) -> int:
    """Microseconds since the epoch."""
    # By parts: a float of seconds would lose the last digit.
    return int(instant.timestamp()) * 1_000_000 + instant.microsecond


def maybe_micros(instant: datetime | None) -> int | None:
    """The same for what may be missing."""
    return None if instant is None else micros(instant)


def seconds(instant: datetime) -> int:
    """Whole seconds since the epoch."""
    return int(instant.timestamp())


def blob(value: UUID | None) -> bytes | None:
    """An id as it is stored."""
    return None if value is None else value.bytes


def text(value: Any) -> str:
    """Any value as JSON text."""
    return _encode(value).decode()


def maybe_text(value: Any) -> str | None:
    """The same for what may be missing."""
    return None if value is None else _encode(value).decode()
