"""Partitions of the crons: which of several schedulers has which, and when each cron of one is to be looked at."""

import heapq
import zlib
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import ceil

import msgspec

from contracts.events import Rule
from domain.schedule import Schedule, Zone, next_after
from domain.timeline import Timeline

NEVER = float("inf")

PARTITIONS = 16
"""Shares are even up to one of these. Each costs a group of its own for a rule that crons of all of them have."""
EVERY = frozenset(range(PARTITIONS))


class Group:
    """Every cron of one rule (but for its start and end) in a partition, and their common next instant."""

    __slots__ = ("key", "members", "next", "partition", "place", "schedule", "tried", "waits")

    def __init__(self, key: Rule, schedule: Schedule, place: Zone, now: int, partition: "Partition") -> None:
        self.key, self.partition = key, partition
        self.schedule = schedule
        self.place = place
        self.members = array("I")
        self.waits = now  # nothing is due in (waits, next)
        self.tried = 0  # an instant that members may have fired, though the answer was lost
        self.next = next_after(schedule, place, now)

    def waits_for(self, cursor: int) -> bool:
        """Whether nothing is due between the cursor and the next instant."""
        if self.waits <= cursor:
            return True
        if next_after(self.schedule, self.place, cursor) != self.next:
            return False
        self.waits = cursor
        return True


class Apart(msgspec.Struct, gc=False):
    """A cron that is looked at by itself."""

    timeline: Timeline
    look_at: float  # seconds; NEVER: an event will say
    sure: int = 0  # the read model must have come to this position before the cursor is trusted
    ripe: tuple[int, float] = (0, 0.0)  # a catch-up, and when it may fire
    runs: int | None = None  # that its schedule has fired; None: the read model knows
    tried: int = 0  # an instant that it may have fired, though the answer was lost


class Partition:
    """The crons of a partition, and when to look at which of them."""

    __slots__ = ("apart", "failing", "groups", "heap", "looks", "moved")

    def __init__(self) -> None:
        self.groups: dict[Rule, Group] = {}
        self.heap: list[tuple[int, int, Group]] = []
        self.apart: dict[bytes, Apart] = {}
        self.looks: list[tuple[float, int, bytes]] = []
        self.moved: set[bytes] = set()
        """Those whose zone's rules have changed since they were planned."""
        self.failing: dict[bytes, tuple[int, str]] = {}
        """Those of which a run has failed: up to where the read model must know, and the event that said so."""

    def next_due(self) -> int | None:
        """The next instant at which a group is due."""
        while self.heap:
            due, _, group = self.heap[0]
            if group.members and group.next == due:
                return due
            heapq.heappop(self.heap)
            if not group.members and self.groups.get(group.key) is group:
                del self.groups[group.key]
        return None

    def due(self, now: int) -> Iterator[Group]:
        """The groups that are due: the top of the heap, which is left as it is."""
        places = [0] if self.heap else []
        while places:
            place = places.pop()
            due, _, group = self.heap[place]
            if due > now:
                continue
            places += [child for child in (2 * place + 1, 2 * place + 2) if child < len(self.heap)]
            if group.members and group.next == due:
                yield group

    def next_look(self) -> float | None:
        """When to look at the first of those that stand apart."""
        while self.looks:
            at, _, cron_id = self.looks[0]
            apart = self.apart.get(cron_id)
            if apart is not None and apart.look_at == at:
                return at
            heapq.heappop(self.looks)
        return None


def partition_of(cron_id: bytes) -> int:
    """The partition of a cron, for ever."""
    return zlib.crc32(cron_id) % PARTITIONS


def partitions_of(name: str, members: Sequence[str]) -> frozenset[int]:
    """The partitions of one of the members; none when it is none of them.

    Whoever sees the same members comes to the same shares, of which no two have a partition in common. Most of
    them stay where they are when a member comes or goes (rendezvous hashing, with no share above its part).
    """
    if name not in members:
        return frozenset()
    shares: dict[str, set[int]] = {member: set() for member in members}
    most = ceil(PARTITIONS / len(members))
    for partition in range(PARTITIONS):
        open_ = (member for member, share in shares.items() if len(share) < most)
        shares[max(open_, key=lambda member: _weight(member, partition))].add(partition)
    return frozenset(shares[name])


def _weight(member: str, partition: int) -> bytes:
    return blake2b(f"{member}/{partition}".encode(), digest_size=8).digest()
