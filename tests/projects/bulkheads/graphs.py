"""Graphs that do not behave: they block, leave, crash."""

import asyncio
import operator
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph

HERE = Path(__file__).parent


class State(TypedDict, total=False):
    how: str
    seconds: float
    log: Annotated[list[Any], operator.add]


async def wait(state: State) -> State:
    """Wait so long, or until a file is there."""
    until = time.monotonic() + state.get("seconds", 0)
    while time.monotonic() < until and not (HERE / "enough").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return {"log": ["waited"]}


async def hold(state: State) -> State:
    """Hold the loop so long, or until a file is there, and say outside that it was done."""
    with (HERE / "acted").open("a") as acted:
        acted.write("acted\n")
    until = time.monotonic() + state.get("seconds", 0)
    while time.monotonic() < until and not (HERE / "enough").exists():
        time.sleep(0.05)  # noqa: ASYNC251
    return {"log": ["held"]}


def go(state: State) -> State:
    if state["how"] == "exit":
        sys.exit(3)
    if state["how"] == "ctrl-c":
        raise KeyboardInterrupt
    os._exit(9)


def one(node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile()


slow, block, leave = one(wait), one(hold), one(go)


def dawdling() -> Any:
    """A factory that blocks for as long as a file is there."""
    while (HERE / "dawdle").exists():
        time.sleep(0.05)
    return one(wait)
