"""Read models: tables by version, batches of rows, the position in the same transaction."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.persistence import Notification

from contracts.ledger import Recorded
from projections.rows import Projection, Row, Rows, Table, micros
from services.projector.database import Database, Home, RowChanges, Stored
from services.projector.database.sqlite import SqliteHome

SWEPT_AT_ONCE = 2000
"""Rows of a former table that are removed in one transaction: the live ones must not wait."""


class PositionMoved(Exception):
    """Somebody else has projected meanwhile: read the position again."""


def home_of(place: Path | str) -> Home:
    """Where read models are: a file of SQLite, or the address of a PostgreSQL database."""
    if isinstance(place, Path):
        return SqliteHome(place)
    # Imported here: whoever has no PostgreSQL does not wait for its driver.
    from services.projector.database.postgres import PostgresHome

    return PostgresHome(place)


class BatchRows:
    """The rows of one batch: read once, changed in memory, written together."""

    def __init__(self, db: Database, stored: dict[str, Stored]) -> None:
        self._db, self._stored = db, stored
        self._cache: dict[str, dict[Any, Row | None]] = {name: {} for name in stored}
        self._read: dict[str, dict[Any, tuple[Any, ...]]] = {name: {} for name in stored}
        self._dirty: dict[str, set[Any]] = {name: set() for name in stored}

    def learn(self, apply: Callable[["Asked"], None]) -> None:
        """Read the rows that the batch will ask for at once, as far as it can be told without them."""
        asked = Asked()
        apply(asked)
        wanted = [(self._stored[name], list(keys)) for name, keys in asked.keys.items()]
        for stored, keys in wanted:
            self._cache[stored.table.name].update(dict.fromkeys(keys))
        for stored, found in self._db.rows(wanted):
            at = stored.columns.index(stored.table.key)
            for row in found:
                self._known(stored, row[at], row)

    def get(self, table: str, key: bytes | int) -> Row | None:
        cache = self._cache[table]
        if key not in cache:
            stored = self._stored[table]
            found = self._db.row(stored, key)
            cache[key] = None
            if found is not None:
                self._known(stored, key, found)
        return cache[key]

    def _known(self, stored: Stored, key: Any, row: tuple[Any, ...]) -> None:
        self._read[stored.table.name][key] = row
        self._cache[stored.table.name][key] = dict(zip(stored.columns, row, strict=True))

    def put(self, table: str, row: Row) -> None:
        key = row[self._stored[table].table.key]
        self._cache[table][key] = row
        self._dirty[table].add(key)

    def delete(self, table: str, key: bytes | int) -> None:
        self._cache[table][key] = None
        self._dirty[table].add(key)

    def delete_where(self, table: str, column: str, value: bytes | int) -> None:
        stored = self._stored[table]
        key = stored.table.key
        for row in list(self._cache[table].values()):
            if row is not None and row[column] == value:
                self.delete(table, row[key])
        query = f'SELECT {key} FROM "{stored.physical}" WHERE {column} = ?'
        for (found,) in self._db.execute(query, (value,)).fetchall():
            self.delete(table, found)

    def flush(self) -> None:
        """Write what changed."""
        self._db.write(
            [(self._stored[name], self._changes(name)) for name, keys in self._dirty.items() if keys]
        )

    def _changes(self, name: str) -> RowChanges:
        changes, columns = RowChanges(), self._stored[name].columns
        cache, read = self._cache[name], self._read[name]
        for key in self._dirty[name]:
            row = cache[key]
            if row is None:
                changes.gone.append(key)
                continue
            values = tuple([row[column] for column in columns])
            former = read.get(key)
            if former is None:
                changes.put.append(values)
            elif changed := tuple([n for n, value in enumerate(values) if value != former[n]]):
                changes.update.setdefault(changed, []).append((*(values[n] for n in changed), key))
        return changes


class Asked:
    """Rows of which only the keys are noted that they are asked for by: none is there, and nothing is kept."""

    def __init__(self) -> None:
        self.keys: dict[str, set[Any]] = {}

    def get(self, table: str, key: bytes | int) -> Row | None:
        self.keys.setdefault(table, set()).add(key)
        return None

    def put(self, table: str, row: Row) -> None:
        """Nothing: what a row becomes is not asked for."""

    def delete(self, table: str, key: bytes | int) -> None:
        """Nothing."""

    def delete_where(self, table: str, column: str, value: bytes | int) -> None:
        """Nothing: those are looked for when it comes to it."""


class _Copy(msgspec.Struct, frozen=True):
    """One set of tables of a read model, and how far it is."""

    name: str
    version: int
    generation: int
    position: int = 0
    mark: str = ""

    def physical(self, table: Table) -> str:
        """The name of its table."""
        return physical(table.name, self.version, self.generation)


class ViewStore:
    """The database of the read models. Used by one thread at a time.

    A read model is shown by views of the tables' names over the tables of one copy. Another copy is built beside
    it, and takes its place in one transaction, so that a reader meets either the one or the other.
    """

    def __init__(self, place: Path | str, projections: Sequence[Projection]) -> None:
        self._projections = {projection.NAME: projection for projection in projections}
        self._stored: dict[str, Stored] = {}
        self.db = home_of(place).opened()

    def close(self) -> None:
        """Close the database; twice is harmless."""
        self.db.close()

    def prepare(self, head: int, mark_at: Callable[[int], str] | None = None) -> dict[str, int]:
        """Make what is missing; name -> position from which each read model goes on (0 = to be built).

        One whose version is not the stored one is to be built beside it. What an earlier process left half
        built is given up. `mark_at` tells which event is at a position: rows about other events than the log's
        (a restored ledger, a folder that was mixed up) are thrown away.
        """
        self.discard()
        for projection in self._projections.values():
            with self.db.transaction(alone=True):
                copy = self._copies("tracking").get(projection.NAME)
                if (
                    copy is None
                    or copy.position > head
                    or (mark_at and copy.mark not in ("", mark_at(copy.position)))
                ):
                    self._show(self._made(projection))
        return {name: self.positions().get(name, 0) for name in self._projections}

    def positions(self) -> dict[str, int]:
        """Name -> position of the read models that are shown in today's version."""
        return {
            name: copy.position
            for name, copy in self._copies("tracking").items()
            if copy.version == self._projections[name].VERSION
        }

    def apply(self, names: Sequence[str], events: Sequence[Recorded], previous: int) -> None:
        """Project a batch, rows and positions in one transaction. Raises PositionMoved."""
        self._apply("tracking", names, events, previous)

    # --- beside the live ones -----------------------------------------------------------------------------

    def begin(self, names: Sequence[str]) -> None:
        """Make empty tables beside those that are shown."""
        with self.db.transaction(alone=True):
            for name in names:
                self._put("building", self._made(self._projections[name]))

    def building(self) -> dict[str, int]:
        """Name -> position of what is built beside."""
        return {name: copy.position for name, copy in self._copies("building").items()}

    def fill(self, names: Sequence[str], events: Sequence[Recorded], previous: int) -> None:
        """Project a batch into the tables beside. Raises PositionMoved."""
        self._apply("building", names, events, previous)

    def swap(self, names: Sequence[str]) -> None:
        """Show what was built. Raises PositionMoved when what is shown is further: nobody is taken back."""
        with self.db.transaction(alone=True):
            built, shown = self._copies("building"), self._copies("tracking")
            for name in names:
                if name not in built or (
                    name in self.positions() and built[name].position < shown[name].position
                ):
                    raise PositionMoved(name)
                self._show(built[name])
                self.db.execute("DELETE FROM building WHERE name = ?", (name,))

    def discard(self) -> None:
        """Give up what is built beside."""
        self.db.execute("DELETE FROM building")

    def sweep(self) -> bool:
        """Remove a portion of the tables that nobody shows or builds any more; False when there are none."""
        kept = {table for which in ("tracking", "building") for table in self._physical(which).values()}
        keys = {
            table.name: table.key for projection in self._projections.values() for table in projection.TABLES
        }
        for name in self.db.names():
            if name not in kept and (key := keys.get(name.rpartition("__v")[0])):
                some = f'SELECT {key} FROM "{name}" LIMIT {SWEPT_AT_ONCE}'
                if self.db.execute(f'DELETE FROM "{name}" WHERE {key} IN ({some})').rowcount < SWEPT_AT_ONCE:
                    self.db.execute(f'DROP TABLE "{name}"')
                return True
        return False

    # --- how it is stored ---------------------------------------------------------------------------------

    def _apply(self, which: str, names: Sequence[str], events: Sequence[Recorded], previous: int) -> None:
        chosen = [self._projections[name] for name in names]
        last = events[-1]

        def apply(rows: Rows) -> None:
            for projection in chosen:
                apply = projection.apply
                for recorded in events:
                    apply(rows, recorded)

        with self.db.transaction():
            rows = BatchRows(self.db, self._stored_of(which, chosen))
            if self.db.learns:
                rows.learn(apply)
            apply(rows)
            rows.flush()
            self._advance(which, chosen, last, previous)

    def _advance(self, which: str, chosen: Sequence[Projection], last: Recorded, previous: int) -> None:
        those = " OR ".join(["(name = ? AND version = ?)"] * len(chosen))
        params: list[Any] = [last.position, mark_of(last), previous]
        for projection in chosen:
            params += [projection.NAME, projection.VERSION]
        cursor = self.db.execute(f"UPDATE {which} SET pos = ?, mark = ? WHERE pos = ? AND ({those})", params)
        if cursor.rowcount != len(chosen):
            raise PositionMoved(", ".join(projection.NAME for projection in chosen))

    def _stored_of(self, which: str, chosen: Sequence[Projection]) -> dict[str, Stored]:
        """By the tables' names; of each physical table there is one."""
        copies = self._copies(which)
        found: dict[str, Stored] = {}
        for projection in chosen:
            if projection.NAME not in copies:
                raise PositionMoved(projection.NAME)  # another projector has given it up
            for table in projection.TABLES:
                name = copies[projection.NAME].physical(table)
                if name not in self._stored:
                    self._stored[name] = Stored(table, name, tuple(table.columns))
                found[table.name] = self._stored[name]
        return found

    def _copies(self, which: str) -> dict[str, _Copy]:
        rows = self.db.execute(f"SELECT name, version, generation, pos, mark FROM {which}").fetchall()
        return {row[0]: _Copy(*row) for row in rows if row[0] in self._projections}

    def _physical(self, which: str) -> dict[str, str]:
        return {
            table.name: copy.physical(table)
            for name, copy in self._copies(which).items()
            for table in self._projections[name].TABLES
        }

    def _put(self, which: str, copy: _Copy) -> None:
        self.db.execute(
            f"INSERT INTO {which} (name, version, generation, pos, mark) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name)"
            " DO UPDATE SET version = excluded.version, generation = excluded.generation, pos = excluded.pos,"
            " mark = excluded.mark",
            msgspec.structs.astuple(copy),
        )

    def _made(self, projection: Projection) -> _Copy:
        copy = _Copy(projection.NAME, projection.VERSION, self.db.generation())
        for table in projection.TABLES:
            self.db.create(Stored(table, copy.physical(table), tuple(table.columns)))
        return copy

    def _show(self, copy: _Copy) -> None:
        self._put("tracking", copy)
        for table in self._projections[copy.name].TABLES:
            self.db.execute(f'DROP VIEW IF EXISTS "{table.name}"')
            self.db.execute(f'CREATE VIEW "{table.name}" AS SELECT * FROM "{copy.physical(table)}"')


class _At(msgspec.Struct):
    """Of a stored event, when it was."""

    at: datetime


def mark_of(recorded: Recorded) -> str:
    """Which event it is. Not the log's own name: a restored backup has that too, and goes on with other events."""
    return _mark(recorded.stream_id, recorded.version, recorded.meta.at)


def mark_of_raw(raw: Notification) -> str:
    """The same of an undecoded one."""
    at = msgspec.json.decode(raw.state, type=_At).at
    return _mark(UUID(str(raw.originator_id)), raw.originator_version, at)


def _mark(stream_id: UUID, version: int, at: datetime) -> str:
    return f"{stream_id.hex}:{version}:{micros(at)}"


def physical(table: str, version: int, generation: int) -> str:
    """The name of a table of one copy."""
    return f"{table}__v{version}g{generation}"
