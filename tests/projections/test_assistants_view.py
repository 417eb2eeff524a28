"""The read model of assistants: their versions, in real tables, harmless when an event comes twice."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contracts.events import (
    AssistantCreated,
    AssistantDeleted,
    AssistantUpdated,
    AssistantVersionChosen,
)
from contracts.ledger import Body, Meta, Recorded
from projections import assistants
from services.projector.store import ViewStore

ID = UUID("5f0c1ab4-9a3b-4a53-9f28-53b4d6b4d8f6")
CREATED = AssistantCreated(graph_id="agent", name="first", context={"a": 1}, system=True)
SECOND = AssistantUpdated(graph_id="agent", name="second", context={"b": 2}, number=2, versions=2)
IN_STEP = AssistantUpdated(graph_id="agent", name="renamed", description="d", system=True)
FIRST_AGAIN = AssistantVersionChosen(graph_id="agent", name="first", context={"a": 1}, versions=2)
THIRD = AssistantUpdated(graph_id="agent", name="first", description="d", number=3, versions=3)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ViewStore]:
    opened = ViewStore(tmp_path / "views.db", [assistants])
    opened.prepare(0)
    yield opened
    opened.close()


def recorded(*bodies: Body) -> list[Recorded]:
    return [
        Recorded(n, ID, n, body.TOPIC, Meta(at=datetime(2026, 11, 24, 0, n, tzinfo=UTC), actor="t"), body)
        for n, body in enumerate(bodies, start=1)
    ]


def shown(store: ViewStore, table: str, *columns: str) -> list[tuple[Any, ...]]:
    query = f'SELECT {", ".join(columns)} FROM "{table}" ORDER BY version'
    return store.db.execute(query).fetchall()


def apply(store: ViewStore, *bodies: Body) -> None:
    events = recorded(*bodies)
    store.apply(["assistants"], events, 0)
    before = store.db.execute("SELECT * FROM assistants").fetchall()
    store.apply(["assistants"], events, len(events))  # again, as after a lost position
    assert store.db.execute("SELECT * FROM assistants").fetchall() == before


def test_versions_are_kept(store: ViewStore) -> None:
    apply(store, CREATED, SECOND)
    assert shown(store, "assistants", "name", "context", "version") == [("second", '{"b":2}', 2)]
    versions = shown(store, "assistant_versions", "name", "context", "version", "created_at")
    at = int(datetime(2026, 11, 24, 0, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert versions == [("first", '{"a":1}', 1, at), ("second", '{"b":2}', 2, at + 60_000_000)]


def test_chosen_version_is_shown_whole(store: ViewStore) -> None:
    apply(store, CREATED, SECOND, FIRST_AGAIN)
    [row] = shown(store, "assistants", "name", "context", "version", "created_at < updated_at")
    assert row == ("first", '{"a":1}', 1, 1)
    assert len(shown(store, "assistant_versions", "version")) == 2


def test_change_goes_on_from_the_version_in_force(store: ViewStore) -> None:
    apply(store, CREATED, SECOND, FIRST_AGAIN, THIRD)
    assert shown(store, "assistants", "name", "description", "version") == [("first", "d", 3)]
    assert [name for (name,) in shown(store, "assistant_versions", "name")] == ["first", "second", "first"]


def test_default_in_step_with_its_project_has_one_version(store: ViewStore) -> None:
    apply(store, CREATED, IN_STEP)
    for table in ("assistants", "assistant_versions"):
        assert shown(store, table, "name", "description", "version") == [("renamed", "d", 1)]


def test_deleted_assistant_leaves_nothing(store: ViewStore) -> None:
    apply(store, CREATED, SECOND, AssistantDeleted())
    for table in ("assistants", "assistant_versions"):
        assert shown(store, table, "version") == []
