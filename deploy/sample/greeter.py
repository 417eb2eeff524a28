"""A conversation that goes on: each run on a thread adds a greeting, and the count grows."""

import operator
import os
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    name: str
    # Reducers make the thread remember: what a run returns is added to what is there.
    count: Annotated[int, operator.add]
    greetings: Annotated[list[str], operator.add]


def greet(state: State) -> State:
    number = state.get("count", 0) + 1
    greeting = f"{os.environ.get('GREETING', 'Hello')}, {state.get('name', 'world')} (number {number})"
    return {"count": 1, "greetings": [greeting]}


builder = StateGraph(State)
builder.add_node("greet", greet)
builder.add_edge(START, "greet")
builder.add_edge("greet", END)
graph = builder.compile()
