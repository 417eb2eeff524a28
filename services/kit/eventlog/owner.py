"""A ledger towards other processes: new positions are told, and who owns an SQLite file appends for them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from contracts.subjects import log_append_subject, log_nudge_subject
from services.kit.bus import Bus, Msg, Subscription
from services.kit.eventlog import EventLog
from services.kit.eventlog.remote import serve_remote
from services.kit.lifecycle import Part, Supervised
from services.kit.reads import read


class SharedLog(EventLog, Protocol):
    """One that others write as well, and that can be told of it."""

    def nudged(self, position: int) -> None:
        """Tell those who wait that there is a new position."""
        ...


class LogNews:
    """A part that tells the others of new positions, and the log of theirs."""

    name, failing = "log.news", ""

    def __init__(self, log: SharedLog, bus: Bus) -> None:
        self._log, self._bus = log, bus
        self._news, self._heard = asyncio.Event(), 0
        self._loop = Supervised("log.nudge", self._tell)
        self.parts: Sequence[Part] = (self._loop,)
        self._leave: Callable[[], None] = lambda: None
        self._told: Subscription | None = None

    @property
    def started(self) -> bool:
        """True while it tells."""
        return self._loop.started

    async def start(self) -> None:
        """Begin to tell; twice is harmless. Raises ConnectionError."""
        if self._told is None:
            self._told = await self._bus.subscribe(log_nudge_subject(), self._on_msg)
            self._leave = self._log.on_commit(self._committed)
            await self._loop.start()

    async def stop(self) -> None:
        """Tell no more; safe twice and unstarted."""
        self._leave()
        await self._loop.stop()
        told, self._told = self._told, None
        if told is not None:
            await told.unsubscribe()

    def _committed(self, position: int) -> None:
        # What another process has told is not told again, nor what comes back of what we told.
        if position > self._heard:
            self._heard = position
            self._news.set()

    async def _on_msg(self, msg: Msg) -> None:
        position = int(msg.data)
        if position > self._heard:
            self._heard = position
            self._log.nudged(position)

    async def _tell(self) -> None:
        await self._news.wait()
        self._news.clear()
        try:
            await self._bus.publish(log_nudge_subject(), str(await read(self._log, self._log.head)).encode())
        except BaseException:
            self._news.set()
            raise


class LogOwner:
    """A part that appends for the processes beside the one that owns the file."""

    name, failing = "log.owner", ""
    parts: Sequence[Part] = ()

    def __init__(self, log: EventLog, bus: Bus) -> None:
        self._bus, self._serve = bus, serve_remote(log)
        self._appends: Subscription | None = None

    @property
    def started(self) -> bool:
        """True while it serves."""
        return self._appends is not None

    async def start(self) -> None:
        """Begin to serve; twice is harmless. Raises ConnectionError."""
        if self._appends is None:
            self._appends = await self._bus.subscribe(log_append_subject(), self._append)

    async def stop(self) -> None:
        """Serve no more; safe twice and unstarted."""
        appends, self._appends = self._appends, None
        if appends is not None:
            await appends.unsubscribe()

    async def _append(self, msg: Msg) -> None:
        await msg.respond(await self._serve(msg.data))
