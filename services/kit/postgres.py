"""PostgreSQL: connections that tell of a dead server in seconds, schemas by version, and their migration.

One database holds a schema for each of our stores. Nothing but this module knows how a connection is made; what
a store keeps, and how it reads it, stands with the store.
"""

import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from services.kit.mendable import Mendable

Connection = psycopg.Connection[Any]
CONNECT_S = 5
STATEMENT_S = 10
CLOSE_S = 2.0
"""How long a read that was cancelled may take to notice."""
NETWORK: dict[str, Any] = {
    # A server that is gone is told within seconds, not after TCP's quarter of an hour.
    "connect_timeout": CONNECT_S,
    "tcp_user_timeout": 5000,  # ms
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "application_name": "cronledger",
}
SESSION = ("timezone=UTC", f"statement_timeout={STATEMENT_S}s", "lock_timeout=5s")
LOCK = 727026
"""Advisory: who makes or changes schemas."""
OLDEST = 140000
VERSIONS = "CREATE TABLE IF NOT EXISTS schema_version (only_one boolean PRIMARY KEY DEFAULT true, version integer NOT NULL)"


class DatabaseProblem(Mendable):
    """The database can't be used as it is: not reached, not migrated, or of another version."""


class Sessions:
    """A connection for each thread that asks, opened when it does; one that was lost is opened again at once.

    Not a pool: a pool's own attempts come further and further apart while the server is away, so that it would
    come back up to half a minute after the server, and taking a connection out of one costs as much as a read.
    """

    def __init__(self, url: str, schema: str, *session: str, **given: Any) -> None:
        self._conninfo, self._given = conninfo(url, schema, *session), given
        self._local = threading.local()
        self._open: set[Connection] = set()
        self._guard = threading.Lock()

    def mine(self) -> tuple[bool, Connection]:
        """Whether it was opened just now, and the connection of this thread. Raises psycopg.Error."""
        mine: Connection | None = getattr(self._local, "connection", None)
        if mine is not None and not mine.closed and not is_hung_up(mine):
            return False, mine
        made = psycopg.connect(self._conninfo, autocommit=True, **self._given)
        with self._guard:
            self._open = {one for one in self._open if not one.closed} | {made}
            self._local.connection = made
        return True, made

    def drop(self) -> None:
        """Close the one of this thread."""
        mine: Connection | None = getattr(self._local, "connection", None)
        if mine is not None:
            mine.close()

    def fetch(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows, in binary. Once more when the connection had been lost since it was last used.

        Raises psycopg.Error.
        """
        for is_last in (False, True):
            _, connection = self.mine()
            try:
                with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
                    return cursor.execute(query.encode(), params).fetchall()
            except psycopg.OperationalError:
                if is_last or not connection.broken:
                    raise
                self.drop()
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close those of all threads, and cancel what they read; the next one that asks opens a new one."""
        with self._guard:
            opened, self._open, self._local = self._open, set(), threading.local()
        for connection in opened:
            if connection.info.transaction_status == TransactionStatus.ACTIVE:
                with suppress(psycopg.Error):  # the server may be away
                    connection.cancel_safe(timeout=CLOSE_S)
            if connection.lock.acquire(timeout=CLOSE_S):  # never under a read
                try:
                    connection.close()
                finally:
                    connection.lock.release()


def is_hung_up(connection: Connection) -> bool:
    """Whether the server has closed it since it was last used, as one that was started again has.

    A statement on it would fail, and of one that writes nobody could say whether it was carried out.
    """
    try:
        looked = select.poll()
        looked.register(connection.fileno(), select.POLLIN)
        for _ in range(2):  # a goodbye, and then the end
            if not looked.poll(0):
                break
            connection.pgconn.consume_input()
    except psycopg.Error:
        return True
    return False


class Schema(msgspec.Struct, frozen=True):
    """One store's part of the database.

    `steps` are what brings it from one version to the next: the n-th is called with a connection whose search
    path is the schema, inside a transaction, and makes version n.
    """

    name: str
    steps: tuple[Callable[[Connection], None], ...]

    @property
    def version(self) -> int:
        """Of this code."""
        return len(self.steps)


def conninfo(url: str, schema: str, *session: str) -> str:
    """What to connect with: the URL's own parameters first, the schema alone on the search path.

    `session` are further settings (`name=value`). Raises DatabaseProblem for what is no URL.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        # Of what libpq says nothing is told: it shows the text, and there may be a password in it.
        raise DatabaseProblem("CRONLEDGER_DATABASE_URL is no address of a PostgreSQL database") from None
    options = " ".join(f"-c {setting}" for setting in (f"search_path={schema}", *SESSION, *session))
    given["options"] = f"{options} {given.get('options') or ''}".strip()
    return make_conninfo(**(NETWORK | given))


def connect(url: str, schema: str, *session: str) -> Connection:
    """A connection in autocommit, closed by whoever asks. Raises psycopg.OperationalError, DatabaseProblem."""
    return psycopg.connect(conninfo(url, schema, *session), autocommit=True)


def migrate(url: str, schemas: Sequence[Schema], told: Callable[[str], None]) -> None:
    """Make and upgrade the schemas; each step is told. Any number of processes may do so at once.

    Raises DatabaseProblem, also when one of them is of a newer version: nothing is changed then.
    """
    with named(url), connect(url, "pg_catalog", "lock_timeout=60s", "statement_timeout=0") as connection:
        if connection.info.server_version < OLDEST:
            raise DatabaseProblem(f"PostgreSQL {OLDEST // 10000} or newer is needed")
        # Of the session: whoever comes second waits here, and then finds nothing to do.
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        for schema in schemas:
            _refuse_newer(schema, _version(connection, schema.name))
        for schema in schemas:
            _upgrade(connection, schema, told)


def check(url: str, schemas: Sequence[Schema]) -> None:
    """Refuse a database that was not made for this code. Raises DatabaseProblem."""
    with named(url), connect(url, "pg_catalog") as connection:
        for schema in schemas:
            found = _version(connection, schema.name)
            _refuse_newer(schema, found)
            if found < schema.version:
                state = "is not there" if not found else f"is of version {found}, not {schema.version}"
                raise DatabaseProblem(f"schema {schema.name} {state}: run `cronledger migrate`")


def text(statements: str) -> Callable[[Connection], None]:
    """A step that is SQL alone."""

    def step(connection: Connection) -> None:
        connection.execute(statements.encode(), prepare=False)

    return step


@contextmanager
def named(url: str) -> Iterator[None]:
    """Let an error of the database be told as a DatabaseProblem that says which it is, without the password."""
    try:
        yield
    except psycopg.Error as exc:
        raise DatabaseProblem(f"the database {address(url)}: {_plain(exc)}") from exc


def address(url: str) -> str:
    """Where it is, without the password."""
    given = conninfo_to_dict(url)
    return f"{given.get('dbname') or ''} on {given.get('host') or 'the local socket'}"


def _plain(exc: psycopg.Error) -> str:
    """Its first line: the others say where in which statement."""
    return (str(exc).splitlines() or [type(exc).__name__])[0]


def _version(connection: Connection, schema: str) -> int:
    found = connection.execute("SELECT to_regclass(%s)", (f"{schema}.schema_version",)).fetchone()
    if found is None or found[0] is None:
        return 0
    row = connection.execute(f'SELECT version FROM "{schema}".schema_version').fetchone()
    return 0 if row is None else int(row[0])


def _refuse_newer(schema: Schema, found: int) -> None:
    if found > schema.version:
        raise DatabaseProblem(
            f"schema {schema.name} is of version {found}, which is newer than this program knows ({schema.version});"
            " update the program"
        )


def _upgrade(connection: Connection, schema: Schema, told: Callable[[str], None]) -> None:
    for number in range(_version(connection, schema.name), schema.version):
        began = time.monotonic()
        with connection.transaction():
            connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema.name}"'.encode())
            connection.execute(f'SET LOCAL search_path = "{schema.name}"'.encode())
            schema.steps[number](connection)
            connection.execute(VERSIONS)
            connection.execute(
                "INSERT INTO schema_version VALUES (true, %s) ON CONFLICT (only_one)"
                " DO UPDATE SET version = excluded.version",
                (number + 1,),
            )
        told(f"schema {schema.name}: version {number + 1} ({time.monotonic() - began:.1f} s)")
