"""Graphs for clients that stream: they talk, call tools, ask, have others inside, fail, and take their time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

SENTENCE = "one word after the other, so that there is time for something to happen"


class Speaker(GenericFakeChatModel):
    """Says one thing, word by word."""

    pause_s: float = 0.0

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages, stop):
            await asyncio.sleep(self.pause_s)
            yield chunk


async def say(state: MessagesState, text: str, pause_s: float = 0.0, **more: Any) -> dict[str, Any]:
    model = Speaker(messages=iter([AIMessage(text)]), pause_s=pause_s)
    answer = await model.ainvoke(state["messages"])
    for name, value in more.items():  # the model streams text only
        setattr(answer, name, value)
    return {"messages": [answer]}


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    get_stream_writer()({"looking": city})
    return f"sunny in {city}"


async def model(state: MessagesState) -> dict[str, Any]:
    if state["messages"][-1].type == "tool":
        return await say(state, "it is sunny")
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "call-1", "type": "tool_call"}
    return await say(state, "let me look", tool_calls=[call])


def route(state: MessagesState) -> str:
    return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END


async def slowly(state: MessagesState) -> dict[str, Any]:
    return await say(state, SENTENCE, 0.05)


def ask(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"you said {interrupt('may I?')}", id="answer")]}


def other(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"and {interrupt('and then?')}", id="other")]}


async def thank(state: MessagesState) -> dict[str, Any]:
    return await say(state, "thank you")


def fail(state: MessagesState) -> dict[str, Any]:
    raise ValueError("it is broken")


async def wait(state: MessagesState) -> dict[str, Any]:
    await asyncio.sleep(3600)
    return {}


def chain(**nodes: Any) -> StateGraph:
    builder = StateGraph(MessagesState)
    for name, node in nodes.items():
        builder.add_node(name, node)
    for before, after in zip([START, *nodes], nodes, strict=False):
        builder.add_edge(before, after)
    return builder


builder = StateGraph(MessagesState)
builder.add_node("model", model)
builder.add_node("tools", ToolNode([weather]))
builder.add_edge(START, "model")
builder.add_conditional_edges("model", route, ["tools", END])
builder.add_edge("tools", "model")
agent = builder.compile()
asking = chain(ask=ask, thank=thank).compile()
nested = chain(outer=chain(inner=asking).compile(), after=thank).compile()
slow = chain(slowly=slowly).compile()
failing = chain(thank=thank, fail=fail).compile()
endless = chain(inside=chain(wait=wait).compile()).compile()

both = chain(ask=ask)
both.add_node("other", other)
both.add_edge(START, "other")
two = both.compile()


@tool
def divide(number: int) -> float:
    """One, divided by a number."""
    return 1 / number


class Caller(GenericFakeChatModel):
    """Calls both tools at once: what it wants to know comes piece by piece."""

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for index, (name, args) in enumerate(
            {"weather": '{"city": "Oslo"}', "divide": '{"number": 0}'}.items()
        ):
            for start in range(0, len(args), 6):
                is_first = start == 0
                call = {
                    "type": "tool_call_chunk",
                    "index": index,
                    "id": f"call-{name}" if is_first else None,
                    "name": name if is_first else None,
                    "args": args[start : start + 6],
                }
                yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[call]))


async def call(state: MessagesState) -> dict[str, Any]:
    if state["messages"][-1].type == "tool":
        return await say(state, "that is all")
    return {"messages": [await Caller(messages=iter([])).ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("model", call)
builder.add_node("tools", ToolNode([weather, divide], handle_tool_errors="it can't be done"))
builder.add_edge(START, "model")
builder.add_conditional_edges("model", route, ["tools", END])
builder.add_edge("tools", "model")
calling = builder.compile()


async def tell(state: MessagesState) -> dict[str, Any]:
    for number in range(3):
        get_stream_writer()({"part": number})
    return {}


deep = chain(outer=chain(inner=chain(tell=tell, slowly=slowly).compile()).compile(), after=thank).compile()
failing_inside = chain(outer=chain(inner=failing).compile()).compile()
pair = chain(outer=two, after=thank).compile()


class Heavy(TypedDict, total=False):
    text: str
    count: int
    steps: int


async def grow(state: Heavy) -> Heavy:
    return {"count": (state.get("count") or 0) + 1}


heavy = StateGraph(Heavy)
heavy.add_node("grow", grow)
heavy.add_edge(START, "grow")
heavy.add_conditional_edges(
    "grow", lambda state: "grow" if state["count"] < state["steps"] else END, ["grow", END]
)
large = heavy.compile()
