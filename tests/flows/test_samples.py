"""The sample projects do what their READMEs say: each is served as it is, and its client snippet is run as it is."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client

SAMPLES = Path(__file__).parents[2] / "deploy" / "sample"
ADDRESS = "http://127.0.0.1:2026"

Serve = Callable[[str], Any]
Connect = Callable[[str], Awaitable[Any]]


@pytest.fixture(scope="module")
def serve(make_shared_server: Callable[..., Any]) -> Serve:
    """The server on that sample."""
    return cache(lambda name: make_shared_server(str(SAMPLES / name)))


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """A client of a server on that sample."""
    clients: list[Any] = []

    async def connected(name: str) -> Any:
        clients.append(get_client(url=serve(name).url))
        return clients[-1]

    yield connected
    for client in clients:
        await client.aclose()


async def printed(name: str, url: str) -> str:
    """What the client in the sample's README prints."""
    [code] = re.findall(r"```python\n(.*?)```", (SAMPLES / name / "README.md").read_text(), re.DOTALL)
    assert ADDRESS in code
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code.replace(ADDRESS, url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


SAID = {
    "chat_agent": ["tools tool in Lisbon it is sunny", "think AIMessageChunk looked"],
    "approval": ["Refund 300 for order A-17?", "paid 300 by alice"],
    "subgraphs": ["updates|desk:", "custom|desk:", "desk:write"],
    "memory": ["Noted.", "You told me: my dog is called Bo", "the train leaves at nine"],
    "factories": ["Hello, Ada", "Dear Sir or Madam, Ada", "Guten Tag, Ada", "Hello from a file, Ada"],
    "scheduled": ["next: ", "asked for by the schedule"],
}


def test_every_sample_is_run() -> None:
    assert set(SAID) == {config.parent.name for config in SAMPLES.glob("*/langgraph.json")}


@pytest.mark.parametrize("name", SAID)
async def test_the_readmes_client(name: str, serve: Serve) -> None:
    output = await printed(name, serve(name).url)
    for text in SAID[name]:
        assert text in output, output


async def test_agent_streams_words_and_remembers(connect: Connect) -> None:
    client = await connect("chat_agent")
    thread_id = (await client.threads.create())["thread_id"]

    async def words(text: str) -> list[str]:
        question = {"messages": [{"role": "user", "content": text}]}
        parts = [
            part
            async for part in client.runs.stream(
                thread_id, "agent", input=question, stream_mode="messages-tuple"
            )
        ]
        chunks = [part.data[0] for part in parts if part.event == "messages"]
        return [chunk["content"] for chunk in chunks if chunk["type"] == "AIMessageChunk"]

    spoken = await words("Good morning to you")
    assert "".join(spoken) == "You said: Good morning to you"
    assert len([word for word in spoken if word]) == 6
    assert "".join(await words("the weather in Berlin please")) == (
        "I looked it up: in Berlin it is cloudy, 12 degrees"
    )
    state = await client.threads.get_state(thread_id)
    kinds = [message["type"] for message in state["values"]["messages"]]
    assert kinds == ["human", "ai", "human", "ai", "tool", "ai"]


async def test_refund_waits_for_a_usable_answer(connect: Connect) -> None:
    client = await connect("approval")
    thread_id = (await client.threads.create())["thread_id"]
    small = await client.runs.wait(thread_id, "refunds", input={"order": "A-1", "amount": 20})
    assert (small["outcome"], small["decided_by"]) == ("paid 20", "the rule for small refunds")

    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "refunds", input={"order": "A-2", "amount": 900})
    assert (await client.threads.get(thread_id))["status"] == "interrupted"
    again = await client.runs.wait(thread_id, "refunds", command={"resume": "hm"})
    assert again["__interrupt__"][0]["value"]["question"] == "Refund 900 for order A-2?"
    no = await client.runs.wait(thread_id, "refunds", command={"resume": {"verdict": "refuse", "by": "bob"}})
    assert (no["outcome"], no["decided_by"]) == ("refused", "bob")
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_steps_of_the_desk_are_streamed_on_demand(connect: Connect) -> None:
    client = await connect("subgraphs")
    thread_id = (await client.threads.create())["thread_id"]

    async def places(inside: bool) -> list[str]:
        events = [
            part
            async for part in client.runs.stream(
                thread_id,
                "newsroom",
                input={"topic": "Rain"},
                stream_mode="updates",
                stream_subgraphs=inside,
            )
        ]
        updates = [part for part in events if part.event.startswith("updates")]
        return [f"{'/'.join(part.event.split('|')[1:])[:4]}{next(iter(part.data))}" for part in updates]

    assert await places(False) == ["assign", "desk", "publish"]
    assert await places(True) == ["assign", "deskgather", "deskwrite", "desk", "publish"]
    state = await client.threads.get_state(thread_id)
    assert state["values"]["article"] == "Rain happened; Rain surprised nobody."
    assert "facts" not in state["values"]


async def test_people_have_memories_of_their_own(connect: Connect) -> None:
    client = await connect("memory")

    async def say(text: str, person: str) -> str:
        answer = await client.runs.wait(None, "assistant", input={"said": text}, context={"person": person})
        return str(answer["answer"])

    assert await say("what do I like?", "ada") == "I know nothing about you."
    assert await say("remember I like tea", "ada") == "Noted."
    assert await say("what do I like?", "ada") == "You told me: I like tea"
    assert await say("what do I like?", "ben") == "I know nothing about you."
    found = (await client.store.search_items(("notes", "ada"), query="tea"))["items"]
    assert [item["value"]["text"] for item in found] == ["I like tea"]
    assert found[0]["score"] > 0


async def test_digest_tells_what_is_new(connect: Connect) -> None:
    client = await connect("scheduled")
    thread_id = (await client.threads.create())["thread_id"]
    for note in ("one", "two"):
        await client.runs.wait(thread_id, "digest", input={"note": note})
    cron = await client.crons.create_for_thread(
        thread_id, "digest", schedule="0 7 * * *", timezone="Europe/Berlin", input={"note": ""}
    )
    await client.runs.join(thread_id, cron["run_id"])
    done = await client.runs.wait(thread_id, "digest", input={"note": ""})
    assert done["digests"] == [
        "2 new, asked for by the schedule: one, two",
        "0 new, asked for by you: nothing",
    ]


@pytest.mark.parametrize(
    ("strategy", "slow_one", "digests"),
    [("enqueue", "success", 2), ("interrupt", "interrupted", 1), ("rollback", "gone", 1)],
)
async def test_strategies_as_the_readme_tells(
    connect: Connect, strategy: str, slow_one: str, digests: int
) -> None:
    client = await connect("scheduled")
    thread_id = (await client.threads.create())["thread_id"]
    slow = await client.runs.create(
        thread_id, "digest", input={"slowly_s": 2.0 if strategy == "enqueue" else 60.0}
    )
    done = await client.runs.wait(thread_id, "digest", input={"slowly_s": 0.0}, multitask_strategy=strategy)
    assert len(done["digests"]) == digests
    runs = {run["run_id"]: run["status"] for run in await client.runs.list(thread_id)}
    assert runs.get(slow["run_id"], "gone") == slow_one
