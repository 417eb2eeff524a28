"""An assistant: a graph with its configuration. One default assistant stands for each graph."""

from collections.abc import Iterable
from typing import Any, assert_never
from uuid import UUID, uuid5

import msgspec

from contracts.events import AssistantCreated, AssistantDeleted, AssistantEvent, AssistantUpdated
from contracts.ledger import Append, Body, Recorded

NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""Both existing servers derive default assistants in this namespace; client code has the ids hard-coded."""


class Assistant(msgspec.Struct, frozen=True, kw_only=True):
    """An assistant as its events left it."""

    assistant_id: UUID
    version: int
    graph_id: str
    name: str
    description: str | None = None
    config: dict[str, Any] = {}
    context: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    deleted: bool = False


class RegisterGraph(msgspec.Struct, frozen=True, kw_only=True, tag="assistant.register"):
    """See to it that the graph has its default assistant, with this name. Twice is harmless."""

    graph_id: str
    name: str
    description: str | None = None


AssistantCommand = RegisterGraph


def default_assistant_id(graph_id: str) -> UUID:
    """The id of a graph's default assistant."""
    return uuid5(NAMESPACE, graph_id)


def assistant_of(assistant_id: UUID, events: Iterable[Recorded]) -> Assistant | None:
    """The assistant that the events of its stream tell of; None when there is none or it is deleted."""
    assistant: Assistant | None = None
    for recorded in events:
        assistant = evolve(assistant, assistant_id, recorded.body)
    return None if assistant is None or assistant.deleted else assistant


def decide(assistant: Assistant | None, command: AssistantCommand) -> list[AssistantEvent]:
    """The events that the command leads to; none when it changes nothing."""
    match command:
        case RegisterGraph():
            return _register(assistant, command)
        case _:
            assert_never(command)


def evolve(assistant: Assistant | None, assistant_id: UUID, event: Body) -> Assistant | None:
    """The assistant after the event."""
    match event:
        case AssistantCreated():
            return Assistant(
                assistant_id=assistant_id,
                version=1,
                graph_id=event.graph_id,
                name=event.name,
                description=event.description,
                config=event.config,
                context=event.context,
                metadata=event.metadata,
            )
        case AssistantUpdated() if assistant is not None:
            return msgspec.structs.replace(
                assistant,
                version=assistant.version + 1,
                name=assistant.name if event.name is msgspec.UNSET else event.name,
                description=assistant.description
                if event.description is msgspec.UNSET
                else event.description,
            )
        case AssistantDeleted() if assistant is not None:
            return msgspec.structs.replace(assistant, version=assistant.version + 1, deleted=True)
        case _:
            return assistant


def appends(assistant_id: UUID, assistant: Assistant | None, events: Iterable[Body]) -> tuple[Append, ...]:
    """The append that stores the events, if there are any."""
    bodies = tuple(events)
    return (Append(assistant_id, assistant.version if assistant else 0, bodies),) if bodies else ()


def _register(assistant: Assistant | None, command: RegisterGraph) -> list[AssistantEvent]:
    if assistant is None:
        created = AssistantCreated(
            graph_id=command.graph_id,
            name=command.name,
            description=command.description,
            metadata={"created_by": "system"},
            system=True,
        )
        return [created]
    if (assistant.name, assistant.description) == (command.name, command.description):
        return []
    return [AssistantUpdated(name=command.name, description=command.description)]
