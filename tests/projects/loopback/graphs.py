"""Graphs that ask the server which runs them, by the clients of the SDK without an address."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph_sdk import get_client, get_sync_client
from typing_extensions import TypedDict

HOME = get_client()
"""Made before there is a server that listens, as many projects do."""


class Job(TypedDict, total=False):
    text: str
    go: str
    done: str
    told: dict[str, Any]


def one(*nodes: Any) -> Any:
    builder = StateGraph(Job)
    before = START
    for node in nodes:
        builder.add_node(node.__name__, node)
        builder.add_edge(before, node.__name__)
        before = node.__name__
    builder.add_edge(before, END)
    return builder.compile()


def first(job: Job) -> Job:
    return {"done": "first"}


async def second(job: Job) -> Job:
    """Waits for whoever has been told of the first, if there is somebody."""
    for _ in range(200):
        if not job.get("go") or Path(job["go"]).exists():
            return {"done": job["text"].upper()}
        await asyncio.sleep(0.05)
    raise TimeoutError("nobody was told of the first node while the second one ran")


async def dispatch(job: Job) -> Job:
    with tempfile.TemporaryDirectory() as folder:
        go = Path(folder) / "go"
        async with get_client() as client:
            thread = await client.threads.create(metadata={"by": "dispatcher"})
            waited = await client.runs.wait(thread["thread_id"], "worker", input={"text": job["text"]})
            streamed = []
            asked = {"text": "x", "go": str(go)}
            async for part in client.runs.stream(
                thread["thread_id"], "worker", input=asked, stream_mode="updates"
            ):
                streamed.append(part.event)
                if part.event == "updates":
                    go.touch()
            state = await HOME.threads.get_state(thread["thread_id"])
    return {
        "told": {
            "thread_id": thread["thread_id"],
            "waited": waited["done"],
            "streamed": streamed.count("updates"),
            "state": state["values"]["done"],
        }
    }


def sync_dispatch(job: Job) -> Job:
    with tempfile.TemporaryDirectory() as folder, get_sync_client() as client:
        go = Path(folder) / "go"
        thread = client.threads.create(metadata={"by": "dispatcher"})
        waited = client.runs.wait(thread["thread_id"], "worker", input={"text": job["text"]})
        streamed = []
        asked = {"text": "x", "go": str(go)}
        for part in client.runs.stream(thread["thread_id"], "worker", input=asked, stream_mode="updates"):
            streamed.append(part.event)
            if part.event == "updates":
                go.touch()
                time.sleep(0)
        state = client.threads.get_state(thread["thread_id"])
    return {
        "told": {
            "thread_id": thread["thread_id"],
            "waited": waited["done"],
            "streamed": streamed.count("updates"),
            "state": state["values"]["done"],
        }
    }


worker = one(first, second)
dispatcher = one(dispatch)
sync_dispatcher = one(sync_dispatch)
