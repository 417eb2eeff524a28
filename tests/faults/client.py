"""Whoever makes and changes crons: as the gateway does it, again and again until it is done."""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any
from uuid import UUID

from contracts.events import ThreadCreated
from contracts.ledger import Append, Meta, Transaction
from contracts.spec import RunSpec
from domain import cron as crons
from domain.assistant import default_assistant_id
from domain.changes import Changes
from domain.cron import CreateCron, Cron, CronCommand, DeleteCron, UpdateCron, cron_of
from services.kit.clock import Clock
from services.kit.commands import Conflict, execute
from services.kit.eventlog import EventLog, LogUnavailable
from services.kit.ids import uuid7

Decide = Callable[[], Changes]


class Client:
    """Commands on one log. What an edge refuses is tried again: the second time finds what the first did."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log, self._clock = log, clock

    async def thread(self) -> UUID:
        """A new thread."""
        thread_id = uuid7()

        def decide() -> Changes:
            if self._log.stream(thread_id):
                return Changes()
            return Changes(appends=(Append(thread_id, 0, (ThreadCreated(user_id="u"),)),))

        await self.do(decide)
        return thread_id

    async def cron(self, schedule: str, graph: str, spec: dict[str, Any], **fields: Any) -> UUID:
        """A new cron of the graph's default assistant."""
        cron_id = uuid7()
        command = CreateCron(
            cron_id=cron_id,
            assistant_id=default_assistant_id(graph),
            graph_id=graph,
            user_id="u",
            schedule=schedule,
            spec=RunSpec(**spec),
            seconds=True,
            **fields,
        )
        await self.do(lambda: self._changes(cron_id, command, creates=True))
        return cron_id

    async def change(self, cron_id: UUID, **fields: Any) -> None:
        """Edit, pause or resume it."""
        await self.do(lambda: self._changes(cron_id, UpdateCron(seconds=True, **fields)))

    async def delete(self, cron_id: UUID) -> None:
        """End it."""
        await self.do(lambda: self._changes(cron_id, DeleteCron()))

    async def do(self, decide: Decide) -> None:
        """Carry it out, however often the log has to be asked."""

        async def transaction() -> Transaction:
            return decide().by(Meta(at=self._clock.now(), actor="u"))

        while True:
            try:
                await execute(self._log, transaction)
                return
            except (LogUnavailable, Conflict, OSError, sqlite3.Error):
                await asyncio.sleep(0.05)

    def _changes(self, cron_id: UUID, command: CronCommand, creates: bool = False) -> Changes:
        cron: Cron | None = cron_of(cron_id, self._log.stream(cron_id))
        if (cron is not None) == creates:
            return Changes()  # an attempt that seemed to fail had done it
        return crons.changes(cron_id, cron, crons.decide(cron, command, self._clock.now()))
