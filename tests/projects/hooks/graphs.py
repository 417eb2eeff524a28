"""Graphs whose ends somebody wants to hear of."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    count: Annotated[int, operator.add]
    answer: Any
    wait_s: float


async def add(state: State) -> State:
    await asyncio.sleep(state.get("wait_s") or 0)
    return {"count": 1}


def boom(state: State) -> State:
    raise ValueError("boom")


def ask(state: State) -> State:
    return {"answer": interrupt("may I?")}


def one(node) -> StateGraph:
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder


counter = one(add).compile()
failing = one(boom).compile()
asking = one(ask).compile()
