"""What a node can know about the run that it is in: the cron, and the context that the cron carries."""

from dataclasses import dataclass
from typing import TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime


@dataclass
class Context:
    team: str = "nobody"


class State(TypedDict, total=False):
    topic: str
    report: str


def report(state: State, config: RunnableConfig, runtime: Runtime[Context]) -> State:
    configurable = config["configurable"]
    caller = f"cron {configurable['cron_id']}" if "cron_id" in configurable else "a direct request"
    team = runtime.context.team if runtime.context else "nobody"
    return {"report": f"{state.get('topic', 'Nothing')} for {team}, asked by {caller}"}


builder = StateGraph(State, context_schema=Context)
builder.add_node("report", report)
builder.add_edge(START, "report")
builder.add_edge("report", END)
graph = builder.compile()
