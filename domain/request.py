"""What a run is asked to do: the client's fields, checked and brought into one form."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from contracts.api import (
    Checkpoint,
    CommandBody,
    RunConfig,
    RunCreate,
    RunFields,
    RunKwargs,
    StatelessRunCreate,
    StateWrite,
)
from domain.assistant import Assistant
from domain.errors import ContradictoryRequest, InvalidField, NotSupported

RESERVED_CONFIGURABLE = frozenset(
    {
        "langgraph_auth_user",
        "langgraph_auth_user_id",
        "langgraph_auth_permissions",
        "langgraph_request_id",
    }
)
RESERVED_METADATA = frozenset(
    {"thread_id", "assistant_id", "run_id", "cron_id", "counters_since_delta_snapshot"}
)
CHECKPOINT_KEYS = ("checkpoint_id", "checkpoint_ns", "checkpoint_map")
SPEC_FIELDS = (
    "input",
    "metadata",
    "config",
    "context",
    "interrupt_before",
    "interrupt_after",
    "multitask_strategy",
    "stream_mode",
    "stream_subgraphs",
    "stream_resumable",
    "durability",
    "checkpoint_during",
)
"""Fields of a create body that describe the run; a cron keeps them in its payload."""


def check_fields(body: RunFields) -> None:
    """Refuse what is known and not honoured, and what contradicts itself. Raises Refused."""
    if body.webhook is not None:
        raise NotSupported("webhook: not supported yet")
    check_config(body.config, body.context)


def check_run(body: RunCreate) -> None:
    """The same for a single run. Raises Refused."""
    check_fields(body)
    if body.command is not None and body.input is not None:
        raise InvalidField("input: may not be given together with command")
    if body.command is not None:
        _check_goto(body.command)


def check_stateless(body: StatelessRunCreate) -> None:
    """The same for a run that makes its own thread. Raises Refused."""
    check_run(body)
    if body.command is not None and body.command.resume is not None:
        raise ContradictoryRequest("You must provide a thread_id when resuming.")
    if body.checkpoint is not None or body.checkpoint_id is not None:
        raise InvalidField("checkpoint: a new thread has none; name the thread in the path")


def check_write(write: StateWrite) -> None:
    """Refuse a write into a thread's state that contradicts itself. Raises Refused."""
    if write.command is None:
        return
    if write.values:
        raise InvalidField("values: may not be given together with command")
    _check_goto(write.command)


def check_config(config: dict[str, Any] | None, context: dict[str, Any] | None) -> None:
    """Refuse a config of the wrong shape, and configurable together with context. Raises Refused."""
    if config is None:
        return
    try:
        known = msgspec.convert(config, RunConfig)
    except msgspec.ValidationError as exc:
        raise InvalidField(f"config: {exc}") from None
    if context and set(client_keys(known.configurable or {})) - set(CHECKPOINT_KEYS):
        raise ContradictoryRequest(
            "Cannot specify both configurable and context. Prefer setting context alone."
        )


def client_keys(configurable: dict[str, Any]) -> dict[str, Any]:
    """The part of a configurable that the client may set; the server's own keys are removed silently."""
    return {
        key: value
        for key, value in configurable.items()
        if key not in RESERVED_CONFIGURABLE and not key.startswith("__") and key != "cron_id"
    }


def spec_of(body: RunFields) -> dict[str, Any]:
    """The fields of a create body that describe the run, absent ones left out, reserved keys removed."""
    spec = {name: value for name in SPEC_FIELDS if (value := getattr(body, name, None)) is not None}
    return clean_spec(spec)


def clean_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The same without keys that only the server sets."""
    spec = dict(spec)
    if "metadata" in spec:
        spec["metadata"] = clean_metadata(spec["metadata"])
    if "context" in spec:
        spec["context"] = client_keys(spec["context"])
    if "config" in spec:
        spec["config"] = _clean_config(spec["config"])
    return spec


def run_spec_of(body: RunCreate) -> dict[str, Any]:
    """The same of a single run, with its command; a checkpoint to start from goes into the configurable."""
    spec = spec_of(body)
    if body.command is not None:
        spec["command"] = _given(body.command)
    if body.feedback_keys is not None:
        spec["feedback_keys"] = body.feedback_keys
    if checkpoint := checkpoint_of(body.checkpoint, body.checkpoint_id):
        config = spec.get("config") or {}
        spec["config"] = {**config, "configurable": {**config.get("configurable", {}), **checkpoint}}
    return spec


def checkpoint_of(checkpoint: Checkpoint | None, checkpoint_id: str | None) -> dict[str, Any]:
    """The keys that name a checkpoint in a configurable; empty when none is named.

    Its thread is always the path's.
    """
    named = {} if checkpoint is None else msgspec.structs.asdict(checkpoint)
    found = {name: named[name] for name in CHECKPOINT_KEYS if named.get(name) is not None}
    if checkpoint_id is not None:
        found["checkpoint_id"] = checkpoint_id
    return found if found.get("checkpoint_id") or found.get("checkpoint_map") else {}


def updates_of(writes: Sequence[StateWrite]) -> list[dict[str, Any]]:
    """The writes of one superstep as a run carries them, absent fields left out."""
    updates = []
    for write in writes:
        command = {} if write.command is None else {"command": _given(write.command)}
        updates.append({**_given(write), **command})
    return updates


def clean_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Run metadata without the keys that only the server sets."""
    return {key: value for key, value in metadata.items() if key not in RESERVED_METADATA}


def kwargs_of(spec: dict[str, Any], assistant: Assistant, cron_id: UUID | None, temporary: bool) -> RunKwargs:
    """What the run will do: the spec over the assistant's own config and context."""
    return RunKwargs(
        input=spec.get("input"),
        command=spec.get("command"),
        config=_merged_config(assistant.config, spec.get("config") or {}, spec.get("context"), cron_id),
        context=_merged_context(assistant, spec),
        stream_mode=stream_modes(spec.get("stream_mode")),
        interrupt_before=spec.get("interrupt_before"),
        interrupt_after=spec.get("interrupt_after"),
        temporary=temporary,
        feedback_keys=spec.get("feedback_keys"),
        subgraphs=bool(spec.get("stream_subgraphs")),
        resumable=bool(spec.get("stream_resumable")),
        checkpoint_during=spec.get("checkpoint_during"),
        durability=_durability(spec),
        updates=spec.get("updates", msgspec.UNSET),
    )


def stream_modes(value: str | Sequence[str] | None) -> list[str]:
    """The modes as a list without doubles, `values` when none is named."""
    modes = [value] if isinstance(value, str) else list(value or ["values"])
    return list(dict.fromkeys(modes))


def run_metadata(
    assistant: Assistant, thread: dict[str, Any], spec: dict[str, Any], *more: dict[str, Any]
) -> dict[str, Any]:
    """Metadata of a run: the assistant's, the thread's, the config's and the spec's, later ones winning."""
    merged = {**assistant.metadata, **thread, **(spec.get("config") or {}).get("metadata", {})}
    for part in (spec.get("metadata") or {}, *more):
        merged.update(part)
    merged["assistant_id"] = str(assistant.assistant_id)
    return merged


def _given(body: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(body).items() if value is not None}


def _check_goto(command: CommandBody) -> None:
    for target in command.goto if isinstance(command.goto, list) else [command.goto]:
        if isinstance(target, dict) and not isinstance(target.get("node"), str):
            raise InvalidField("command.goto: an object must name its 'node'")


def _clean_config(config: dict[str, Any]) -> dict[str, Any]:
    cleaned = {key: value for key, value in config.items() if value is not None}
    if "configurable" in cleaned:
        cleaned["configurable"] = client_keys(cleaned["configurable"])
    if "metadata" in cleaned:
        cleaned["metadata"] = clean_metadata(cleaned["metadata"])
    return cleaned


def _merged_config(
    own: dict[str, Any], asked: dict[str, Any], context: dict[str, Any] | None, cron_id: UUID | None
) -> dict[str, Any]:
    merged = {**own, **asked}
    # A context is mirrored into the configurable, as in the reference server.
    configurable = {
        **own.get("configurable", {}),
        **asked.get("configurable", {}),
        **(context or {}),
    }
    if cron_id is not None:
        configurable["cron_id"] = str(cron_id)
    if tags := [*own.get("tags", ()), *asked.get("tags", ())]:
        merged["tags"] = tags
    return {**merged, "configurable": configurable}


def _merged_context(assistant: Assistant, spec: dict[str, Any]) -> dict[str, Any] | None:
    asked = spec.get("context")
    if asked is None:
        # A configurable alone is the context too, as in the reference server.
        given = client_keys((spec.get("config") or {}).get("configurable") or {})
        asked = {key: value for key, value in given.items() if key not in CHECKPOINT_KEYS}
    merged = {**assistant.context, **(asked or {})}
    return merged or None


def _durability(spec: dict[str, Any]) -> str | None:
    if spec.get("durability") is not None:
        return str(spec["durability"])
    during = spec.get("checkpoint_during")
    return None if during is None else ("async" if during else "exit")
