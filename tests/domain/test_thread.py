"""Threads: life and metadata."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from contracts.events import ThreadCreated, ThreadDeleted, ThreadUpdated
from contracts.ledger import Body, Meta, Recorded
from domain import thread as threads
from domain.errors import AlreadyExists, InvalidField, ThreadNotFound
from domain.thread import CreateThread, DeleteThread, Thread, UpdateThread

THREAD = UUID("01900000-0000-7000-8000-000000000001")
META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")
CREATED = ThreadCreated(user_id="anonymous", metadata={"a": 1})


def recorded(stream_id: UUID, *bodies: Body) -> list[Recorded]:
    return [Recorded(n, stream_id, n, body.TOPIC, META, body) for n, body in enumerate(bodies, start=1)]


def thread(*bodies: Body) -> Thread | None:
    return threads.thread_of(THREAD, recorded(THREAD, *bodies))


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


def test_update_merges_shallowly_and_says_all() -> None:
    assert threads.decide(thread(CREATED), UpdateThread(metadata={"a": 1, "b": {"c": 2}})) == [
        ThreadUpdated(user_id="anonymous", metadata={"a": 1, "b": {"c": 2}})
    ]
    assert threads.decide(thread(CREATED), UpdateThread(metadata={"a": 1})) == []


def test_the_newest_event_is_all_that_is_read() -> None:
    updated = ThreadUpdated(user_id="anonymous", metadata={"a": 1, "b": 2})
    newest = recorded(THREAD, CREATED, updated)[-1:]
    found = threads.thread_of(THREAD, newest)
    assert found == thread(CREATED, updated)
    assert found == Thread(thread_id=THREAD, version=2, user_id="anonymous", metadata={"a": 1, "b": 2})


def test_deleted_thread_is_unknown() -> None:
    assert threads.decide(thread(CREATED), DeleteThread()) == [ThreadDeleted()]
    gone = thread(CREATED, ThreadDeleted())
    assert gone is None
    with pytest.raises(ThreadNotFound):
        threads.decide(gone, UpdateThread(metadata={}))
