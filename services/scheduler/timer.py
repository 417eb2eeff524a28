"""Who is due when: crons grouped by schedule and zone, groups in a heap. No I/O, no clock."""

import heapq
from array import array
from collections.abc import Iterator
from uuid import UUID

from domain.schedule import Schedule, Zone, next_after, parse_canonical, zone

NO_END = (1 << 62) - 1


class Group:
    """Every cron of one schedule and zone, and their common next instant."""

    __slots__ = ("key", "members", "next", "place", "queued", "schedule")

    def __init__(self, key: tuple[str, str | None], schedule: Schedule, place: Zone) -> None:
        self.key = key
        self.schedule = schedule
        self.place = place
        self.next: int | None = None
        self.queued = False
        self.members = array("I")


class Timer:
    """The crons that are active. One call of the schedule kernel moves a whole group."""

    def __init__(self) -> None:
        self._slots: dict[bytes, int] = {}
        self._ids: list[bytes] = []
        self._group_of: list[Group | None] = []
        self._place_of = array("I")
        self._cursor = array("q")  # seconds: newest decided instant
        self._end = array("q")  # seconds, inclusive
        self._version = array("I")  # of the cron's stream
        self._free: list[int] = []
        self._groups: dict[tuple[str, str | None], Group] = {}
        self._heap: list[tuple[int, int, Group]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._slots)

    def add(
        self,
        cron_id: bytes,
        canonical: str,
        timezone: str | None,
        *,
        cursor: int,
        end: int | None,
        version: int,
        now: int,
    ) -> Group:
        """Put a cron in its group, or bring it up to date. Raises InvalidSchedule, InvalidTimezone."""
        group = self._group(canonical, timezone)
        slot = self._slots.get(cron_id)
        if slot is None:
            slot = self._new_slot(cron_id)
        elif self._group_of[slot] is not group:
            self._leave(slot)
        if self._group_of[slot] is None:
            self._group_of[slot] = group
            self._place_of[slot] = len(group.members)
            group.members.append(slot)
        self._cursor[slot] = max(cursor, self._cursor[slot])
        self._end[slot] = NO_END if end is None else end
        self._version[slot] = version
        # A group sleeps at its next instant after now; who is behind that is told apart by its cursor.
        if group.next is None or not group.queued:
            group.next = next_after(group.schedule, group.place, now)
            self._queue(group)
        return group

    def remove(self, cron_id: bytes) -> None:
        """Take a cron out; harmless when it is not there."""
        slot = self._slots.pop(cron_id, None)
        if slot is not None:
            self._leave(slot)
            self._cursor[slot] = 0
            self._free.append(slot)

    def next_due(self) -> int | None:
        """The next instant at which anything is due."""
        while self._heap and not self._heap[0][2].members:
            self._forget(heapq.heappop(self._heap)[2])
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: int) -> tuple[Group, int, int | None] | None:
        """A group that is due: (group, due instant, its following instant); None when none is."""
        due = self.next_due()
        if due is None or due > now:
            return None
        group = heapq.heappop(self._heap)[2]
        group.queued = False
        group.next = next_after(group.schedule, group.place, due)
        self._queue(group)
        return group, due, group.next

    def members(self, group: Group, due: int) -> list[bytes]:
        """Crons of the group for which the instant is undecided and not after their end."""
        cursor, end, ids = self._cursor, self._end, self._ids
        return [ids[slot] for slot in group.members if cursor[slot] < due <= end[slot]]

    def ended(self, group: Group) -> list[bytes]:
        """Crons of the group whose end lies before its next instant."""
        coming = NO_END if group.next is None else group.next
        end, ids = self._end, self._ids
        return [ids[slot] for slot in group.members if end[slot] < coming and end[slot] != NO_END]

    def decided(self, cron_id: bytes, instant: int) -> None:
        """Move a cron's cursor, forward only."""
        slot = self._slots.get(cron_id)
        if slot is not None and instant > self._cursor[slot]:
            self._cursor[slot] = instant

    def holds(self, cron_id: bytes) -> bool:
        """Whether the cron is active here."""
        return cron_id in self._slots

    def cursor(self, cron_id: bytes) -> int:
        """The newest decided instant of a cron."""
        return self._cursor[self._slots[cron_id]]

    def version(self, cron_id: bytes) -> int:
        """The stream version that is known of a cron, 0 when it is not here."""
        slot = self._slots.get(cron_id)
        return 0 if slot is None else self._version[slot]

    def seen(self, cron_id: bytes, version: int) -> None:
        """Note a newer stream version."""
        slot = self._slots.get(cron_id)
        if slot is not None:
            self._version[slot] = max(self._version[slot], version)

    def end(self, cron_id: bytes) -> int:
        """The last instant at which the cron may fire."""
        return self._end[self._slots[cron_id]]

    def group(self, cron_id: bytes) -> Group:
        """The group of a cron."""
        group = self._group_of[self._slots[cron_id]]
        assert group is not None
        return group

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._slots)

    def _group(self, canonical: str, timezone: str | None) -> Group:
        key = (canonical, timezone)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key, parse_canonical(canonical), zone(timezone))
        return group

    def _new_slot(self, cron_id: bytes) -> int:
        if self._free:
            slot = self._free.pop()
            self._ids[slot] = cron_id
        else:
            slot = len(self._ids)
            self._ids.append(cron_id)
            self._group_of.append(None)
            for column in (self._place_of, self._cursor, self._end, self._version):
                column.append(0)
        self._slots[cron_id] = slot
        return slot

    def _leave(self, slot: int) -> None:
        group = self._group_of[slot]
        if group is None:
            return
        place, last = self._place_of[slot], group.members.pop()
        if last != slot:
            group.members[place] = last
            self._place_of[last] = place
        self._group_of[slot] = None
        if not group.members and not group.queued:
            self._forget(group)

    def _forget(self, group: Group) -> None:
        group.queued = False
        if not group.members:
            self._groups.pop(group.key, None)

    def _queue(self, group: Group) -> None:
        if group.next is not None:
            self._serial += 1
            group.queued = True
            heapq.heappush(self._heap, (group.next, self._serial, group))


def ids_of(raw: list[bytes]) -> list[UUID]:
    """Ids as UUIDs."""
    return [UUID(bytes=value) for value in raw]
