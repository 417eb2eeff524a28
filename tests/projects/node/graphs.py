"""Graphs for the npm client: one that counts, talks, tells of its progress, has another inside, asks, fails."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    count: Annotated[int, operator.add]
    by: str
    parts: int
    pause_s: float
    answer: Any


def chain(**nodes: Any) -> Any:
    """A graph of these nodes, one after the other."""
    builder = StateGraph(State)
    for name, node in nodes.items():
        builder.add_node(name, node)
    for before, after in zip([START, *nodes], nodes, strict=False):
        builder.add_edge(before, after)
    return builder.compile()


async def count(state: State) -> State:
    await asyncio.sleep(state.get("pause_s") or 0)
    return {"count": 1}


async def tell(state: State) -> State:
    for number in range(state.get("parts") or 3):
        get_stream_writer()({"part": number})
        await asyncio.sleep(state.get("pause_s") or 0)
    return {"count": 1}


def ask(state: State) -> State:
    return {"answer": interrupt({"question": "may I?"})}


def fail(state: State) -> State:
    raise ValueError("boom")


async def speak(state: MessagesState) -> dict[str, list[BaseMessage]]:
    model = GenericFakeChatModel(messages=iter([AIMessage("one word after the other")]))
    return {"messages": [await model.ainvoke(state["messages"])]}


talk = StateGraph(MessagesState)
talk.add_node("speak", speak)
talk.add_edge(START, "speak")

counter = chain(first=count, second=count)
chatting = talk.compile()
telling = chain(tell=tell)
nested = chain(before=count, inside=chain(first=count, second=tell))
asking = chain(ask=ask, after=count)
failing = chain(fail=fail)
