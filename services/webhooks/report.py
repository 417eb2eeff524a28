"""What a receiver is told of a run, from the events of its stream."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from contracts.codec import BlobOf, unpack
from contracts.events import (
    RunFailed,
    RunInterrupted,
    RunRequested,
    RunRolledBack,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    Settled,
)
from contracts.ledger import Payload, Recorded
from contracts.webhooks import PLAIN_FIELDS
from domain.spec import client_keys

STATUSES: dict[type[Any], str] = {
    RunSucceeded: "success",
    RunFailed: "error",
    RunInterrupted: "interrupted",
    RunTimedOut: "timeout",
    RunRolledBack: "rollback",
}


def report(
    events: Sequence[Recorded], blob_of: BlobOf, sent_at: datetime, fields: Sequence[str] | None
) -> bytes:
    """The body (JSON) about a run that has ended; `fields` are the keys that may leave, None = all.

    Who the caller was never leaves. Raises LookupError when the events are not those of a run that has ended.
    """
    requested = next(event for event in events if isinstance(event.body, RunRequested))
    body = requested.body
    assert isinstance(body, RunRequested)
    ended = next(event for event in events if type(event.body) in STATUSES)
    began = next((event for event in events if isinstance(event.body, RunStarted)), None)
    outcome = ended.body
    told: dict[str, Any] = {
        "run_id": str(requested.stream_id),
        "thread_id": str(body.thread_id),
        "assistant_id": str(body.assistant_id),
        "created_at": _text(max(requested.meta.at, body.not_before or requested.meta.at)),
        "updated_at": _text(ended.meta.at),
        "metadata": body.metadata,
        "kwargs": _kwargs(body.kwargs, blob_of),
        "multitask_strategy": body.multitask_strategy,
        "status": STATUSES[type(outcome)],
        "langsmith_session_name": None,
        "run_started_at": None if began is None else _text(began.meta.at),
        "run_ended_at": _text(ended.meta.at),
        "webhook_sent_at": _text(sent_at),
        "values": _values(outcome, blob_of),
    }
    if isinstance(outcome, Settled) and outcome.failure is not None:
        told["error"] = outcome.failure
    chosen = (*PLAIN_FIELDS, "langsmith_session_name") if fields is None else fields
    return msgspec.json.encode({name: value for name, value in told.items() if name in chosen})


def _kwargs(payload: Payload, blob_of: BlobOf) -> Any:
    data = unpack(payload, blob_of)
    kwargs = {} if data is None else msgspec.json.decode(data)
    configurable = (kwargs.get("config") or {}).get("configurable")
    if configurable is not None:
        cron = {name: configurable[name] for name in ("cron_id",) if name in configurable}
        kwargs["config"]["configurable"] = client_keys(configurable) | cron
    if kwargs.get("context"):
        kwargs["context"] = client_keys(kwargs["context"])
    kwargs.pop("updates", None)
    return kwargs


def _values(outcome: Any, blob_of: BlobOf) -> Any:
    if not isinstance(outcome, Settled):
        return None
    output = outcome.output if outcome.result is None else outcome.result
    data = None if output is None else unpack(output, blob_of)
    values = None if data is None else msgspec.json.decode(data)
    interrupts = [one for entries in outcome.interrupts.values() for one in entries]
    if not interrupts:
        return values
    return {**(values if isinstance(values, dict) else {}), "__interrupt__": interrupts}


def _text(instant: datetime) -> str:
    return instant.isoformat()
