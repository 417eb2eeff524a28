"""A conversation that collects notes, and a digest of them each morning."""

import asyncio
import operator
from typing import Annotated, Literal, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    note: str
    slowly_s: float  # how long a digest takes; a real one would ask a model
    notes: Annotated[list[str], operator.add]
    digests: Annotated[list[str], operator.add]
    told: int  # so many of the notes have been in a digest


def choose(state: State) -> Literal["collect", "digest"]:
    return "collect" if state.get("note") else "digest"


def collect(state: State) -> State:
    return {"notes": [state["note"]], "note": ""}


async def digest(state: State, config: RunnableConfig) -> State:
    await asyncio.sleep(state.get("slowly_s") or 0)
    notes = state.get("notes", [])
    fresh = notes[state.get("told", 0) :]
    # A run of a cron knows its cron; the instant it was due is in the metadata of the run.
    asked_by = "the schedule" if config["configurable"].get("cron_id") else "you"
    text = f"{len(fresh)} new, asked for by {asked_by}: {', '.join(fresh) or 'nothing'}"
    return {"digests": [text], "told": len(notes)}


builder = StateGraph(State)
builder.add_node("collect", collect)
builder.add_node("digest", digest)
builder.add_conditional_edges(START, choose)
builder.add_edge("collect", END)
builder.add_edge("digest", END)
graph = builder.compile()
