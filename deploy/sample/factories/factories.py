"""Graphs made when they are needed: one factory for each form that a factory may have."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk.runtime import ServerRuntime


class State(TypedDict, total=False):
    name: str
    said: str


@dataclass
class Context:
    language: str = "en"


GREETINGS = {"en": "Hello", "de": "Guten Tag", "fr": "Bonjour"}


def saying(text: str, context: type | None = None) -> StateGraph[Any, Any, Any, Any]:
    """A graph that says the text and the name."""

    def say(state: State) -> State:
        return {"said": f"{text}, {state.get('name', 'world')}"}

    builder = StateGraph(State, context_schema=context)
    builder.add_node("say", say)
    builder.add_edge(START, "say")
    return builder


def plain() -> StateGraph[Any, Any, Any, Any]:
    """Without arguments: for what must not be done when the module is imported. It need not be compiled."""
    return saying("Hello")


def by_config(config: RunnableConfig) -> StateGraph[Any, Any, Any, Any]:
    """By the configuration of the run or the assistant: the graph itself differs, not only what its nodes do."""
    polite = config.get("configurable", {}).get("polite", False)
    return saying("Dear Sir or Madam" if polite else "Hi")


def by_runtime(runtime: ServerRuntime[Context]) -> StateGraph[Any, Any, Any, Any]:
    """By what it is opened for: a run has a context; a drawing or a look at the state has none."""
    execution = runtime.execution_runtime
    if execution is None or execution.context is None:
        return saying(GREETINGS["en"], Context)
    context: Any = execution.context  # as the client sent it
    language = context.get("language", "en") if isinstance(context, dict) else context.language
    return saying(GREETINGS.get(language, GREETINGS["en"]), Context)


@asynccontextmanager
async def with_resource(config: RunnableConfig) -> AsyncIterator[StateGraph[Any, Any, Any, Any]]:
    """With something that must be given back: what follows `yield` happens once the run has ended."""
    with TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.txt"
        notes.write_text("Hello from a file")

        def say(state: State) -> State:
            return {"said": f"{notes.read_text()}, {state.get('name', 'world')}"}

        builder = StateGraph(State)
        builder.add_node("say", say)
        builder.add_edge(START, "say")
        yield builder
