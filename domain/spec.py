"""What a run is asked to do: the client's fields, checked and brought into one form."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from contracts.api import (
    Checkpoint,
    CommandBody,
    Json,
    RunConfig,
    RunCreate,
    RunFields,
    RunKwargs,
    StatelessRunCreate,
    StateWrite,
)
from contracts.spec import RUN_FIELDS, RunSpec
from domain.assistant import Assistant
from domain.errors import ContradictoryRequest, InvalidField

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


def check_fields(body: RunFields) -> None:
    """Refuse what is known and not honoured, and what contradicts itself. Raises Refused."""
    check_config(body.config, body.context)


def check_run(body: RunCreate) -> None:
    """The same for a single run. Raises Refused."""
    check_fields(body)
    if body.command is not None:
        _check_command(body.command)


def check_stateless(body: StatelessRunCreate) -> None:
    """The same for a run that makes its own thread. Raises Refused."""
    check_run(body)
    if body.command is not None and body.command.resume is not None:
        raise ContradictoryRequest("You must provide a thread_id when resuming.")
    if body.checkpoint is not None or body.checkpoint_id is not None:
        raise InvalidField("checkpoint: a new thread has none; name the thread in the path")
    if points_of(RunSpec(config=body.config).configurable):
        raise InvalidField("config.configurable: a new thread has no checkpoint; name the thread in the path")


def check_write(write: StateWrite) -> None:
    """Refuse a write into a thread's state that contradicts itself. Raises Refused."""
    if write.command is None:
        return
    if write.values:
        raise InvalidField("values: may not be given together with command")
    _check_command(write.command)


def check_config(config: Json | None, context: Json | None) -> None:
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


def client_keys(configurable: Json) -> Json:
    """The part of a configurable that the client may set; the server's own keys are removed silently."""
    return {
        key: value
        for key, value in configurable.items()
        if key not in RESERVED_CONFIGURABLE and not key.startswith("__") and key != "cron_id"
    }


def spec_of(body: RunFields) -> RunSpec:
    """What a create body asks for; of a single run with its command and the checkpoint to start from."""
    given = {name: getattr(body, name, None) for name in RUN_FIELDS}
    spec = cleaned(RunSpec(**given))
    if not isinstance(body, RunCreate):
        return spec
    if body.command is not None:
        # A command wins over an input that stands beside it, as in the reference server.
        spec = msgspec.structs.replace(spec, command=_given(body.command), input=None)
    if checkpoint := checkpoint_of(body.checkpoint, body.checkpoint_id):
        config = {**(spec.config or {}), "configurable": {**spec.configurable, **checkpoint}}
        spec = msgspec.structs.replace(spec, config=config)
    return spec


def configured(spec: RunSpec, more: Mapping[str, Any]) -> RunSpec:
    """The spec with these keys in its configurable, as far as it has them not by itself."""
    if not more:
        return spec
    config = {**(spec.config or {}), "configurable": {**more, **spec.configurable}}
    return msgspec.structs.replace(spec, config=config)


def cleaned(spec: RunSpec) -> RunSpec:
    """The same without keys that only the server sets."""
    return msgspec.structs.replace(
        spec,
        metadata=None if spec.metadata is None else clean_metadata(spec.metadata),
        context=None if spec.context is None else client_keys(spec.context),
        config=None if spec.config is None else clean_config(spec.config),
    )


def clean_config(config: Json) -> Json:
    """The config without absent keys, and without those that only the server sets."""
    clean = {key: value for key, value in config.items() if value is not None}
    for name, cleaner in (("configurable", client_keys), ("metadata", clean_metadata)):
        if name in clean:
            clean[name] = cleaner(clean[name])
    return clean


def clean_metadata(metadata: Json) -> Json:
    """Metadata without the keys that only the server sets."""
    return {key: value for key, value in metadata.items() if key not in RESERVED_METADATA}


def checkpoint_of(checkpoint: Checkpoint | None, checkpoint_id: str | None) -> Json:
    """The keys that name a checkpoint in a configurable; empty when none is named.

    Its thread is always the path's.
    """
    named = {} if checkpoint is None else msgspec.structs.asdict(checkpoint)
    found = {name: named[name] for name in CHECKPOINT_KEYS if named.get(name) is not None}
    if checkpoint_id is not None:
        found["checkpoint_id"] = checkpoint_id
    return found if found.get("checkpoint_id") or found.get("checkpoint_map") else {}


def points_of(configurable: Json) -> list[tuple[str, str]]:
    """The checkpoints that a configurable names, as (namespace, id). Raises InvalidField when it names none."""
    places = configurable.get("checkpoint_map") or {}
    if not isinstance(places, dict):
        raise InvalidField("config.configurable.checkpoint_map: must be an object of ids by namespace")
    points = [(ns, at) for ns, at in places.items() if at]
    if configurable.get("checkpoint_id"):
        points.append((configurable.get("checkpoint_ns") or "", configurable["checkpoint_id"]))
    if not all(isinstance(name, str) for point in points for name in point):
        raise InvalidField("checkpoint: ids and namespaces are strings")
    return points


def updates_of(writes: Sequence[StateWrite]) -> list[Json]:
    """The writes of one superstep as a run carries them, absent fields left out."""
    updates = []
    for write in writes:
        command = {} if write.command is None else {"command": _given(write.command)}
        updates.append({**_given(write), **command})
    return updates


def kwargs_of(spec: RunSpec, assistant: Assistant, cron_id: UUID | None, temporary: bool) -> RunKwargs:
    """What the run will do: the spec over the assistant's own config and context."""
    return RunKwargs(
        input=spec.input,
        command=spec.command,
        config=_merged_config(spec, assistant, cron_id),
        context=_merged_context(spec, assistant),
        stream_mode=spec.stream_modes,
        interrupt_before=spec.interrupt_before,
        interrupt_after=spec.interrupt_after,
        temporary=temporary,
        webhook=spec.webhook,
        feedback_keys=spec.feedback_keys,
        subgraphs=bool(spec.stream_subgraphs),
        resumable=bool(spec.stream_resumable),
        checkpoint_during=spec.checkpoint_during,
        durability=_durability(spec),
        event_streaming=spec.event_streaming or msgspec.UNSET,
        updates=msgspec.UNSET if spec.updates is None else spec.updates,
    )


def run_metadata(assistant: Assistant, thread: Json, spec: RunSpec, *more: Json) -> Json:
    """Metadata of a run: the assistant's, the thread's, the config's and the spec's, later ones winning."""
    merged = {**assistant.metadata, **thread, **spec.config_metadata}
    for part in (spec.metadata or {}, *more):
        merged.update(part)
    merged["assistant_id"] = str(assistant.assistant_id)
    return merged


def _given(body: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(body).items() if value is not None}


def _check_command(command: CommandBody) -> None:
    if not _given(command):
        raise InvalidField("command: must have at least one of update, resume and goto")
    for target in command.goto if isinstance(command.goto, list) else [command.goto]:
        if isinstance(target, dict) and not isinstance(target.get("node"), str):
            raise InvalidField("command.goto: an object must name its 'node'")


def _merged_config(spec: RunSpec, assistant: Assistant, cron_id: UUID | None) -> Json:
    own = RunSpec(config=assistant.config)
    # A context is mirrored into the configurable, as in the reference server.
    configurable = {**own.configurable, **spec.configurable, **(spec.context or {})}
    if cron_id is not None:
        configurable["cron_id"] = str(cron_id)
    tags = {"tags": [*own.tags, *spec.tags]} if own.tags or spec.tags else {}
    return {**assistant.config, **(spec.config or {}), **tags, "configurable": configurable}


def _merged_context(spec: RunSpec, assistant: Assistant) -> Json:
    """Always an object: a graph whose context has defaults gets them, and nobody else minds."""
    asked = spec.context
    if asked is None:
        # A configurable alone is the context too, as in the reference server.
        given = client_keys(spec.configurable)
        asked = {key: value for key, value in given.items() if key not in CHECKPOINT_KEYS}
    return {**assistant.context, **asked}


def _durability(spec: RunSpec) -> str | None:
    if spec.durability is not None:
        return spec.durability
    during = spec.checkpoint_during
    return None if during is None else ("async" if during else "exit")
