"""Clients of the server that the tests of a file share, which the file itself makes."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client


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
