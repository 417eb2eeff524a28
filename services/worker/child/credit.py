"""How far a run may be ahead of whoever takes its events."""

import asyncio

MOST_BYTES = 1 << 20
"""Of events on their way to the bus; a single one that is larger goes when nothing else is under way."""


class Credit:
    """Bytes that a run has sent and that have not left the worker yet: with too many of them it waits."""

    def __init__(self) -> None:
        self._under_way = 0
        self._room = asyncio.Event()
        self._room.set()

    def spend(self, size: int) -> None:
        """So much is sent."""
        self._under_way += size
        if self._under_way > MOST_BYTES:
            self._room.clear()

    def earn(self, size: int) -> None:
        """So much has left the worker."""
        self._under_way -= size
        if self._under_way <= MOST_BYTES:
            self._room.set()

    async def wait(self) -> None:
        """Return when there is room for more."""
        await self._room.wait()
