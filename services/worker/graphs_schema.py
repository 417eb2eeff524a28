"""The schema `graphs` in PostgreSQL, and the role of the graph children, which sees nothing else of the database.

The tables are LangGraph's. Its own `setup` is not for several processes at once (CREATE INDEX CONCURRENTLY waits for
those that wait for us), so that its statements are carried out here, in one transaction and under one lock.
"""

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from services.kit import postgres
from services.kit.postgres import Connection, DatabaseProblem, Schema, text
from services.kit.settings import Settings

SESSION = ("statement_timeout=60s", "lock_timeout=30s")
LOGIN = """CREATE TABLE IF NOT EXISTS cronledger_login (
    only_one boolean PRIMARY KEY DEFAULT true, role text NOT NULL, password text NOT NULL)"""
"""What children log in with. Its owner's alone: a child that could read it has it already."""
PRIVATE = ("cronledger_login", "schema_version")


def _library(connection: Connection) -> None:
    """LangGraph's tables, as its own setup leaves them."""
    # Imported where it is needed: it takes a second, and a server on files has no use for it.
    from langgraph.checkpoint.postgres.base import MIGRATIONS as SAVER
    from langgraph.store.postgres.base import MIGRATIONS as STORE

    for table, statements in (("checkpoint_migrations", SAVER), ("store_migrations", STORE)):
        _migrated(connection, table, [plain(statement) for statement in statements])


def _migrated(connection: Connection, table: str, statements: list[str]) -> None:
    connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (v integer PRIMARY KEY)".encode())
    row = connection.execute(f"SELECT coalesce(max(v), -1) FROM {table}".encode()).fetchone()
    assert row is not None
    for number in range(row[0] + 1, len(statements)):
        if statements[number]:
            connection.execute(statements[number].encode(), prepare=False)
        connection.execute(f"INSERT INTO {table} (v) VALUES (%s)".encode(), (number,))


def plain(statement: str) -> str:
    """The statement for a transaction: nobody uses the new table, so that nobody waits for its index."""
    return re.sub(r"\bCONCURRENTLY\b", "", statement)


HERE = Path(__file__).parent
GRAPHS = Schema(
    "graphs",
    (
        _library,
        text((HERE / "graphs.sql").read_text() + ";" + LOGIN),
        text((HERE / "graphs_claims.sql").read_text()),
    ),
)


class GraphsDatabase(msgspec.Struct, frozen=True):
    """Where the children's part of the database is: `url` is its owner's, `given` that of a role made by hand."""

    url: str
    given: str = ""

    @classmethod
    def of(cls, settings: Settings) -> "GraphsDatabase | None":
        """That of the settings; None: checkpoints and store are files in the data folder."""
        return cls(settings.database_url, settings.graphs_url) if settings.database_url else None

    def migrate(self, told: Callable[[str], None]) -> None:
        """Make and upgrade schema and role; any number of processes may do so at once. Raises DatabaseProblem."""
        postgres.migrate(self.url, [GRAPHS], told)
        with self._alone() as connection:
            self._let_in(connection)

    def prepare(self, index: dict[str, Any] | None) -> str:
        """What children connect with; before, the vector index of the project is made, if it has one.

        Raises DatabaseProblem.
        """
        postgres.check(self.url, [GRAPHS])
        with self._alone() as connection:
            if index and _has_dims(index):
                _make_vectors(connection, index)
                self._let_in(connection)
            return self._address(connection)

    def _alone(self) -> "psycopg.Connection[Any]":
        """A connection that has the lock of whoever changes schemas, until it is closed."""
        with postgres.named(self.url):
            connection = postgres.connect(self.url, "graphs", "lock_timeout=60s", "statement_timeout=0")
            connection.execute("SELECT pg_advisory_lock(%s)", (postgres.LOCK,))
        return connection

    # --- the role -----------------------------------------------------------------------------------

    def _let_in(self, connection: Connection) -> None:
        """Let the role of the children use every table that is theirs, and no other."""
        role = self._given_role() or _own_role(connection)
        name, private = sql.Identifier(role), sql.SQL(", ").join(map(sql.Identifier, PRIVATE))
        with connection.transaction():
            for statement in (
                "GRANT USAGE ON SCHEMA graphs TO {}",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA graphs TO {}",
                "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA graphs TO {}",
            ):
                connection.execute(sql.SQL(statement).format(name))
            connection.execute(sql.SQL("REVOKE ALL ON {} FROM {}").format(private, name))

    def _given_role(self) -> str:
        if not self.given:
            return ""
        try:
            role = conninfo_to_dict(self.given).get("user")
        except psycopg.Error:
            raise DatabaseProblem("CRONLEDGER_GRAPHS_URL is no address of a PostgreSQL database") from None
        if not role:
            raise DatabaseProblem("CRONLEDGER_GRAPHS_URL names no user")
        return str(role)

    def _address(self, connection: Connection) -> str:
        """With the schema of the vectors on the search path: an administrator may have put them elsewhere."""
        found = connection.execute(
            "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
            " WHERE extname = 'vector' AND n.nspname <> 'graphs'"
        ).fetchone()
        path = f"graphs,{found[0]}" if found else "graphs"
        url = self.given
        if not url:
            row = connection.execute("SELECT role, password FROM cronledger_login").fetchone()
            if row is None:
                raise DatabaseProblem("the role of the graphs is not there: run `cronledger migrate`")
            url = make_conninfo(self.url, user=row[0], password=row[1])
        return postgres.conninfo(url, path, *SESSION)


def _own_role(connection: Connection) -> str:
    """The role that is made for this database, with a password that nobody is told. Raises DatabaseProblem."""
    found = connection.execute("SELECT role FROM cronledger_login").fetchone()
    if found is not None:
        return str(found[0])
    # Roles are of the whole server, so that its name has that of the database.
    role, password = f"{connection.info.dbname[:48]}_graphs", secrets.token_urlsafe(24)
    statement = sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}")
    name = sql.Identifier(role), sql.Literal(password)
    try:
        with connection.transaction():
            known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
            verb = sql.SQL("CREATE" if known is None else "ALTER")
            connection.execute(statement.format(verb, *name))
            connection.execute(
                "INSERT INTO cronledger_login (role, password) VALUES (%s, %s)", (role, password)
            )
    except psycopg.errors.InsufficientPrivilege as exc:
        raise DatabaseProblem(
            f"the role {connection.info.user} may not make the role of the graphs: make one by hand"
            " and give its address in CRONLEDGER_GRAPHS_URL"
        ) from exc
    return role


# --- the index ------------------------------------------------------------------------------------------


def _has_dims(index: dict[str, Any]) -> bool:
    """False for what the child refuses, by the name of the setting."""
    dims = index.get("dims")
    return isinstance(dims, int) and not isinstance(dims, bool) and dims > 0


def _make_vectors(connection: Connection, index: dict[str, Any]) -> None:
    """The tables of the vector index. Raises DatabaseProblem."""
    from langgraph.store.postgres.base import VECTOR_MIGRATIONS as VECTORS

    try:
        like = SimpleNamespace(index_config=index)
        statements = [_statement(like, migration) for migration in VECTORS]
        with connection.transaction():
            _migrated(connection, "vector_migrations", statements)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported) as exc:
        raise DatabaseProblem(
            "store.index needs the extension pgvector, which can't be made here: let an administrator run"
            f" `CREATE EXTENSION vector` in this database ({str(exc).splitlines()[0]})"
        ) from exc
    except (ValueError, TypeError, KeyError, psycopg.DataError) as exc:
        raise DatabaseProblem(f"store.index: {exc}") from exc
    row = connection.execute(
        "SELECT atttypmod FROM pg_attribute WHERE attrelid = 'store_vectors'::regclass AND attname = 'embedding'"
    ).fetchone()
    if row is not None and row[0] != index["dims"]:
        raise DatabaseProblem(
            f"store.index.dims is {index['dims']}, and the vectors that are stored have {row[0]}:"
            " embed them anew into an empty table"
        )


def _statement(like: Any, migration: Any) -> str:
    """The statement of a migration for that index; '' when it needs none."""
    if migration.condition is not None and not migration.condition(like):
        return ""
    params = {k: v(like) if callable(v) else v for k, v in (migration.params or {}).items()}
    if "dims" in params:
        params["dims"] = int(params["dims"])
    if params.get("vector_type", "vector") not in ("vector", "halfvec"):
        raise ValueError(
            f"ann_index_config.vector_type: must be vector or halfvec, not {params['vector_type']}"
        )
    return plain(migration.sql % params if params else migration.sql)
