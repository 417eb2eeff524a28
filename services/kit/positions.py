"""Who waits for a position, and who has reached it."""

import asyncio
import heapq
from itertools import count


class PositionSignal:
    """A position that only grows, and those who wait for it. Used in one event loop."""

    def __init__(self, current: int = 0) -> None:
        self.current = current
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._serial = count()
        self._wanted = asyncio.Event()

    def advance(self, position: int) -> None:
        """Say that the position is reached; an older one changes nothing."""
        self.current = max(self.current, position)
        while self._waiting and self._waiting[0][0] <= self.current:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    @property
    def is_waited_for(self) -> bool:
        """Whether anybody waits for more than there is."""
        return any(not future.done() for _, _, future in self._waiting)

    async def wanted(self, pause_s: float) -> None:
        """Wait so long, and then until anybody waits for more than there is."""
        await asyncio.sleep(pause_s)
        while not self.is_waited_for:
            self._wanted.clear()
            await self._wanted.wait()

    async def wait_for(self, position: int, timeout_s: float) -> bool:
        """True once the position is reached, False when the time is over."""
        if position <= self.current:
            return True
        self._wanted.set()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (position, next(self._serial), future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        return True
