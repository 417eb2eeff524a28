"""Where checkpoints and store of a test are: files in a folder, or a database of its own."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import psycopg

from services.kit.settings import Settings
from services.worker.child.checkpoints import Saver
from services.worker.child.checkpoints.postgres import PostgresSaver
from services.worker.child.checkpoints.sqlite import SqliteSaver
from services.worker.child.store import Store
from services.worker.child.store.postgres import PostgresStore
from services.worker.child.store.sqlite import SqliteStore
from services.worker.graphs_schema import GraphsDatabase
from tests.postgres import Postgres

DATABASES = ("sqlite", "postgres")


class Place:
    """Of one kind or the other; `url` and `address` (what children connect with) are '' for files."""

    def __init__(self, folder: Path, postgres: Postgres | None = None, index: Any = None) -> None:
        self.folder, self.url, self.address = folder, "", ""
        if postgres is not None:
            self.url = (
                f"postgresql://postgres@/{postgres.database()}?host={postgres.root}&port={postgres.port}"
            )
            self.database.migrate(lambda _: None)
            self.address = self.database.prepare(index)

    @property
    def database(self) -> GraphsDatabase:
        return GraphsDatabase(self.url)

    @property
    def settings(self) -> Settings:
        return Settings(database_url=self.url)

    async def saver(self) -> Saver:
        if self.url:
            return await PostgresSaver.opened(self.address)
        return await SqliteSaver.opened(str(self.folder / "checkpoints.db"))

    async def store(self, **settings: Any) -> Store:
        if self.url:
            return await PostgresStore.opened(self.address, settings)
        return await SqliteStore.opened({"path": str(self.folder / "store.db"), **settings})

    def rows(self, query: str, file: str = "checkpoints.db") -> list[Any]:
        """Of the checkpoints; `writes` has another name in PostgreSQL."""
        if self.url:
            query = query.replace("writes", "checkpoint_writes")
            with psycopg.connect(self.url, options="-c search_path=graphs", autocommit=True) as connection:
                return connection.execute(query.encode()).fetchall() if self.url else []
        with contextlib.closing(sqlite3.connect(self.folder / file)) as database:
            return database.execute(query).fetchall()

    def do(self, statement: str, file: str = "checkpoints.db") -> None:
        if self.url:
            with psycopg.connect(self.url, options="-c search_path=graphs", autocommit=True) as connection:
                connection.execute(statement.encode())
            return
        with contextlib.closing(sqlite3.connect(self.folder / file, isolation_level=None)) as database:
            database.execute(statement)

    async def count(self, table: str = "checkpoints") -> int:
        [[count]] = await asyncio.to_thread(self.rows, f"SELECT count(*) FROM {table}")
        return int(count)


def place_of(kind: str, folder: Path, postgres: Any, index: Any = None) -> Place:
    """A new one. `postgres` starts the server of the session when it is called."""
    return Place(folder, postgres("postgres") if kind == "postgres" else None, index)
