"""Schemas by version: made once whoever asks, refused when they are not what this program knows."""

import asyncio

import pytest

from services.kit.postgres import DatabaseProblem, Schema, address, check, connect, conninfo, migrate, text
from tests.postgres import Postgres

FIRST = text("CREATE TABLE things (id integer PRIMARY KEY)")
SECOND = text("ALTER TABLE things ADD COLUMN name text; CREATE INDEX ON things (name)")
OLD, NEW = Schema("stuff", (FIRST,)), Schema("stuff", (FIRST, SECOND))


async def test_several_make_it_at_once(postgres_url: str) -> None:
    told: list[str] = []
    await asyncio.gather(*(asyncio.to_thread(migrate, postgres_url, [NEW], told.append) for _ in range(4)))
    assert [line.split(" (")[0] for line in told] == ["schema stuff: version 1", "schema stuff: version 2"]
    check(postgres_url, [NEW])


def test_what_it_does_not_know_is_refused(postgres_url: str) -> None:
    with pytest.raises(DatabaseProblem, match="stuff is not there: run `cronledger migrate`"):
        check(postgres_url, [OLD])
    migrate(postgres_url, [OLD], lambda _: None)
    with pytest.raises(DatabaseProblem, match="version 1, not 2: run"):
        check(postgres_url, [NEW])
    migrate(postgres_url, [NEW], lambda _: None)
    with pytest.raises(DatabaseProblem, match="newer than this program knows"):
        check(postgres_url, [OLD])
    with pytest.raises(DatabaseProblem, match="newer than this program knows"):
        migrate(postgres_url, [OLD], lambda _: None)


def test_a_step_that_fails_leaves_the_version_before(postgres_url: str) -> None:
    broken = Schema("stuff", (FIRST, text("ALTER TABLE things ADD COLUMN name text; SELECT nonsense")))
    with pytest.raises(DatabaseProblem, match="nonsense"):
        migrate(postgres_url, [broken], lambda _: None)
    check(postgres_url, [OLD])
    migrate(postgres_url, [NEW], lambda _: None)
    with connect(postgres_url, "stuff") as connection:
        assert connection.execute("SELECT name FROM things").fetchall() == []


def test_what_is_no_address_is_told_without_the_password(postgres: Postgres) -> None:
    for url, told in (
        ("postgresql://u:secret@127.0.0.1:1/ledger", "ledger on 127.0.0.1"),
        (f"postgresql://postgres:secret@/none?host={postgres.root}&port={postgres.port}", "none"),
        ("mysql://u:secret@host/x", "no address of a PostgreSQL"),
    ):
        with pytest.raises(DatabaseProblem, match=told) as caught:
            check(url, [OLD])
        assert "secret" not in str(caught.value)


def test_parameters_of_the_address_stay(postgres_url: str) -> None:
    with connect(f"{postgres_url}&application_name=mine&options=-c%20work_mem%3D5MB", "stuff") as connection:
        shown = [
            connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in ("application_name", "work_mem", "search_path")
        ]
    assert shown == [("mine",), ("5MB",), ("stuff",)]
    assert address("host=h dbname=d password=x") == "d on h"
    assert "connect_timeout=5" in conninfo("host=h", "stuff")
