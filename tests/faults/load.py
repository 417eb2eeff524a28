"""Clients at work through the SDK, on two gateways: what was acknowledged to them is written down."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
from langgraph_sdk.errors import APIConnectionError, APIStatusError

from contracts.ledger import Recorded

AGAIN_S = 0.1
STRATEGIES = ("enqueue", "interrupt", "rollback", "reject")
GONE = {404, 409, 422}
"""Refusals that may be: a run has ended, a thread was deleted, a lane is busy."""


class Load:
    """Some clients that do this and that. An answer of 503, or none, is nothing: it is asked again of the other gateway.

    `acknowledged` counts (stream, topic): so many events of that kind must be in the ledger, at least.
    """

    def __init__(self, clients: list[Any], seed: int) -> None:
        self._clients, self._chance = clients, Random(seed)
        self._turn = 0
        self.acknowledged: Counter[tuple[UUID, str]] = Counter()
        self.refused: Counter[int] = Counter()
        self.faults: list[str] = []
        self._threads: list[str] = []
        self._crons: list[str] = []
        self._runs: list[tuple[str, str]] = []

    async def run(self, stop: asyncio.Event, how_many: int = 6) -> None:
        """Work until it is over; raises what no client should ever see."""
        for _ in range(4):
            await self._make_thread()
        for on_thread in (True, False, True):
            await self._make_cron(on_thread)
        async with asyncio.TaskGroup() as group:
            for _ in range(how_many):
                group.create_task(self._work(stop))

    async def end(self) -> None:
        """Let nothing come after: delete the crons, also those of which nobody heard that they were made."""
        while found := await self._do(lambda client: client.crons.search(limit=100)):
            for cron in found:
                await self._delete_cron(cron["cron_id"])

    def unkept(self, recorded: list[Recorded]) -> list[str]:
        """What was acknowledged and is not in the ledger."""
        found = Counter((event.stream_id, event.topic.rpartition(".v")[0]) for event in recorded)
        return [
            f"{topic} of {stream_id}: {many} acknowledged, {found[stream_id, topic]} in the ledger"
            for (stream_id, topic), many in self.acknowledged.items()
            if found[stream_id, topic] < many
        ]

    async def _work(self, stop: asyncio.Event) -> None:
        chance = self._chance
        while not stop.is_set():
            thread_id = chance.choice(self._threads)
            await chance.choices(
                (
                    lambda: self._make_run(thread_id),  # noqa: B023
                    self._watch,
                    lambda: self._make_cron(chance.random() < 0.5),
                    self._edit_cron,
                    self._make_thread,
                    lambda: self._write_state(thread_id),  # noqa: B023
                    self._cancel,
                ),
                (8, 4, 1, 3, 1, 2, 2),
            )[0]()
            await asyncio.sleep(chance.uniform(0.02, 0.2))

    # --- commands -----------------------------------------------------------------------------------

    async def _make_thread(self) -> None:
        made = await self._do(lambda client: client.threads.create(graph_id="counter"))
        if made is not None:
            self._note(made["thread_id"], "thread.created")
            self._threads.append(made["thread_id"])

    async def _make_run(self, thread_id: str) -> None:
        strategy = self._chance.choice(STRATEGIES)
        given: Any = {"input": {"count": 1, "wait_s": self._chance.choice((0, 0, 0.2, 1))}}
        made = await self._do(
            lambda client: client.runs.create(thread_id, "counter", multitask_strategy=strategy, **given)
        )
        if made is not None:
            self._note(made["run_id"], "run.requested")
            self._runs.append((thread_id, made["run_id"]))

    async def _make_cron(self, on_thread: bool) -> None:
        if len(self._crons) > 10:
            await self._delete_cron(self._chance.choice(self._crons))
        schedule = self._chance.choice(("* * * * * *", "*/2 * * * * *", "*/3 * * * * *"))
        given: dict[str, Any] = {"schedule": schedule, "input": {"count": 1}}
        thread_id = self._chance.choice(self._threads)

        def make(client: Any) -> Any:
            if on_thread:
                return client.crons.create_for_thread(thread_id, "counter", **given)
            return client.crons.create("counter", **given)

        made = await self._do(make)
        if made is not None:
            self._note(made["cron_id"], "cron.created")
            self._crons.append(made["cron_id"])

    async def _edit_cron(self) -> None:
        if not self._crons:
            return
        cron_id = self._chance.choice(self._crons)
        kind = self._chance.choice(("pause", "resume", "change"))
        changes: dict[str, dict[str, Any]] = {
            "pause": {"enabled": False},
            "resume": {"enabled": True},
            "change": {"metadata": {"n": self._chance.random()}},
        }
        changed = await self._do(lambda client: client.crons.update(cron_id, **changes[kind]))
        if changed is not None and kind == "change":
            self._note(cron_id, "cron.updated")

    async def _delete_cron(self, cron_id: str) -> None:
        done = await self._do(lambda client: client.crons.delete(cron_id))
        if done is not None:
            self._note(cron_id, "cron.deleted")
        if cron_id in self._crons:
            self._crons.remove(cron_id)

    async def _write_state(self, thread_id: str) -> None:
        await self._do(lambda client: client.threads.update_state(thread_id, {"count": 1}))

    async def _cancel(self) -> None:
        if self._runs:
            thread_id, run_id = self._chance.choice(self._runs[-20:])
            await self._do(lambda client: client.runs.cancel(thread_id, run_id))

    # --- streams ------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """A run's stream, joined again where it broke off: each id comes once, and they grow."""
        given = {"input": {"count": 1, "wait_s": 0.2}, "if_not_exists": "create", "stream_resumable": True}
        thread_id = str(uuid4())
        made = await self._do(lambda client: client.runs.create(thread_id, "counter", **given))
        if made is None:
            return
        self._note(made["run_id"], "run.requested")
        seen: list[str] = []

        async def join(client: Any) -> bool:
            last = seen[-1] if seen else "-"
            async for part in client.runs.join_stream(thread_id, made["run_id"], last_event_id=last):
                # Those have no id of their own: the client shows the one before.
                is_told = part.id is not None and part.event not in ("end", "gap", "error")
                seen.extend([part.id] if is_told else [])
            return True

        await self._do(join, within_s=120)
        places = [tuple(map(int, text.split("-"))) for text in seen]
        if places != sorted(set(places)):
            self.faults.append(f"stream of run {made['run_id']} told {seen}")

    # --- asking ---------------------------------------------------------------------------------------

    def _note(self, stream_id: str, topic: str) -> None:
        self.acknowledged[UUID(stream_id), topic] += 1

    async def _do(self, ask: Callable[[Any], Awaitable[Any]], within_s: float = 90) -> Any:
        """The answer; True for one without a body, None when it was refused."""
        async with asyncio.timeout(within_s):
            while True:
                self._turn += 1
                try:
                    answer = await ask(self._clients[self._turn % len(self._clients)])
                except APIStatusError as exc:
                    if exc.status_code in GONE:
                        self.refused[exc.status_code] += 1
                        return None
                    if exc.status_code != 503:
                        raise
                    self.refused[503] += 1
                except (APIConnectionError, httpx.TransportError):
                    self.refused[0] += 1
                else:
                    return True if answer is None else answer
                await asyncio.sleep(AGAIN_S)
