"""Assistants: versions, mirrored configuration, and the defaults that stand for graphs."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from contracts.api import AssistantCreate, AssistantPatch
from contracts.events import (
    AssistantCreated,
    AssistantDeleted,
    AssistantEvent,
    AssistantSaid,
    AssistantUpdated,
    AssistantVersionChosen,
)
from contracts.ledger import Body, Meta, Recorded
from domain import assistant as assistants
from domain.assistant import (
    MOST_BYTES,
    Assistant,
    AssistantCommand,
    ChooseVersion,
    CreateAssistant,
    DeleteAssistant,
    RegisterGraph,
    RetireGraph,
    UpdateAssistant,
    assistant_of,
    default_assistant_id,
    version_of,
)
from domain.assistant_fields import create_of, update_of
from domain.errors import (
    AlreadyExists,
    AssistantNotFound,
    AssistantVersionNotFound,
    ContradictoryRequest,
    DefaultAssistant,
    InvalidField,
)

ID = UUID("5f0c1ab4-9a3b-4a53-9f28-53b4d6b4d8f6")
META = Meta(at=datetime(2026, 11, 24, tzinfo=UTC), actor="test")
CREATED = AssistantCreated(
    graph_id="agent",
    name="Mine",
    config={"tags": ["t"], "configurable": {"a": 1}},
    context={"a": 1},
    metadata={"k": 1},
    user_id="anonymous",
)
DEFAULT = AssistantCreated(graph_id="agent", name="agent", metadata={"created_by": "system"}, system=True)


def changed(of: AssistantSaid, **fields: Any) -> AssistantUpdated:
    """The change of an assistant: all that it said before, but for these."""
    return AssistantUpdated(**msgspec.structs.asdict(of) | fields)


def chosen(of: AssistantSaid, versions: int) -> AssistantVersionChosen:
    return AssistantVersionChosen(**msgspec.structs.asdict(of) | {"versions": versions})


RENAMED = changed(CREATED, name="Second", number=2, versions=2)


def recorded(*bodies: Body) -> list[Recorded]:
    return [Recorded(n, ID, n, body.TOPIC, META, body) for n, body in enumerate(bodies, start=1)]


def choose(number: int, *bodies: Body) -> ChooseVersion:
    return ChooseVersion(number=number, said=version_of(number, recorded(*bodies)))


def given(*bodies: Body) -> Assistant | None:
    events = recorded(*bodies)
    return assistant_of(ID, events[-1] if events else None)


def when(command: AssistantCommand, *bodies: Body) -> list[AssistantEvent]:
    return assistants.decide(given(*bodies), command)


def now(*bodies: Body) -> Assistant:
    found = given(*bodies)
    assert found is not None
    return found


def created(**fields: Any) -> AssistantEvent:
    body = AssistantCreate(graph_id="agent", **fields)
    [event] = when(create_of(body, ID, "anonymous"))
    return event


def patched(*bodies: Body, **fields: Any) -> Assistant:
    return now(*bodies, *when(update_of(AssistantPatch(**fields)), *bodies))


# --- defaults -----------------------------------------------------------------------------------------


def test_default_assistant_id_is_what_clients_expect() -> None:
    assert str(default_assistant_id("agent")) == "fe096781-5601-53d2-b2f6-0d3403f7e9ca"


def test_graph_is_registered_once_and_kept_in_step() -> None:
    assert when(RegisterGraph(graph_id="agent", name="agent")) == [DEFAULT]
    assert when(RegisterGraph(graph_id="agent", name="agent"), DEFAULT) == []
    moved = RegisterGraph(graph_id="agent", name="agent", pool="billing")
    assert when(moved, DEFAULT) == [changed(DEFAULT, pool="billing")]
    assert when(moved, DEFAULT, changed(DEFAULT, pool="billing")) == []
    renamed = RegisterGraph(graph_id="agent", name="Agent", description="does it")
    updated = changed(DEFAULT, name="Agent", description="does it")
    assert when(renamed, DEFAULT) == [updated]
    after = now(DEFAULT, updated)
    assert (after.name, after.description, after.version, after.number) == ("Agent", "does it", 2, 1)


def test_graph_that_left_is_told_once_and_comes_back() -> None:
    gone = changed(DEFAULT, missing=True)
    assert when(RetireGraph(), DEFAULT) == [gone]
    assert when(RetireGraph(), DEFAULT, gone) == []
    assert now(DEFAULT, gone).missing
    assert when(RegisterGraph(graph_id="agent", name="agent"), DEFAULT, gone) == [changed(DEFAULT)]
    # Of a version that a user made, only that changes.
    renamed = changed(DEFAULT, name="Second", number=2, versions=2)
    away = changed(renamed, missing=True)
    assert when(RetireGraph(), DEFAULT, renamed) == [away]
    assert when(RegisterGraph(graph_id="agent", name="agent"), DEFAULT, renamed, away) == [changed(renamed)]
    assert when(RetireGraph(), CREATED) == []  # it stands for no graph


def test_start_of_the_server_does_not_undo_a_version_of_a_user() -> None:
    register = RegisterGraph(graph_id="agent", name="agent")
    renamed = changed(DEFAULT, name="Second", number=2, versions=2)
    assert when(register, DEFAULT, renamed) == []
    # The first version in force again: its name is the user's choice too.
    assert when(register, DEFAULT, renamed, chosen(DEFAULT, versions=2)) == []


def test_start_of_the_server_leaves_an_assistant_of_a_user_alone() -> None:
    assert when(RegisterGraph(graph_id="agent", name="agent"), CREATED) == []


def test_first_version_keeps_what_the_project_said_last() -> None:
    in_step = changed(DEFAULT, name="Agent", description="does it")
    renamed = changed(in_step, name="Second", number=2, versions=2)
    [again] = when(choose(1, DEFAULT, in_step, renamed), DEFAULT, in_step, renamed)
    assert again == chosen(in_step, versions=2)


def test_default_assistant_is_not_deleted() -> None:
    with pytest.raises(DefaultAssistant):
        when(DeleteAssistant(), DEFAULT)


# --- creation -----------------------------------------------------------------------------------------


def test_created_with_defaults() -> None:
    assert created() == AssistantCreated(graph_id="agent", name="Untitled", user_id="anonymous")


def test_configurable_and_context_mirror_each_other() -> None:
    by_context = created(context={"a": 1}, config={"tags": ["t"]})
    by_config = created(config={"tags": ["t"], "configurable": {"a": 1}})
    assert by_context == by_config
    assert isinstance(by_context, AssistantCreated)
    assert by_context.config == {"tags": ["t"], "configurable": {"a": 1}}
    assert by_context.context == {"a": 1}


def test_configurable_and_context_together_are_refused() -> None:
    fields: dict[str, Any] = {"config": {"configurable": {"a": 1}}, "context": {"b": 2}}
    with pytest.raises(ContradictoryRequest):
        created(**fields)
    with pytest.raises(ContradictoryRequest):
        update_of(AssistantPatch(**fields))


def test_reserved_keys_are_removed() -> None:
    event = created(
        metadata={"k": 1, "assistant_id": "x", "run_id": "y"},
        context={"a": 1, "langgraph_auth_user": "root", "__internal": 1},
    )
    assert isinstance(event, AssistantCreated)
    assert event.metadata == {"k": 1}
    assert event.context == {"a": 1}


@pytest.mark.parametrize("config", [{"tags": "t"}, {"recursion_limit": 0}, {"configurable": []}])
def test_config_of_the_wrong_shape_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match="config"):
        create_of(AssistantCreate(graph_id="agent", config=config), ID, "anonymous")


def test_taken_id_is_refused() -> None:
    with pytest.raises(AlreadyExists):
        when(CreateAssistant(assistant_id=ID, graph_id="agent", user_id="anonymous"), CREATED)


def test_client_may_not_choose_an_id_of_an_occurrence() -> None:
    derived = str(UUID("01900000-0000-8000-8000-000000000001"))
    body = AssistantCreate(graph_id="agent", assistant_id=derived)
    with pytest.raises(InvalidField, match="assistant_id"):
        assistants.decide(None, create_of(body, UUID(derived), "anonymous"))


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidField, match="at most"):
        created(metadata={"k": "x" * MOST_BYTES})
    half = {"k": "x" * (MOST_BYTES // 2)}
    with pytest.raises(InvalidField, match="at most"):  # merged it is too large
        patched(created(metadata=half), metadata={"other": half["k"]})


# --- versions -----------------------------------------------------------------------------------------


def test_each_change_is_a_version() -> None:
    assert when(UpdateAssistant(name="Second"), CREATED) == [RENAMED]
    third = changed(RENAMED, number=3, versions=3)
    assert when(UpdateAssistant(name="Second"), CREATED, RENAMED) == [third]
    after = now(CREATED, RENAMED)
    assert (after.name, after.number, after.config) == ("Second", 2, CREATED.config)


def test_change_of_nothing_is_no_version() -> None:
    assert when(update_of(AssistantPatch()), CREATED) == []


def test_numbers_go_on_after_the_newest() -> None:
    first_again = chosen(CREATED, versions=2)
    [third] = when(UpdateAssistant(description="d"), CREATED, RENAMED, first_again)
    assert third == changed(CREATED, description="d", number=3, versions=3)  # made from the one in force


def test_chosen_version_is_restored_whole() -> None:
    second = changed(
        CREATED,
        graph_id="other",
        name="Second",
        description="d",
        config={"configurable": {"b": 2}},
        context={"b": 2},
        metadata={"k": 2},
        number=2,
        versions=2,
    )
    [first_again] = when(choose(1, CREATED, second), CREATED, second)
    assert first_again == chosen(CREATED, versions=2)
    history = (CREATED, second, first_again)
    assert when(choose(2, *history), *history) == [chosen(second, versions=2)]


def test_version_in_force_is_chosen_without_effect() -> None:
    assert when(choose(2, CREATED, RENAMED), CREATED, RENAMED) == []


@pytest.mark.parametrize("number", [0, 3])
def test_unknown_version_is_refused(number: int) -> None:
    with pytest.raises(AssistantVersionNotFound):
        when(choose(number, CREATED, RENAMED), CREATED, RENAMED)


def test_the_newest_event_is_all_that_is_read() -> None:
    """However many versions there are, a run that is asked for reads one event."""
    newest = recorded(CREATED, RENAMED)[-1]
    assert assistant_of(ID, newest) == now(CREATED, RENAMED)


def test_metadata_is_merged_shallowly_and_other_fields_are_replaced() -> None:
    after = patched(CREATED, metadata={"k": {"deep": 1}, "more": 2}, config={"recursion_limit": 5})
    assert after.metadata == {"k": {"deep": 1}, "more": 2}
    assert after.config == {"recursion_limit": 5, "configurable": {"a": 1}}


@pytest.mark.parametrize(
    ("fields", "config", "context"),
    [
        ({"context": {"b": 2}}, {"tags": ["t"], "configurable": {"b": 2}}, {"b": 2}),
        ({"context": {}}, {"tags": ["t"]}, {}),
        ({"config": {"configurable": {"b": 2}}}, {"configurable": {"b": 2}}, {"b": 2}),
        ({"config": {"configurable": {}}}, {}, {}),
        ({"config": {}}, {"configurable": {"a": 1}}, {"a": 1}),
        ({"config": {"tags": []}, "context": {"b": 2}}, {"tags": [], "configurable": {"b": 2}}, {"b": 2}),
        ({"name": "n"}, CREATED.config, CREATED.context),
    ],
)
def test_changed_configuration_stays_mirrored(
    fields: dict[str, Any], config: dict[str, Any], context: dict[str, Any]
) -> None:
    after = patched(CREATED, **fields)
    assert (after.config, after.context) == (config, context)


# --- end ----------------------------------------------------------------------------------------------


def test_deleted_assistant_is_unknown() -> None:
    assert when(DeleteAssistant(), CREATED) == [AssistantDeleted()]
    assert given(CREATED, AssistantDeleted()) is None
    for command in (UpdateAssistant(name="n"), ChooseVersion(number=1, said=None), DeleteAssistant()):
        with pytest.raises(AssistantNotFound):
            when(command, CREATED, AssistantDeleted())
