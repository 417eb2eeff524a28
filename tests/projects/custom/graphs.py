"""A graph that tells what is in its config."""

from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    seen: dict[str, Any]


def look(state: State, config: RunnableConfig) -> State:
    return {"seen": {k: v for k, v in config["configurable"].items() if k.startswith(("x-", "auth"))}}


echo = StateGraph(State).add_node("look", look).add_edge(START, "look").compile()
