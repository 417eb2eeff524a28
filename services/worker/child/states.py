"""A thread's state as it is told, and its history."""

import re
from typing import Any

from .plain import shown_error, visible
from .refusals import BadQuestion

PLACE = ("thread_id", "checkpoint_ns", "checkpoint_id")


async def state(graph: Any, ask: dict[str, Any]) -> dict[str, Any]:
    """The thread's state now or at a checkpoint, as a ThreadState."""
    where = {"thread_id": ask["thread_id"], "checkpoint_ns": ask.get("checkpoint_ns", "")}
    if ask.get("checkpoint_id"):
        where["checkpoint_id"] = ask["checkpoint_id"]
    found = await graph.aget_state({"configurable": where}, subgraphs=bool(ask.get("subgraphs")))
    return thread_state(found)


async def history(graph: Any, ask: dict[str, Any]) -> list[dict[str, Any]]:
    """States of the thread, newest first."""
    wanted = ask.get("metadata") or None
    for key in wanted or {}:
        if not re.fullmatch(r"[a-zA-Z0-9_.-]+", key):
            raise BadQuestion(f"metadata: '{key}' may have letters, digits, '_', '.' and '-' only")
    where = {"thread_id": ask["thread_id"], "checkpoint_ns": ask.get("checkpoint_ns", "")}
    before = {"configurable": {"checkpoint_id": ask["before"]}} if ask.get("before") else None
    states = graph.aget_state_history(
        {"configurable": where}, filter=wanted, before=before, limit=ask.get("limit", 10)
    )
    return [thread_state(found) async for found in states]


def thread_state(found: Any) -> dict[str, Any]:
    """LangGraph's StateSnapshot as a ThreadState."""
    checkpoint, parent = checkpoint_of(found.config), checkpoint_of(found.parent_config)
    return {
        "values": found.values,
        "next": list(found.next),
        "tasks": [task_shown(task) for task in found.tasks],
        "metadata": visible(found.metadata),
        "created_at": found.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": interrupts_shown(found.interrupts),
        "checkpoint_id": checkpoint and checkpoint["checkpoint_id"],
        "parent_checkpoint_id": parent and parent["checkpoint_id"],
    }


def checkpoint_of(config: Any) -> dict[str, Any] | None:
    """Where a checkpoint is, from its config; None when it names none."""
    configurable = (config or {}).get("configurable", {})
    if not configurable.get("checkpoint_id"):
        return None
    place: dict[str, Any] = {name: configurable.get(name, "") for name in PLACE}
    if place["checkpoint_ns"] and configurable.get("checkpoint_map"):
        place["checkpoint_map"] = configurable["checkpoint_map"]  # a fork inside a subgraph needs it
    return place


def task_shown(task: Any) -> dict[str, Any]:
    """A task of the step that comes next, or that was interrupted."""
    inner = task.state
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": shown_error(task.error),
        "interrupts": interrupts_shown(task.interrupts),
        "checkpoint": visible(inner.get("configurable")) if isinstance(inner, dict) else None,
        "state": thread_state(inner) if inner is not None and not isinstance(inner, dict) else None,
        "result": task.result,
    }


def interrupts_shown(interrupts: Any) -> list[dict[str, Any]]:
    """Questions to a human: the value and the id by which it is answered."""
    return [{"value": i.value, "id": i.id} for i in interrupts or ()]


def frame_fields(found: Any) -> dict[str, Any]:
    """The small members of a RunEnded frame that tell of the state."""
    checkpoint, parent = checkpoint_of(found.config), checkpoint_of(found.parent_config)
    return {
        "next": list(found.next),
        "interrupts": {task.id: interrupts_shown(task.interrupts) for task in found.tasks if task.interrupts},
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "metadata": visible(dict(found.metadata or {})),
        "created_at": found.created_at,
    }
