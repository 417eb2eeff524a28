"""An agent in the usual shape: the model answers or calls a tool, and sees what the tool gave."""

from fake_model import FakeChatModel
from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

SKIES = {"berlin": "cloudy, 12 degrees", "lisbon": "sunny, 24 degrees"}


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"in {city} it is {SKIES.get(city.lower(), 'not known')}"


TOOLS = [weather]
# A real model goes here; nothing else changes. For example, with the package `langchain-anthropic`:
#     model = ChatAnthropic(model="...").bind_tools(TOOLS)
model = FakeChatModel().bind_tools(TOOLS)


async def think(state: MessagesState) -> dict[str, list[BaseMessage]]:
    asked = [SystemMessage("You are a helpful assistant."), *state["messages"]]
    return {"messages": [await model.ainvoke(asked)]}


builder = StateGraph(MessagesState)
builder.add_node("think", think)
builder.add_node("tools", ToolNode(TOOLS))
builder.add_edge(START, "think")
builder.add_conditional_edges("think", tools_condition)
builder.add_edge("tools", "think")
graph = builder.compile()
