"""The process that owns an SQLite ledger, towards those beside it: appends for them, tells of new positions."""

import asyncio
from collections.abc import Callable, Sequence

from contracts.subjects import log_append_subject, log_nudge_subject
from services.kit.bus import Bus, Msg, Subscription
from services.kit.eventlog import EventLog
from services.kit.eventlog.remote import serve_remote
from services.kit.lifecycle import Part, Supervised
from services.kit.reads import read


class LogOwner:
    """A part that serves the log on the bus."""

    name, failing = "log.owner", ""

    def __init__(self, log: EventLog, bus: Bus) -> None:
        self._log, self._bus = log, bus
        self._serve = serve_remote(log)
        self._news = asyncio.Event()
        self._loop = Supervised("log.nudge", self._tell)
        self.parts: Sequence[Part] = (self._loop,)
        self._leave: Callable[[], None] = lambda: None
        self._appends: Subscription | None = None

    @property
    def started(self) -> bool:
        """True while it serves."""
        return self._loop.started

    async def start(self) -> None:
        """Begin to serve; twice is harmless. Raises ConnectionError."""
        if self._appends is None:
            self._appends = await self._bus.subscribe(log_append_subject(), self._append)
            self._leave = self._log.on_commit(lambda _: self._news.set())
            await self._loop.start()

    async def stop(self) -> None:
        """Serve no more; safe twice and unstarted."""
        self._leave()
        await self._loop.stop()
        appends, self._appends = self._appends, None
        if appends is not None:
            await appends.unsubscribe()

    async def _append(self, msg: Msg) -> None:
        await msg.respond(await self._serve(msg.data))

    async def _tell(self) -> None:
        await self._news.wait()
        self._news.clear()
        try:
            await self._bus.publish(log_nudge_subject(), str(await read(self._log, self._log.head)).encode())
        except BaseException:
            self._news.set()
            raise
