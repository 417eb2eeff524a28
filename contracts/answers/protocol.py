"""Answers to commands of the event streaming protocol."""

from typing import Any, Literal

import msgspec

CommandError = Literal[
    "invalid_argument",
    "unknown_command",
    "unknown_error",
    "no_such_run",
    "no_such_interrupt",
    "no_such_checkpoint",
    "no_such_subscription",
    "not_supported",
    "resume_gap",
]


class CommandMeta(msgspec.Struct, frozen=True):
    """What the protocol has beside a result."""

    applied_through_seq: int = 0  # events are not awaited by a command


class CommandDone(msgspec.Struct, frozen=True, tag_field="type", tag="success"):
    """A command that was carried out."""

    id: int
    result: dict[str, Any]
    meta: CommandMeta = CommandMeta()


class CommandRejected(msgspec.Struct, frozen=True, tag_field="type", tag="error", omit_defaults=True):
    """A command that was not; `id` is null when it had none."""

    id: int | None
    error: CommandError
    message: str
    detail: str = ""  # the same, of one that is none at all
    since: int | None = None  # of `resume_gap`
    min_available_seq: int | None = None
