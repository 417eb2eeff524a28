"""Which delivery is to be tried now: those of a host wait for each other, and never for those of another one."""

import heapq
from collections import OrderedDict, deque
from itertools import count
from uuid import UUID

PER_HOST = 8
AT_ONCE = 128
"""Attempts at a time, to one receiver and to all of them."""
BEHIND_S = 1.0


class SendQueue:
    """Deliveries that wait for their instant, then for a place among those of their host. No I/O, no clock."""

    def __init__(self, per_host: int = PER_HOST, at_once: int = AT_ONCE) -> None:
        self._per_host, self._at_once = per_host, at_once
        self._due: dict[
            UUID, tuple[float, int]
        ] = {}  # what is waited for now; older entries of the heap are void
        self._later: list[tuple[float, int, UUID, str]] = []
        self._ready: OrderedDict[str, deque[UUID]] = OrderedDict()
        self._is_ready: set[UUID] = set()
        self._busy: dict[str, int] = {}
        self._sending: dict[UUID, str] = {}
        self._serial = count()

    def __len__(self) -> int:
        return len(self._due.keys() | self._is_ready | self._sending.keys())

    @property
    def next_s(self) -> float:
        """When the first of those that wait is due, seconds since the epoch; infinity without any."""
        while self._later and self._due.get(self._later[0][2]) != self._later[0][:2]:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else float("inf")

    def add(self, delivery_id: UUID, host: str, due_s: float) -> None:
        """Let it wait until then, in place of what it waited for."""
        mark = self._due[delivery_id] = (due_s, next(self._serial))
        heapq.heappush(self._later, (*mark, delivery_id, host))

    def remove(self, delivery_id: UUID) -> None:
        """It waits for nothing any more; harmless when it did not."""
        self._due.pop(delivery_id, None)

    def take(self, now_s: float) -> tuple[UUID, str] | None:
        """One that is due and has a place, with its host; hosts in turn. `done` gives the place back."""
        while self.next_s <= now_s:
            _, _, delivery_id, host = heapq.heappop(self._later)
            del self._due[delivery_id]
            if (
                delivery_id in self._sending
            ):  # it was asked for again meanwhile: behind the attempt that is made
                self.add(delivery_id, host, now_s + BEHIND_S)
            elif delivery_id not in self._is_ready:
                self._is_ready.add(delivery_id)
                self._ready.setdefault(host, deque()).append(delivery_id)
        if len(self._sending) >= self._at_once:
            return None
        for host in self._ready:
            if self._busy.get(host, 0) < self._per_host:
                return self._taken(host)
        return None

    def done(self, delivery_id: UUID) -> None:
        """The attempt is over."""
        host = self._sending.pop(delivery_id)
        self._busy[host] -= 1
        if not self._busy[host]:
            del self._busy[host]

    def _taken(self, host: str) -> tuple[UUID, str]:
        waiting = self._ready[host]
        delivery_id = waiting.popleft()
        self._is_ready.discard(delivery_id)
        self._ready.move_to_end(host)
        if not waiting:
            del self._ready[host]
        self._busy[host] = self._busy.get(host, 0) + 1
        self._sending[delivery_id] = host
        return delivery_id, host
