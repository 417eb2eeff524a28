"""Assistants and their versions from rows of the read model."""

from uuid import UUID

from contracts.answers.assistants import AssistantAnswer, AssistantVersionAnswer
from services.gateway.answers.values import Row, instant, json_of


def assistant(row: Row) -> AssistantAnswer:
    """The assistant."""
    return AssistantAnswer(**_said(row), updated_at=instant(row["updated_at"]), user_id=row["user_id"])


def assistant_version(row: Row) -> AssistantVersionAnswer:
    """A version of it."""
    return AssistantVersionAnswer(**_said(row))


def _said(row: Row) -> Row:
    return {
        "assistant_id": UUID(bytes=row["assistant_id"]),
        "graph_id": row["graph_id"],
        "name": row["name"],
        "description": row["description"],
        "config": json_of(row["config"]),
        "context": json_of(row["context"]),
        "metadata": json_of(row["metadata"]),
        "version": row["version"],
        "created_at": instant(row["created_at"]),
    }
