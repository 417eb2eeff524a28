"""The project's graphs: found by file or module, compiled once or made anew by a factory for each access."""

import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
import types
import typing
from collections.abc import AsyncIterator, Callable
from typing import Any

RUNS, READS, UPDATES, LOOKS = "threads.create_run", "threads.read", "threads.update", "assistants.read"
"""What a factory can be called for, in the words of `ServerRuntime.access_context`."""


class CannotLoad(Exception):
    """A graph can't be loaded, and why."""


class Access(typing.NamedTuple):
    """For what a graph is opened, and what it gets."""

    purpose: str
    saver: Any
    store: Any
    config: dict[str, Any] = {}
    context: Any = None
    temporary: bool = False  # the saver is for this access alone

    def runtime(self) -> Any:
        """What a factory's `ServerRuntime` parameter gets."""
        from langgraph_sdk import runtime as sdk

        if self.purpose == RUNS:
            return sdk._ExecutionRuntime(
                access_context="threads.create_run", store=self.store, context=self.context
            )
        return sdk._ReadRuntime(access_context=self.purpose, store=self.store)  # type: ignore[arg-type]


class Entry:
    """A graph of the project."""

    def __init__(self, graph_id: str, value: Any) -> None:
        self.graph_id = graph_id
        self.compiled = compiled(value)
        self.factory = None if self.compiled is not None else value
        self.takes: list[str] = []
        self.schemas: dict[str, Any] | None = None  # once they were asked for, and if they stay the same
        self._lent: tuple[Any, Any, Any] = (None, None, None)
        if self.factory is not None:
            if not callable(value):
                raise CannotLoad(
                    f"is a {type(value).__name__}, and neither a graph nor a function that makes one"
                )
            self.takes = parameters(value)

    @property
    def name(self) -> str:
        own = getattr(self.compiled, "name", None) or "LangGraph"
        return self.graph_id if own == "LangGraph" else str(own)

    @contextlib.asynccontextmanager
    async def open(self, access: Access) -> AsyncIterator[Any]:
        """The graph with our checkpointer and store; a factory's context is left at the end of the access."""
        if self.factory is None:
            yield self._static(access)
            return
        given = {"config": access.config, "runtime": access.runtime()} if self.takes else {}
        made = self.factory(*(given[kind] for kind in self.takes))
        async with contextlib.AsyncExitStack() as stack:
            if inspect.isawaitable(made):
                made = await made
            if hasattr(made, "__aenter__"):
                made = await stack.enter_async_context(made)
            elif hasattr(made, "__enter__") and compiled(made) is None:
                made = stack.enter_context(made)
            graph = compiled(made)
            if graph is None:
                raise TypeError(f"the factory of graph '{self.graph_id}' gave a {type(made).__name__}")
            yield self._ours(graph, access)

    def _static(self, access: Access) -> Any:
        """The compiled graph with the saver and store of the access, made once for those that last."""
        if access.temporary:
            return self._ours(self.compiled, access)
        saver, store, graph = self._lent
        if saver is not access.saver or store is not access.store:
            graph = self._ours(self.compiled, access)
            self._lent = (access.saver, access.store, graph)
        return graph

    def _ours(self, graph: Any, access: Access) -> Any:
        changes = {"checkpointer": access.saver, "store": access.store}
        if getattr(graph, "name", None) in (None, "LangGraph"):
            changes["name"] = self.graph_id
        return graph.copy(changes)


def compiled(value: Any) -> Any:
    """The compiled graph that the value is or can be compiled to; None when it is none."""
    if hasattr(value, "astream") and hasattr(value, "aget_state"):
        return value
    if hasattr(value, "compile") and hasattr(value, "add_node") and not isinstance(value, type):
        return value.compile()
    return None


def parameters(factory: Callable[..., Any]) -> list[str]:
    """What a factory wants, in order: `config`, `runtime`. Raises CannotLoad."""
    found = [
        p
        for p in inspect.signature(factory).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(found) > 2:
        raise CannotLoad(
            "is a function of more than two parameters; it may take a config and a ServerRuntime"
        )
    try:
        hints = typing.get_type_hints(factory, include_extras=True)
    except Exception:
        hints = {}
    kinds = ["runtime" if is_runtime(hints.get(p.name, p.annotation)) else "config" for p in found]
    if len(kinds) == 2 and kinds[0] == kinds[1]:
        raise CannotLoad("is a function of two parameters; annotate one of them with ServerRuntime")
    return kinds


def is_runtime(annotation: Any) -> bool:
    """Whether a parameter with that annotation wants the server's runtime."""
    return "ServerRuntime" in str(annotation) or "_ExecutionRuntime" in str(annotation)


def load(graph_id: str, source: dict[str, str]) -> Entry:
    """The graph of that place. Raises CannotLoad with a text for its author."""
    where = source.get("path") or source.get("module") or ""
    try:
        return Entry(graph_id, named(source))
    except CannotLoad as exc:
        raise CannotLoad(f"graph '{graph_id}': {where}:{source['variable']} {exc}") from None
    except AttributeError as exc:
        raise CannotLoad(f"graph '{graph_id}': {where} has no '{source['variable']}': {exc}") from exc
    except BaseException as exc:
        raise CannotLoad(f"graph '{graph_id}': {where} can't be imported: {last_lines(exc)}") from exc


def last_lines(exc: BaseException) -> str:
    """What Python would print of it below the traceback."""
    return "".join(traceback.format_exception_only(exc)).strip()


def named(source: dict[str, str]) -> Any:
    """What the project's file or module has under the name."""
    return getattr(module_of(source), source["variable"])


def module_of(source: dict[str, str]) -> types.ModuleType:
    """The project's file or module, imported. Raises CannotLoad, and whatever its code does."""
    path = source.get("path")
    if not path:
        return importlib.import_module(source["module"])
    if not os.path.isfile(path):
        raise CannotLoad("is not there")
    name = "cronledger_project_" + re.sub(r"\W", "_", path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CannotLoad("is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
