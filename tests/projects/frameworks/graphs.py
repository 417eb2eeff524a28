"""Agents made by the libraries that people use."""

from deepagents import create_deep_agent
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langgraph.types import interrupt
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm
from words import calls

MAIL = {"name": "send_mail", "args": {"to": "ada"}}
ASK = {"name": "ask_a_person", "args": {"question": "which city?"}}


def send_mail(to: str) -> str:
    """Send a mail."""
    return f"mail to {to} was sent"


def ask_a_person(question: str) -> str:
    """Ask whoever is there."""
    return f"a person said {interrupt(question)}"


reviewed = create_agent(
    calls(MAIL),
    tools=[send_mail],
    middleware=[HumanInTheLoopMiddleware(interrupt_on={"send_mail": True})],
    name="reviewed",
)

deep = create_deep_agent(
    calls({"name": "write_todos", "args": {"todos": [{"content": "mail", "status": "pending"}]}}, MAIL),
    tools=[send_mail],
    interrupt_on={"send_mail": True},
)

researcher = create_agent(calls(ASK), tools=[ask_a_person], name="researcher")
supervised = create_supervisor(
    [researcher], model=calls({"name": "transfer_to_researcher", "args": {}}), prompt="Lead."
).compile(name="supervised")

alice = create_agent(
    calls({"name": "transfer_to_bob", "args": {}}),
    tools=[create_handoff_tool(agent_name="bob")],
    name="alice",
)
bob = create_agent(calls(ASK), tools=[ask_a_person, create_handoff_tool(agent_name="alice")], name="bob")
swarm = create_swarm([alice, bob], default_active_agent="alice").compile(name="swarm")
