"""What a client says of an assistant: checked, reserved keys removed, brought into commands."""

from typing import Any
from uuid import UUID

import msgspec

from contracts.api import AssistantCreate, AssistantPatch
from contracts.spec import RunSpec
from domain.assistant import UNTITLED, CreateAssistant, UpdateAssistant
from domain.spec import check_config, cleaned

CLEANED = ("config", "context", "metadata")


def create_of(body: AssistantCreate, assistant_id: UUID, user_id: str) -> CreateAssistant:
    """The command of a create body. Raises InvalidField, ContradictoryRequest."""
    return CreateAssistant(
        assistant_id=assistant_id,
        graph_id=body.graph_id,
        user_id=user_id,
        name=body.name or UNTITLED,
        description=body.description,
        chosen=body.assistant_id is not None,
        **_cleaned(body),
    )


def update_of(body: AssistantPatch) -> UpdateAssistant:
    """The command of a patch; a null is as good as absent. Raises InvalidField, ContradictoryRequest."""
    return UpdateAssistant(
        graph_id=_given(body.graph_id),
        name=_given(body.name),
        description=_given(body.description),
        **_cleaned(body),
    )


def _cleaned(body: AssistantCreate | AssistantPatch) -> dict[str, Any]:
    check_config(body.config, body.context)
    spec = cleaned(RunSpec(**{name: getattr(body, name) for name in CLEANED}))
    return {name: value for name in CLEANED if (value := getattr(spec, name)) is not None}


def _given(value: str | None) -> str | msgspec.UnsetType:
    return msgspec.UNSET if value is None else value
