"""A thread: metadata and life. Its runs are the lane's affair, its state LangGraph's."""

from collections.abc import Iterable
from typing import Any, assert_never
from uuid import UUID

import msgspec

from contracts.events import ThreadCreated, ThreadDeleted, ThreadEvent, ThreadUpdated
from contracts.ledger import Append, Body, Recorded
from domain.changes import appended
from domain.errors import AlreadyExists, InvalidField, ThreadNotFound

SERVERS_KEYS = frozenset({"thread_id", "run_id", "cron_id"})


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    """A thread as its events left it."""

    thread_id: UUID
    version: int
    user_id: str
    metadata: dict[str, Any] = {}


class CreateThread(msgspec.Struct, frozen=True, kw_only=True, tag="thread.create"):
    """Begin a conversation. `chosen` = the client chose the id; `copied_from` = it goes on from that one's state."""

    thread_id: UUID
    user_id: str
    metadata: dict[str, Any] = {}
    cron_id: UUID | None = None
    copied_from: UUID | None = None
    chosen: bool = False


class UpdateThread(msgspec.Struct, frozen=True, kw_only=True, tag="thread.update"):
    """Merge keys into the metadata (shallow)."""

    metadata: dict[str, Any]


class DeleteThread(msgspec.Struct, frozen=True, kw_only=True, tag="thread.delete"):
    """End the conversation."""


ThreadCommand = CreateThread | UpdateThread | DeleteThread


def thread_of(thread_id: UUID, events: Iterable[Recorded]) -> Thread | None:
    """The thread as the last of these events of its stream tells; None when there is none or it is deleted.

    The newest event alone is enough.
    """
    *_, newest = (None, *events)
    if newest is None or not isinstance(newest.body, ThreadCreated | ThreadUpdated):
        return None
    said = newest.body
    return Thread(thread_id=thread_id, version=newest.version, user_id=said.user_id, metadata=said.metadata)


def decide(thread: Thread | None, command: ThreadCommand) -> list[ThreadEvent]:
    """The events that the command leads to. Raises Refused."""
    match command:
        case CreateThread():
            return _create(thread, command)
        case UpdateThread():
            return _update(_present(thread), command)
        case DeleteThread():
            _present(thread)
            return [ThreadDeleted()]
        case _:
            assert_never(command)


def appends(
    thread_id: UUID, thread: Thread | None, events: Iterable[Body], *, former: int = 0
) -> tuple[Append, ...]:
    """The append that stores the events, if there are any; a new life goes on behind the `former` version."""
    return appended(thread_id, thread.version if thread else former, events)


def _of_client(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata without the keys that only the server sets."""
    return {key: value for key, value in metadata.items() if key not in SERVERS_KEYS}


def _present(thread: Thread | None) -> Thread:
    if thread is None:
        raise ThreadNotFound("Thread not found")
    return thread


def _create(thread: Thread | None, command: CreateThread) -> list[ThreadEvent]:
    if thread is not None:
        raise AlreadyExists(f"thread_id: thread {command.thread_id} already exists")
    if command.chosen and command.thread_id.version == 8:
        # Version 8 is what the server derives occurrences from: a chosen one could block a firing.
        raise InvalidField("thread_id: UUIDs of version 8 are made by the server only")
    metadata = _of_client(command.metadata)
    if command.cron_id is not None:
        metadata["cron_id"] = str(command.cron_id)  # by it the threads of a stateless cron are found
    return [
        ThreadCreated(
            user_id=command.user_id,
            metadata=metadata,
            cron_id=command.cron_id,
            copied_from=command.copied_from,
        )
    ]


def _update(thread: Thread, command: UpdateThread) -> list[ThreadEvent]:
    merged = {**thread.metadata, **_of_client(command.metadata)}
    if merged == thread.metadata:
        return []
    return [ThreadUpdated(user_id=thread.user_id, metadata=merged)]
