"""A refund that a person must allow: the run pauses, and goes on with the answer, hours or days later."""

from typing import Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

SMALL = 50


class State(TypedDict, total=False):
    order: str
    amount: int
    decided_by: str
    outcome: str


def check(state: State) -> Command[Literal["ask", "pay"]]:
    """Small refunds need nobody."""
    if state["amount"] <= SMALL:
        return Command(goto="pay", update={"decided_by": "the rule for small refunds"})
    return Command(goto="ask")


def ask(state: State) -> Command[Literal["ask", "pay", "__end__"]]:
    """Pause; what the person answers is what `interrupt` returns when the run is resumed."""
    # The node starts anew on each resume: do nothing above this line that must happen only once.
    answer: Any = interrupt(
        {
            "question": f"Refund {state['amount']} for order {state['order']}?",
            "answers": ["approve", "refuse"],
        }
    )
    if not isinstance(answer, dict) or answer.get("verdict") not in ("approve", "refuse"):
        return Command(goto="ask")  # not an answer: ask again
    person = str(answer.get("by", "somebody"))
    if answer["verdict"] == "refuse":
        return Command(goto=END, update={"decided_by": person, "outcome": "refused"})
    return Command(goto="pay", update={"decided_by": person})


def pay(state: State) -> State:
    return {"outcome": f"paid {state['amount']}"}


builder = StateGraph(State)
builder.add_node("check", check)
builder.add_node("ask", ask)
builder.add_node("pay", pay)
builder.add_edge(START, "check")
builder.add_edge("pay", END)
graph = builder.compile()
