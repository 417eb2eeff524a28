"""What the server says of itself: a valid document that leaves nothing out, and a page that asks nobody else."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx import ASGITransport
from openapi_spec_validator import validate

from contracts.codec import EventCodec
from services.gateway.app import build_app
from services.gateway.openapi import EXAMPLES
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from tests.services.gateways import gateway_parts


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    projector = Projector(log, tmp_path / "views.db")
    app: Any = build_app(gateway_parts(log, SqliteViews(tmp_path / "views.db"), projector))
    async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        yield client


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for item in document["paths"].values() for operation in item.values()]


async def test_document_is_valid_and_leaves_nothing_out(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    validate(document)
    told = operations(document)
    assert len(told) > 50
    for operation in told:
        name = operation["operationId"]
        assert operation["summary"], name
        assert operation["description"], name
        assert all(parameter.get("description") for parameter in operation.get("parameters", ())), name
        assert all(answer["description"] for answer in operation["responses"].values()), name
        for status, answer in operation["responses"].items():
            has_form = "Health" in str(answer) or "RpcFailure" in str(answer)
            if status.startswith(("4", "5")) and not has_form:
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Problem"), name
            if status == "200":
                assert all("schema" in kind for kind in answer["content"].values()), name
    assert EXAMPLES.keys() <= {operation["operationId"] for operation in told}


async def test_page_asks_nobody_else(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    named = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    files = [name for name in named if not name.startswith("data:")]
    assert len(files) == 3
    for name in files:
        assert name.startswith("/docs/assets/")
        assert len((await http.get(name)).content) > 10_000
    assert not re.findall(r"https?://[\w.-]+", page.text.partition("<script type")[0])
    assert "/threads/{thread_id}" in page.text
