"""What is learnt in one conversation is known in the next: nodes keep it in the store, by person."""

from dataclasses import dataclass
from typing import Literal, TypedDict
from uuid import uuid4

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime


@dataclass
class Context:
    """Who is talking; given with each run as `context`."""

    person: str = "somebody"


class State(TypedDict, total=False):
    said: str
    answer: str


def notes_of(person: str) -> tuple[str, ...]:
    return ("notes", person)


def choose(state: State) -> Literal["remember", "recall"]:
    return "remember" if state["said"].lower().startswith("remember ") else "recall"


async def remember(state: State, runtime: Runtime[Context]) -> State:
    assert runtime.store is not None
    text = state["said"][len("remember ") :]
    await runtime.store.aput(notes_of(runtime.context.person), str(uuid4()), {"text": text})
    return {"answer": "Noted."}


async def recall(state: State, runtime: Runtime[Context]) -> State:
    assert runtime.store is not None
    # `query` searches by meaning, thanks to store.index in langgraph.json; nearest first.
    found = await runtime.store.asearch(notes_of(runtime.context.person), query=state["said"], limit=1)
    return {"answer": f"You told me: {found[0].value['text']}" if found else "I know nothing about you."}


builder = StateGraph(State, context_schema=Context)
builder.add_node("remember", remember)
builder.add_node("recall", recall)
builder.add_conditional_edges(START, choose)
builder.add_edge("remember", END)
builder.add_edge("recall", END)
graph = builder.compile()
