"""An agent in the shape of the public ReAct template: its context is a dataclass with defaults."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import StateGraph, add_messages
from langgraph.managed import IsLastStep
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime, get_runtime
from words import Words, calls


@dataclass(kw_only=True)
class Context:
    """What a run can choose."""

    system_prompt: str = "You are helpful. It is {system_time}."
    model: Annotated[str, {"__template_metadata__": {"kind": "llm"}}] = "fake/words"
    most_results: int = 10

    def __post_init__(self) -> None:
        for known in fields(self):
            if known.init and getattr(self, known.name) == known.default:
                setattr(self, known.name, os.environ.get(known.name.upper(), known.default))


@dataclass
class InputState:
    """What comes in."""

    messages: Annotated[Sequence[AnyMessage], add_messages] = field(default_factory=list)


@dataclass
class State(InputState):
    """What it works on."""

    is_last_step: IsLastStep = field(default=False)


async def search(query: str) -> dict[str, Any] | None:
    """Search for something."""
    context = get_runtime(Context).context
    return {"found": query, "at_most": context.most_results}


MODELS: dict[str, Words] = {"fake/words": calls({"name": "search", "args": {"query": "weather"}})}


async def call_model(state: State, runtime: Runtime[Context]) -> dict[str, list[AIMessage]]:
    """Let the model go on."""
    model = MODELS[runtime.context.model].bind_tools([search])
    prompt = runtime.context.system_prompt.format(system_time=datetime.now(tz=UTC).isoformat())
    answer = await model.ainvoke([{"role": "system", "content": prompt}, *state.messages])
    return {"messages": [cast(AIMessage, answer)]}


def route(state: State) -> Literal["__end__", "tools"]:
    """Tools, if it asks for one."""
    last = state.messages[-1]
    return "tools" if isinstance(last, AIMessage) and last.tool_calls else "__end__"


builder = StateGraph(State, input_schema=InputState, context_schema=Context)
builder.add_node(call_model)
builder.add_node("tools", ToolNode([search]))
builder.add_edge("__start__", "call_model")
builder.add_conditional_edges("call_model", route)
builder.add_edge("tools", "call_model")
graph = builder.compile(name="ReAct Agent")
