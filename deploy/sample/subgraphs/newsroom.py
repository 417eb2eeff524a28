"""A graph within a graph: the newsroom sends each story to a desk, which has steps of its own."""

import operator
from typing import Annotated, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph


class Story(TypedDict, total=False):
    """What the newsroom and the desk share, and what is the desk's alone (`facts`)."""

    topic: str
    notes: Annotated[list[str], operator.add]
    facts: list[str]
    article: str


class Page(TypedDict, total=False):
    topic: str
    notes: Annotated[list[str], operator.add]
    article: str


def gather(state: Story) -> Story:
    # Custom data of a subgraph reaches the client too, under the name of the place it comes from.
    get_stream_writer()({"looking_up": state["topic"]})
    return {"facts": [f"{state['topic']} happened", f"{state['topic']} surprised nobody"]}


def write(state: Story) -> Story:
    return {"article": "; ".join(state["facts"]) + ".", "notes": [f"wrote about {state['topic']}"]}


desk_builder = StateGraph(Story)
desk_builder.add_node("gather", gather)
desk_builder.add_node("write", write)
desk_builder.add_edge(START, "gather")
desk_builder.add_edge("gather", "write")
desk_builder.add_edge("write", END)


def assign(state: Page) -> Page:
    return {"notes": [f"assigned {state['topic']}"]}


def publish(state: Page) -> Page:
    return {"notes": ["published"]}


builder = StateGraph(Page)
builder.add_node("assign", assign)
# A compiled graph is a node like any other; it inherits the checkpointer of the graph around it.
builder.add_node("desk", desk_builder.compile())
builder.add_node("publish", publish)
builder.add_edge(START, "assign")
builder.add_edge("assign", "desk")
builder.add_edge("desk", "publish")
builder.add_edge("publish", END)
graph = builder.compile()
