"""Graphs of every kind that a run can meet: agents that stream, pause, block, raise, never end."""

import asyncio
import contextlib
import operator
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from langgraph_sdk.runtime import ServerRuntime

# --- an agent that calls a tool and streams its words -----------------------------------------------


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"It is sunny in {city}."


class Words(BaseChatModel):
    """Says what it is to say word by word; the first time it is asked, it calls its tool."""

    pause_s: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "words"

    def _chunks(self, messages: list[BaseMessage]) -> list[AIMessageChunk]:
        if isinstance(messages[-1], ToolMessage):
            words = f"The tool said: {messages[-1].content} Anything else?".split(" ")
            return [AIMessageChunk(content=word if n == 0 else f" {word}") for n, word in enumerate(words)]
        call = {"name": "weather", "args": '{"city": "Oslo"}', "id": f"call-{len(messages)}", "index": 0}
        return [AIMessageChunk(content="", tool_call_chunks=[{**call, "type": "tool_call_chunk"}])]

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages):
            time.sleep(self.pause_s)
            generation = ChatGenerationChunk(message=chunk)
            if run_manager:
                run_manager.on_llm_new_token(str(chunk.content), chunk=generation)
            yield generation

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        whole: Any = None
        for generation in self._stream(messages, stop, run_manager):
            whole = generation.message if whole is None else whole + generation.message
        message = AIMessage(content=whole.content, tool_calls=whole.tool_calls)
        return ChatResult(generations=[ChatGeneration(message=message)])


async def model(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    pause_s = config["configurable"].get("pause_s", 0.0)
    return {"messages": [await Words(pause_s=pause_s).ainvoke(state["messages"], config)]}


def wants_tool(state: MessagesState) -> str:
    return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END


talk = StateGraph(MessagesState)
talk.add_node("model", model)
talk.add_node("tools", ToolNode([weather]))
talk.add_edge(START, "model")
talk.add_conditional_edges("model", wants_tool, ["tools", END])
talk.add_edge("tools", "model")
chat = talk.compile()


# --- people in the loop -------------------------------------------------------------------------------


class Order(TypedDict, total=False):
    amount: int
    decision: str
    notes: Annotated[list[str], operator.add]


def check(state: Order) -> Order:
    return {"notes": ["checked"]}


def decide(state: Order) -> Order:
    return {"decision": interrupt({"question": "buy?", "amount": state.get("amount")})}


def act(state: Order) -> Order:
    return {"notes": [f"decision was {state['decision']}"]}


ordering = StateGraph(Order)
ordering.add_node("check", check)
ordering.add_node("decide", decide)
ordering.add_node("act", act)
ordering.add_edge(START, "check")
ordering.add_edge("check", "decide")
ordering.add_edge("decide", "act")
approval = ordering.compile()


def first_question(state: Order) -> Order:
    return {"notes": [f"first: {interrupt('first?')}"]}


def second_question(state: Order) -> Order:
    return {"notes": [f"second: {interrupt('second?')}"]}


questions = StateGraph(Order)
questions.add_node("first", first_question)
questions.add_node("second", second_question)
questions.add_edge(START, "first")
questions.add_edge(START, "second")
two_questions = questions.compile()


# --- a graph in a graph -------------------------------------------------------------------------------


class Outer(TypedDict, total=False):
    topic: str
    path: Annotated[list[str], operator.add]


def inner_step(state: Outer) -> Outer:
    return {"path": ["inner"]}


def inner_ask(state: Outer) -> Outer:
    return {"path": [f"asked {interrupt('inside?')}"]} if state.get("topic") == "ask" else {}


inner = StateGraph(Outer)
inner.add_node("inner_step", inner_step)
inner.add_node("inner_ask", inner_ask)
inner.add_edge(START, "inner_step")
inner.add_edge("inner_step", "inner_ask")

outer = StateGraph(Outer)
outer.add_node("before", lambda state: {"path": ["before"]})
outer.add_node("child", inner.compile())
outer.add_node("after", lambda state: {"path": ["after"]})
outer.add_edge(START, "before")
outer.add_edge("before", "child")
outer.add_edge("child", "after")
nested = outer.compile()


# --- graphs that do not behave ------------------------------------------------------------------------


class Step(TypedDict, total=False):
    wait_s: float
    mark: str
    count: Annotated[int, operator.add]
    secret: str
    answer: str


def one(node: Any) -> Any:
    builder = StateGraph(Step)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder


def sleep(state: Step) -> Step:
    time.sleep(state.get("wait_s") or 0.2)
    return {"count": 1}


def fail(state: Step) -> Step:
    raise ValueError("it is broken")


class Leak(Exception):
    """Its text is nobody's business."""


def leak(state: Step) -> Step:
    raise Leak("password: hunter2")


async def wait_for_ever(state: Step) -> Step:
    await asyncio.Event().wait()
    return {}


def hang(state: Step) -> Step:
    if state.get("mark"):
        Path(state["mark"]).touch()
    while True:  # no await point, no end: only a kill helps
        time.sleep(0.05)


blocking = one(sleep).compile()
raising = one(fail).compile()
secretive = one(leak).compile()
endless = one(wait_for_ever).compile()
stuck = one(hang).compile()


class Shown(TypedDict, total=False):
    answer: str


hiding = StateGraph(Step, output_schema=Shown)
hiding.add_node("node", lambda state: {"secret": "in the state", "answer": "42"})
hiding.add_edge(START, "node")
narrow = hiding.compile()


async def remember(state: Step, runtime: Runtime[Any]) -> Step:
    assert runtime.store is not None
    found = await runtime.store.aget(("tests", "memory"), "seen")
    seen = (found.value["times"] if found else 0) + 1
    await runtime.store.aput(("tests", "memory"), "seen", {"times": seen})
    return {"answer": f"seen {seen} times"}


remembering = one(remember).compile()


# --- for measurements ---------------------------------------------------------------------------------

walk = StateGraph(Step)
for number in range(5):
    walk.add_node(f"step{number}", lambda state: {"count": 1})
    walk.add_edge(f"step{number - 1}" if number else START, f"step{number}")
five = walk.compile()


class Many(Words):
    """Says `words` words as fast as it can."""

    words: int = 1000

    def _chunks(self, messages: list[BaseMessage]) -> list[AIMessageChunk]:
        return [AIMessageChunk(content=f"word{n} ") for n in range(self.words)]


async def talk_on(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    model = Many(words=config["configurable"].get("words", 1000))
    return {"messages": [await model.ainvoke(state["messages"], config)]}


talking = StateGraph(MessagesState)
talking.add_node("talk", talk_on)
talking.add_edge(START, "talk")
talkative = talking.compile()


# --- factories ----------------------------------------------------------------------------------------


def telling(text: str) -> Any:
    def tell(state: Step) -> Step:
        return {"answer": text}

    return one(tell)


def plain_factory() -> Any:
    return telling("plain").compile()


def config_factory(config: RunnableConfig) -> Any:
    return telling(f"config {config['configurable'].get('tone', 'none')}").compile()


def runtime_factory(runtime: ServerRuntime) -> Any:
    return telling(f"runtime {runtime.access_context}")


def both_factory(runtime: ServerRuntime[Any], config: RunnableConfig) -> Any:
    tone = config["configurable"].get("tone", "none")
    return telling(f"both {runtime.access_context} {tone}").compile()


async def async_factory(config: RunnableConfig) -> Any:
    await asyncio.sleep(0)
    return telling("async").compile()


LEFT: list[str] = []


@contextlib.contextmanager
def context_factory(config: RunnableConfig) -> Iterator[Any]:
    yield telling(f"context, left {len(LEFT)} times").compile()
    LEFT.append("context")


@contextlib.asynccontextmanager
async def async_context_factory(runtime: ServerRuntime) -> AsyncIterator[Any]:
    yield telling("async context").compile()
