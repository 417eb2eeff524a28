"""Benches print a figure beside its bar; they never fail on it: machines differ, ratios are what counts."""

from collections.abc import Callable, Iterator

import pytest

from tests.postgres import Postgres

Say = Callable[[str, str, str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a line: what, measured, bar."""

    def line(what: str, measured: str, bar: str) -> None:
        with capsys.disabled():
            print(f"\n  {what:<58} {measured:>24}   bar {bar}", end="")

    return line


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One that keeps what it has acknowledged, as SQLite does."""
    server = Postgres(durable=True).start()
    yield server
    server.close()
