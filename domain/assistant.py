"""An assistant: a graph with its configuration, in versions. One default assistant stands for each graph."""

from collections.abc import Iterable
from typing import Any, assert_never
from uuid import UUID, uuid5

import msgspec

from contracts.events import (
    AssistantCreated,
    AssistantDeleted,
    AssistantEvent,
    AssistantSaid,
    AssistantUpdated,
    AssistantVersionChosen,
)
from contracts.ledger import Append, Body, Recorded
from domain.changes import appended
from domain.errors import (
    AlreadyExists,
    AssistantNotFound,
    AssistantVersionNotFound,
    DefaultAssistant,
    InvalidField,
)

NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""Both existing servers derive default assistants in this namespace; client code has the ids hard-coded."""
MOST_BYTES = 256 * 1024
"""Bytes of JSON that one version may have: it travels with every question about the assistant's graph."""
UNTITLED = "Untitled"


class AssistantVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What one version says. The context and the config's `configurable` are the same thing twice."""

    graph_id: str
    name: str
    description: str | None = None
    config: dict[str, Any] = {}
    context: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class Assistant(msgspec.Struct, frozen=True, kw_only=True):
    """An assistant as its events left it, with the fields of the version that is in force.

    `version` counts the events of its stream; `number` is the version that clients see, of `versions` many.
    """

    assistant_id: UUID
    version: int
    graph_id: str
    name: str
    description: str | None = None
    config: dict[str, Any] = {}
    context: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    user_id: str = ""
    system: bool = False
    number: int = 1
    versions: int = 1
    missing: bool = False
    pool: str = "default"


class RegisterGraph(msgspec.Struct, frozen=True, kw_only=True, tag="assistant.register"):
    """See to it that the graph has its default assistant, with this name, for a pool of workers. Twice is harmless.

    Once somebody has made a version of it, name and description are theirs.
    """

    graph_id: str
    name: str
    description: str | None = None
    pool: str = "default"


class RetireGraph(msgspec.Struct, frozen=True, kw_only=True, tag="assistant.retire"):
    """Say that the project has the graph no longer: what rests on it waits until it is registered again."""


class CreateAssistant(msgspec.Struct, frozen=True, kw_only=True, tag="assistant.create"):
    """Configure a graph. `chosen` = the client chose the id."""

    assistant_id: UUID
    graph_id: str
    user_id: str
    name: str = UNTITLED
    description: str | None = None
    config: dict[str, Any] = {}
    context: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    chosen: bool = False


class UpdateAssistant(msgspec.Struct, frozen=True, kw_only=True, tag="assistant.update"):
    """Make a new version of the one in force; absent fields keep their value, metadata is merged (shallow).

    A context replaces the config's `configurable`, and a `configurable` the context.
    """

    graph_id: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET
    config: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    context: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class ChooseVersion(msgspec.Struct, frozen=True, kw_only=True, tag="assistant.choose_version"):
    """Put a version into force. The one that is in force already changes nothing."""

    number: int
    said: AssistantVersion | None  # what that version says, None = there is no such version


class DeleteAssistant(msgspec.Struct, frozen=True, kw_only=True, tag="assistant.delete"):
    """End the assistant."""


AssistantCommand = (
    RegisterGraph | RetireGraph | CreateAssistant | UpdateAssistant | ChooseVersion | DeleteAssistant
)


def default_assistant_id(graph_id: str) -> UUID:
    """The id of a graph's default assistant."""
    return uuid5(NAMESPACE, graph_id)


def assistant_of(assistant_id: UUID, newest: Recorded | None) -> Assistant | None:
    """The assistant as the newest event of its stream tells; None when there is none or it is deleted."""
    if newest is None or not isinstance(newest.body, AssistantSaid):
        return None
    fields = msgspec.structs.asdict(newest.body)
    return Assistant(assistant_id=assistant_id, version=newest.version, **fields)


def version_of(number: int, events: Iterable[Recorded]) -> AssistantVersion | None:
    """What a version says, from the whole stream; None when there is no such version in its last life."""
    found: AssistantVersion | None = None
    for recorded in events:
        if isinstance(recorded.body, AssistantDeleted):
            found = None
        if isinstance(recorded.body, AssistantSaid) and recorded.body.number == number:
            found = _version(recorded.body)
    return found


def decide(assistant: Assistant | None, command: AssistantCommand) -> list[AssistantEvent]:
    """The events that the command leads to; none when it changes nothing. Raises Refused."""
    match command:
        case RegisterGraph():
            return _register(assistant, command)
        case RetireGraph():
            return _retire(_present(assistant))
        case CreateAssistant():
            return _create(assistant, command)
        case UpdateAssistant():
            return _update(_present(assistant), command)
        case ChooseVersion():
            return _choose(_present(assistant), command)
        case DeleteAssistant():
            return _delete(_present(assistant))
        case _:
            assert_never(command)


def appends(
    assistant_id: UUID, assistant: Assistant | None, events: Iterable[Body], *, former: int = 0
) -> tuple[Append, ...]:
    """The append that stores the events, if there are any; a new life goes on behind the `former` version."""
    return appended(assistant_id, assistant.version if assistant else former, events)


def mirrored(config: dict[str, Any], context: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and context that say the same; the one that is set fills the other."""
    configurable = config.get("configurable") or {}
    if configurable:
        return config, configurable
    return ({**config, "configurable": context} if context else config), context


def _present(assistant: Assistant | None) -> Assistant:
    if assistant is None:
        raise AssistantNotFound("assistant_id: assistant not found")
    return assistant


def _register(assistant: Assistant | None, command: RegisterGraph) -> list[AssistantEvent]:
    if assistant is None:
        created = AssistantCreated(
            graph_id=command.graph_id,
            name=command.name,
            description=command.description,
            metadata={"created_by": "system"},
            system=True,
            pool=command.pool,
        )
        return [created]
    known = _state(assistant)
    in_step = known | {"missing": False, "pool": command.pool}
    if assistant.system and assistant.versions == 1:
        in_step |= {"name": command.name, "description": command.description}
    return [] if in_step == known else [AssistantUpdated(**in_step)]


def _retire(assistant: Assistant) -> list[AssistantEvent]:
    if assistant.missing or not assistant.system:
        return []
    return [AssistantUpdated(**_state(assistant) | {"missing": True})]


def _create(assistant: Assistant | None, command: CreateAssistant) -> list[AssistantEvent]:
    if assistant is not None:
        raise AlreadyExists(f"assistant_id: assistant {command.assistant_id} already exists")
    if command.chosen and command.assistant_id.version == 8:
        # Version 8 is what the server derives occurrences from: a chosen one could block a firing.
        raise InvalidField("assistant_id: UUIDs of version 8 are made by the server only")
    config, context = mirrored(command.config, command.context)
    created = AssistantCreated(
        graph_id=command.graph_id,
        name=command.name,
        description=command.description,
        config=config,
        context=context,
        metadata=command.metadata,
        user_id=command.user_id,
    )
    _check_size(created)
    return [created]


def _update(assistant: Assistant, command: UpdateAssistant) -> list[AssistantEvent]:
    names = ("graph_id", "name", "description")
    fields = {name: value for name in names if (value := getattr(command, name)) is not msgspec.UNSET}
    fields |= _reconfigured(assistant, command)
    if command.metadata is not msgspec.UNSET:
        fields["metadata"] = {**assistant.metadata, **command.metadata}
    if not fields:
        return []
    newest = assistant.versions + 1
    updated = AssistantUpdated(**_state(assistant) | fields | {"number": newest, "versions": newest})
    _check_size(updated)
    return [updated]


def _reconfigured(assistant: Assistant, command: UpdateAssistant) -> dict[str, Any]:
    """The new config and context, if either was given; a config without `configurable` keeps the context."""
    given, context = command.config, command.context
    if given is msgspec.UNSET and context is msgspec.UNSET:
        return {}
    config = dict(assistant.config if given is msgspec.UNSET else given)
    if given is not msgspec.UNSET and given.get("configurable"):
        context = given["configurable"]
    elif context is msgspec.UNSET:
        context = {} if "configurable" in config else assistant.context
    config.pop("configurable", None)
    return dict(zip(("config", "context"), mirrored(config, context), strict=True))


def _choose(assistant: Assistant, command: ChooseVersion) -> list[AssistantEvent]:
    if command.said is None:
        raise AssistantVersionNotFound(f"version: the assistant has no version {command.number}")
    if command.number == assistant.number:
        return []
    said = msgspec.structs.asdict(command.said)
    return [AssistantVersionChosen(**_state(assistant) | said | {"number": command.number})]


def _delete(assistant: Assistant) -> list[AssistantEvent]:
    if assistant.system:
        raise DefaultAssistant(
            f"assistant_id: the default assistant of graph '{assistant.graph_id}' can't be deleted"
        )
    return [AssistantDeleted()]


def _check_size(said: AssistantSaid) -> None:
    size = len(msgspec.json.encode(_version(said)))
    if size > MOST_BYTES:
        raise InvalidField(
            f"config: {size} bytes of JSON (config, context, metadata, name, description);"
            f" at most {MOST_BYTES} are allowed"
        )


def _version(said: AssistantSaid) -> AssistantVersion:
    return AssistantVersion(**{name: getattr(said, name) for name in AssistantVersion.__struct_fields__})


def _state(assistant: Assistant) -> dict[str, Any]:
    """What the next event says of it, unless it changes that."""
    return {name: getattr(assistant, name) for name in AssistantSaid.__struct_fields__}
