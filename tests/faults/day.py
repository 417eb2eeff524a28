"""A scripted day of crons: edits, pauses, clock jumps, strategies, a graph that blocks."""

import asyncio
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.faults.client import Client
from tests.faults.failpoint import Failpoints
from tests.faults.house import House
from tests.faults.verdict import ledger, unsettled, untrue

MORNING = datetime(2026, 11, 24, 11, 59, 58, tzinfo=UTC)
HOUR_S = 3600.0


class DayClock:
    """The host's clock from another instant on; the script makes it jump. Whoever waits is woken by that."""

    def __init__(self) -> None:
        self._ahead = MORNING.timestamp() - time.time()
        self._jumped = asyncio.Event()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall_s(), UTC)

    def wall_s(self) -> float:
        return time.time() + self._ahead

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        until = self.wall_s() + timeout_s
        while not event.is_set() and (left := until - self.wall_s()) > 0:
            await self._either(event, left)
        return event.is_set()

    async def _either(self, event: asyncio.Event, timeout_s: float) -> None:
        waiting = [asyncio.ensure_future(each.wait()) for each in (event, self._jumped)]
        try:
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.wait(waiting)

    def jump(self, by_s: float) -> None:
        self._ahead += by_s
        self._jumped.set()
        self._jumped = asyncio.Event()

    def jump_to_next_minute(self) -> None:
        self.jump(60.05 - self.wall_s() % 60)


class Day:
    """The script. It goes on whether or not things get done in time; `end` then waits until all is."""

    def __init__(self, house: House, clock: DayClock, points: Failpoints) -> None:
        self._house, self._clock, self._points = house, clock, points
        # Edge -> the parts that said that they are not well while it failed.
        self.ailing = defaultdict[str, set[str]](set)

    async def run(self) -> None:
        """From the house's start to two o'clock."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._house.start()
            with self._points.spared():
                self._client = Client(self._house.log, self._clock)
                await self._noon()
                await self._edits()
                await self._absence()
                await self._leap()
        finally:
            watching.cancel()

    async def end(self, most_s: float = 20.0) -> list[str]:
        """Let nothing fail any more, pause every cron, and wait; what is still wrong then."""
        self._points.disarm()
        with self._points.spared():
            for cron_id in self._crons.values():
                await self._client.change(cron_id, enabled=False)
        deadline = time.monotonic() + most_s
        while (wrong := self._wrong()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return wrong or await self._house.differences()

    def named(self, wrong: list[str]) -> list[str]:
        """The same with the crons' names in the script."""
        for name, cron_id in self._crons.items():
            wrong = [text.replace(str(cron_id), name) for text in wrong]
        return wrong

    # --- the script -------------------------------------------------------------------------------

    async def _noon(self) -> None:
        self._crons = {
            "stateless": await self._cron("* * * * *", "quick"),
            "waiting": await self._cron("* * * * *", "quick", "enqueue", on_thread=True),
            "large": await self._cron("*/2 * * * *", "large", "enqueue", on_thread=True, text="y" * 40_000),
            "skipped": await self._cron("* * * * *", "slow", "reject", on_thread=True),
            "interrupting": await self._cron("* * * * *", "slow", "interrupt", on_thread=True),
            "undoing": await self._cron("* * * * *", "slow", "rollback", on_thread=True),
            "blocking": await self._cron("*/5 * * * *", "blocking"),
            "failing": await self._cron("*/3 * * * *", "failing", "enqueue", on_thread=True),
            "ending": await self._cron("* * * * *", "quick", end_time=MORNING + timedelta(seconds=150)),
            "in turn": await self._cron("* * * * *", "slow", overlap="buffer_one"),
            "in place": await self._cron(
                "* * * * *", "slow", overlap="cancel_other", on_run_completed="keep"
            ),
            "deleted": await self._cron("* * * * *", "quick"),
        }
        await self._minutes(1)
        await self._minutes(2, at_ease=False)

    async def _edits(self) -> None:
        crons, change = self._crons, self._client.change
        await change(crons["stateless"], enabled=False)
        await change(crons["waiting"], schedule="*/2 * * * *")
        await self._minutes(1)
        await change(crons["stateless"], enabled=True)
        await change(crons["large"], timezone="Asia/Kolkata")
        await change(crons["skipped"], schedule="* * * * *", metadata={"edited": True})
        await self._client.delete(crons.pop("deleted"))
        await self._minutes(1)
        self._clock.jump(-20)
        await self._minutes(1)

    async def _absence(self) -> None:
        """Changes while no scheduler runs; then one comes back."""
        crons, change = self._crons, self._client.change
        await self._house.halt_scheduler()
        self._clock.jump_to_next_minute()
        self._clock.jump(5)
        await change(crons["waiting"], schedule="* * * * *")
        await change(crons["undoing"], enabled=False)
        await change(crons["undoing"], enabled=True)
        self._clock.jump(90)
        await change(crons["failing"], enabled=False)
        await self._house.resume_scheduler()
        await self._minutes(1)

    async def _leap(self) -> None:
        """An hour is gone; an edit and a pause come while what it left is caught up with."""
        self._clock.jump(HOUR_S)
        await self._client.change(self._crons["interrupting"], schedule="*/2 * * * *")
        await self._client.change(self._crons["stateless"], enabled=False)
        await self._at_ease()
        await self._minutes(2, at_ease=False)

    # --- its parts --------------------------------------------------------------------------------

    async def _cron(
        self,
        schedule: str,
        graph: str,
        strategy: str = "",
        on_thread: bool = False,
        text: str = "",
        **fields: Any,
    ) -> UUID:
        spec: dict[str, Any] = {"input": {"text": text}}
        if strategy:
            spec["multitask_strategy"] = strategy
        thread_id = await self._client.thread() if on_thread else None
        return await self._client.cron(schedule, graph, spec, thread_id=thread_id, **fields)

    async def _minutes(self, many: int, at_ease: bool = True) -> None:
        for _ in range(many):
            self._clock.jump_to_next_minute()
            await self._at_ease() if at_ease else await asyncio.sleep(0.15)

    async def _at_ease(self, most_s: float = 1.5) -> None:
        """Until everything that is due is decided and run, or for so long: the day does not wait."""
        deadline = time.monotonic() + most_s
        while self._wrong() and time.monotonic() < deadline:  # noqa: ASYNC110 - the ledger is looked at from outside
            await asyncio.sleep(0.05)

    def _wrong(self) -> list[str]:
        recorded = ledger(self._house.folder / "ledger.db")
        return untrue(recorded, int(self._clock.wall_s())) + unsettled(recorded)

    async def _watch(self) -> None:
        while True:
            for edge in self._points.failing:
                self.ailing[edge] |= {name for name, why in self._house.health().items() if why}
            await asyncio.sleep(0.02)
