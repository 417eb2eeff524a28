"""What a graph child is told to start. Pure."""

from typing import Any

import msgspec

from contracts.api import RunKwargs
from contracts.frames import StartRun
from domain.run import Run


def start_of(run: Run, kwargs: RunKwargs, token: int) -> StartRun:
    """The frame that starts the run's newest attempt, with that fence."""
    request = run.request
    return StartRun(
        run_id=str(run.run_id),
        thread_id=str(request.thread_id),
        attempt=run.attempt,
        token=token,
        graph_id=request.graph_id,
        input=msgspec.Raw(msgspec.json.encode(kwargs.input)),
        command=kwargs.command,
        updates=None if kwargs.updates is msgspec.UNSET else kwargs.updates,
        config=config_of(run, kwargs),
        context=kwargs.context,
        interrupt_before=kwargs.interrupt_before,
        interrupt_after=kwargs.interrupt_after,
        # Nobody can listen to the writing of a state.
        stream_modes=kwargs.stream_mode if kwargs.updates is msgspec.UNSET else [],
        stream_subgraphs=kwargs.subgraphs,
        event_streaming=kwargs.event_streaming is True,
        durability=kwargs.durability,
        temporary=request.temporary,
    )


def config_of(run: Run, kwargs: RunKwargs) -> dict[str, Any]:
    """The run's config with what only the server may say: whose run this is."""
    ids = _ids(run)
    configurable = {**kwargs.config.get("configurable", {}), **ids}
    metadata = {**kwargs.config.get("metadata", {}), **run.request.metadata, **ids}
    return {**kwargs.config, "configurable": configurable, "metadata": metadata}


def _ids(run: Run) -> dict[str, str]:
    request = run.request
    ids = {
        "run_id": str(run.run_id),
        "thread_id": str(request.thread_id),
        "graph_id": request.graph_id,
        "assistant_id": str(request.assistant_id),
        "user_id": request.user_id,
    }
    if request.cron_id is not None:
        ids["cron_id"] = str(request.cron_id)
    return ids
