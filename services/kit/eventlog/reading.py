"""Reads of a ledger file: synchronous, on connections that can't write, from any thread and process."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from contracts.codec import EventCodec
from contracts.ledger import RawRecorded, Recorded
from services.kit.eventlog import LeaseRow
from services.kit.queries import named
from services.kit.readers import Readers

SQL = named(Path(__file__).with_name("queries.sql"))
END = (1 << 62) - 1
LAST = "\U0010ffff"
"""The greatest character: what begins with a prefix sorts before the prefix and it."""


class SqliteReader:
    """What the EventLog Protocol asks of reading."""

    is_near = True

    def __init__(self, path: Path, codec: EventCodec) -> None:
        self._codec, self._readers = codec, Readers(path)

    def stream(self, stream_id: UUID, after_version: int = 0) -> list[Recorded]:
        return self._decoded(self._rows(SQL["stream"], (stream_id.bytes, after_version)))

    def newest(self, stream_ids: Iterable[UUID]) -> dict[UUID, Recorded]:
        # A point read for each: one statement for all of them would be no faster, and has no text of its own.
        rows = [row for stream in stream_ids for row in self._rows(SQL["newest"], (stream.bytes,))]
        return {recorded.stream_id: recorded for recorded in self._decoded(rows)}

    def read(self, after: int, limit: int, until: int | None = None) -> list[Recorded]:
        return self._decoded(self._rows(SQL["range"], (after, END if until is None else until, limit)))

    def read_topics(self, prefix: str, after: int, until: int, limit: int) -> list[Recorded]:
        return self._decoded(self._rows(SQL["topics"], (after, until, prefix, prefix + LAST, limit)))

    def read_raw(self, after: int, limit: int, until: int | None = None) -> list[RawRecorded]:
        rows = self._rows(SQL["range"], (after, END if until is None else until, limit))
        return [RawRecorded(row[0], UUID(bytes=row[1]), row[2], row[3], row[4]) for row in rows]

    def at_positions(self, positions: Sequence[int]) -> list[Recorded]:
        rows = [row for position in sorted(set(positions)) for row in self._rows(SQL["at"], (position,))]
        return self._decoded(rows)

    def head(self) -> int:
        return int(self._rows(SQL["head"])[0][0])

    def blob(self, sha256: str) -> bytes | None:
        rows = self._rows(SQL["blob"], (sha256,))
        return bytes(rows[0][0]) if rows else None

    def leases(self, prefix: str) -> list[LeaseRow]:
        rows = self._rows(SQL["leases"], (prefix, prefix + LAST))
        return [LeaseRow(name, holder, datetime.fromtimestamp(until, UTC)) for name, holder, until in rows]

    def cursor(self, name: str) -> int:
        rows = self._rows(SQL["cursor"], (name,))
        return int(rows[0][0]) if rows else 0

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def close_readers(self) -> None:
        """Close every connection; the next read opens a new one."""
        self._readers.close()

    def _rows(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._readers.fetch(query, params).rows

    def _decoded(self, rows: list[tuple[Any, ...]]) -> list[Recorded]:
        decode = self._codec.decode
        found = []
        for position, stream_id, version, topic, state in rows:
            meta, body = decode(topic, state)
            found.append(Recorded(position, UUID(bytes=stream_id), version, body.TOPIC, meta, body))
        return found
