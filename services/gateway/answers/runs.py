"""Runs from rows of the read model, and what they came to."""

from typing import Any
from uuid import UUID

import msgspec

from contracts.answers.runs import RunAnswer
from contracts.api import RunKwargs
from contracts.codec import BlobOf
from services.gateway.answers.values import Row, decoded, instant, json_of, value_of

EMPTY = msgspec.Raw(b"{}")
_shown = msgspec.json.Decoder(dict[str, msgspec.Raw])


def run(row: Row, blob_of: BlobOf) -> RunAnswer:
    """The run; a row without its large columns shows none of them."""
    kwargs = _kwargs(row, blob_of)
    failure = failure_of(row)
    shown: Any = kwargs
    return RunAnswer(
        run_id=UUID(bytes=row["run_id"]),
        thread_id=UUID(bytes=row["thread_id"]),
        assistant_id=UUID(bytes=row["assistant_id"]),
        user_id=row["user_id"],
        created_at=instant(row["created_at"]),
        updated_at=instant(row["updated_at"]),
        status=row["status"],
        metadata=json_of(row["metadata"]),
        kwargs=shown,
        multitask_strategy=row["multitask_strategy"],
        input=kwargs.get("input"),
        output=value_of(row["output"], blob_of),
        error_message=None if failure is None else f"{failure['error']}: {failure['message']}",
        config=shown.get("config", EMPTY),
        context=shown.get("context", EMPTY),
        cancel_reason=row["cancel_reason"],
    )


def failure_of(row: Row) -> Row | None:
    """Why a run failed, as class and text; None of one that did not."""
    return (
        {"error": row["error"], "message": row["message"]} if row["status"] in ("error", "timeout") else None
    )


def kwargs_of(row: Row, blob_of: BlobOf) -> RunKwargs:
    """What the run was asked to do."""
    value = value_of(row["kwargs"], blob_of)
    return RunKwargs() if value is None else msgspec.json.decode(value, type=RunKwargs)


def values_of(row: Row, blob_of: BlobOf) -> Any:
    """The values that a run left, with the interrupts that it waits for; None when it left none."""
    values = value_of(row["output"], blob_of)
    interrupts = [one for entries in msgspec.json.decode(row["interrupts"]).values() for one in entries]
    if not interrupts:
        return values
    known = decoded(values)
    return {**(known if isinstance(known, dict) else {}), "__interrupt__": interrupts}


def _kwargs(row: Row, blob_of: BlobOf) -> dict[str, msgspec.Raw]:
    value = value_of(row["kwargs"], blob_of)
    kwargs = {} if value is None else _shown.decode(value)
    kwargs.pop("updates", None)
    if bytes(kwargs.get("context", b"null")) == b"null":
        kwargs["context"] = EMPTY
    return kwargs
