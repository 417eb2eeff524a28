"""Clients of the server that the tests of a file share, which the file itself makes."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from services.kit.settings import Settings
from services.schemas import upgrade

Environment = dict[str, str]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Environment:
    """What lets a server stand on that database: the tests of a file that asks for it run on both."""
    if request.param == "sqlite":
        return {}
    postgres = request.getfixturevalue("postgres")
    url = postgres.url_of(postgres.database())
    upgrade(Settings(database_url=url), lambda _: None)
    return {"CRONLEDGER_DATABASE_URL": url}


@pytest.fixture
async def client(server: Any) -> AsyncIterator[Any]:
    """The stock SDK's."""
    async with get_client(url=server.url) as connected:
        yield connected


@pytest.fixture
async def http(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    """For what the SDK has no name for."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as connected:
        yield connected
