"""Threads and assistants: life, metadata, the ids that client code has hard-coded."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from contracts.events import (
    AssistantCreated,
    AssistantUpdated,
    ThreadCreated,
    ThreadDeleted,
    ThreadUpdated,
)
from contracts.ledger import Body, Meta, Recorded
from domain import assistant as assistants
from domain import thread as threads
from domain.assistant import Assistant, RegisterGraph, default_assistant_id
from domain.errors import AlreadyExists, InvalidField, ThreadNotFound
from domain.thread import CreateThread, DeleteThread, Thread, UpdateThread

THREAD = UUID("01900000-0000-7000-8000-000000000001")
META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")
CREATED = ThreadCreated(user_id="anonymous", metadata={"a": 1})


def recorded(stream_id: UUID, *bodies: Body) -> list[Recorded]:
    return [Recorded(n, stream_id, n, body.TOPIC, META, body) for n, body in enumerate(bodies, start=1)]


def thread(*bodies: Body) -> Thread | None:
    return threads.thread_of(THREAD, recorded(THREAD, *bodies))


def assistant(*bodies: Body) -> Assistant | None:
    return assistants.assistant_of(UUID(int=1), recorded(UUID(int=1), *bodies))


def test_thread_is_created_without_reserved_metadata() -> None:
    command = CreateThread(
        thread_id=THREAD, user_id="anonymous", metadata={"a": 1, "run_id": "mine"}, chosen=True
    )
    assert threads.decide(None, command) == [CREATED]


def test_taken_id_is_refused() -> None:
    with pytest.raises(AlreadyExists):
        threads.decide(thread(CREATED), CreateThread(thread_id=THREAD, user_id="anonymous"))


def test_client_may_not_choose_an_id_of_an_occurrence() -> None:
    derived = UUID("01900000-0000-8000-8000-000000000001")
    with pytest.raises(InvalidField, match="thread_id"):
        threads.decide(None, CreateThread(thread_id=derived, user_id="anonymous", chosen=True))


def test_update_merges_shallowly_and_says_only_what_changed() -> None:
    assert threads.decide(thread(CREATED), UpdateThread(metadata={"a": 1, "b": {"c": 2}})) == [
        ThreadUpdated(metadata={"b": {"c": 2}})
    ]
    assert threads.decide(thread(CREATED), UpdateThread(metadata={"a": 1})) == []
    merged = thread(CREATED, ThreadUpdated(metadata={"b": 2}))
    assert merged is not None
    assert merged.metadata == {"a": 1, "b": 2}


def test_deleted_thread_is_unknown() -> None:
    assert threads.decide(thread(CREATED), DeleteThread()) == [ThreadDeleted()]
    gone = thread(CREATED, ThreadDeleted())
    assert gone is None
    with pytest.raises(ThreadNotFound):
        threads.decide(gone, UpdateThread(metadata={}))


def test_default_assistant_id_is_what_clients_expect() -> None:
    assert str(default_assistant_id("agent")) == "fe096781-5601-53d2-b2f6-0d3403f7e9ca"


def test_graph_is_registered_once_and_kept_in_step() -> None:
    created = AssistantCreated(graph_id="agent", name="agent", metadata={"created_by": "system"}, system=True)
    assert assistants.decide(None, RegisterGraph(graph_id="agent", name="agent")) == [created]
    assert assistants.decide(assistant(created), RegisterGraph(graph_id="agent", name="agent")) == []
    renamed = RegisterGraph(graph_id="agent", name="Agent", description="does it")
    updated = AssistantUpdated(name="Agent", description="does it")
    assert assistants.decide(assistant(created), renamed) == [updated]
    now = assistant(created, updated)
    assert now is not None
    assert (now.name, now.description, now.version) == ("Agent", "does it", 2)
