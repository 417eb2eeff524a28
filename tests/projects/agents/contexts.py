"""Graphs that tell which context they got, with schemas of every kind."""

from dataclasses import dataclass
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, Field


class State(TypedDict, total=False):
    """What was seen."""

    kind: str
    seen: dict[str, Any]
    mirrored: dict[str, Any]


@dataclass(kw_only=True)
class OfDataclass:
    """With defaults."""

    model: str = "small"
    depth: int = 2


class OfPydantic(BaseModel):
    """With defaults, an alias and a bound."""

    model: str = "small"
    depth: int = Field(2, alias="how_deep", le=9)


class OfTypedDict(TypedDict, total=False):
    """It has no defaults."""

    model: str


def graph(schema: type[Any] | None) -> Any:
    """One node that tells what it got."""

    async def tell(state: State, runtime: Runtime[Any], config: RunnableConfig) -> State:
        context = runtime.context
        seen = context if isinstance(context, dict) else dict(vars(context))
        own = {k: v for k, v in config["configurable"].items() if k in ("model", "depth", "other")}
        return {
            "kind": "dict" if isinstance(context, dict) else type(context).__name__,
            "seen": seen,
            "mirrored": own,
        }

    return StateGraph(State, context_schema=schema).add_node("tell", tell).add_edge(START, "tell").compile()


of_dataclass, of_pydantic, of_typed_dict = graph(OfDataclass), graph(OfPydantic), graph(OfTypedDict)
free = graph(None)
