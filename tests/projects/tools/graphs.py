"""Graphs that are called as tools: of every kind that goes in, comes out or goes wrong."""

import asyncio
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from typing_extensions import TypedDict


class Tone(TypedDict, total=False):
    tone: str


class Place(TypedDict):
    """Where something is."""

    title: str
    near: "Place | None"


class Said(TypedDict, total=False):
    text: str
    place: Place
    wait_s: float
    answer: Any


def one(node: Any, state: Any = Said, **more: Any) -> Any:
    builder = StateGraph(state, context_schema=Tone)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(**more)


def repeat(state: Said, runtime: Runtime[Tone]) -> Said:
    return {"answer": {"said": state.get("text"), "tone": (runtime.context or {}).get("tone")}}


def fail(state: Said) -> Said:
    raise ValueError("no 🐛 today")


def ask(state: Said) -> Said:
    return {"answer": interrupt("may I?")}


async def wait(state: Said) -> Said:
    await asyncio.sleep(state.get("wait_s") or 0)
    return {"answer": "done"}


def reply(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"You said: {state['messages'][-1].content}")]}


echo, raising, asking, slow = one(repeat), one(fail), one(ask), one(wait)
halting = one(repeat, interrupt_before=["node"])
chat = one(reply, MessagesState)


def shy(config: RunnableConfig) -> Any:
    """Tells nobody what it takes, and runs all the same."""
    if "run_id" not in config.get("configurable", {}):
        raise RuntimeError("not before it runs")
    return echo


@entrypoint()
def lines(text: str) -> list[str]:
    return text.splitlines()


@entrypoint()
def listing(said: dict[str, Any]) -> list[str]:
    return sorted(said)
