"""When to look at which cron, and up to where each is decided. No I/O, no clock.

A cron is in the group of its rule as long as nothing of it is undecided before the group's next instant: one call
of the schedule kernel then moves them all. Every other cron stands apart, with its timeline and the time to look
at it: behind, edited, new, waiting for its catch-up, paused, over, jittered, counted.
Nothing here loses an occurrence: a heap only says when to look, and a cursor moves when a decision is stored.

Each partition has its groups and its looks: what other schedulers decide is held here too, ready to be taken over.
"""

import heapq
from array import array
from collections.abc import Collection
from datetime import UTC, datetime
from itertools import chain, count

from msgspec.structs import replace

from contracts.events import Rule, RuleEvent
from domain.schedule import local_time, next_after, parse_canonical, zone
from domain.timeline import FOREVER, Due, Stretch, Timeline, end_of, resumes_at, start_of
from services.scheduler.partitions import EVERY, NEVER, PARTITIONS, Apart, Group, Partition, partition_of


class Timer:
    """All crons that are not deleted. What is due is told of `ours`, or of what others decide."""

    def __init__(self) -> None:
        self.ours: frozenset[int] = EVERY
        self._slots: dict[bytes, int] = {}
        self._ids: list[bytes] = []
        self._group_of: list[Group | None] = []
        self._place_of = array("I")
        self._cursor = array("q")  # seconds: decided up to here
        self._end = array("q")  # seconds, inclusive
        self._version = array("I")  # of the cron's stream
        self._revision = array("I")  # version of its newest event that a client caused
        self._free: list[int] = []
        self._partitions = [Partition() for _ in range(PARTITIONS)]
        self._serial = count()

    def __len__(self) -> int:
        return len(self._slots)

    # --- whose they are -----------------------------------------------------------------------------

    def own(self, ours: frozenset[int], now: float, position: int) -> None:
        """From now on these partitions are ours. Of those that stand apart in a new one its former owner may know
        more: the read model knows it too, at that position.
        """
        for partition in (self._partitions[n] for n in ours - self.ours):
            for cron_id, apart in partition.apart.items():
                apart.sure = max(apart.sure, position)
                if apart.look_at < NEVER:
                    self.look(cron_id, now)
        self.ours = ours

    def is_ours(self, cron_id: bytes) -> bool:
        """Whether it is here that the cron is decided."""
        return partition_of(cron_id) in self.ours

    def partition(self, cron_id: bytes) -> Partition:
        """That of a cron, whether it is held or not."""
        return self._partitions[partition_of(cron_id)]

    @property
    def our_partitions(self) -> list[Partition]:
        return [self._partitions[n] for n in self.ours]

    @property
    def other_partitions(self) -> list[Partition]:
        return [self._partitions[n] for n in EVERY - self.ours]

    # --- one cron -----------------------------------------------------------------------------------

    def hold(
        self, cron_id: bytes, timeline: Timeline, cursor: int, version: int, revision: int, runs: int
    ) -> None:
        """Take a cron in; what was known of it is forgotten. `settle` or a look says where it belongs."""
        self.remove(cron_id)
        slot = self._new_slot(cron_id)
        self._cursor[slot], self._version[slot], self._revision[slot] = cursor, version, revision
        self.partition(cron_id).apart[cron_id] = Apart(timeline, NEVER, runs=runs)

    def edited(self, cron_id: bytes, event: RuleEvent, at: datetime, position: int) -> None:
        """Another rule is in force, by the event of that time and position, if it has one."""
        if (rule := event.rule) is None:
            return
        slot = self._slots[cron_id]
        apart, since = self._stand_apart(slot), int(event.since(at).timestamp())
        timeline, was = apart.timeline.behind(self._cursor[slot]), apart.timeline.present.rule
        apart.timeline = timeline.then(max(since, self._cursor[slot]), rule, event.made_up)
        if rule.max_runs is not None and was.max_runs is None:  # until now nobody has counted
            apart.runs, apart.sure = None, max(apart.sure, position)
        self.look(cron_id, 0.0)

    def settle(self, cron_id: bytes, now: int) -> bool:
        """Let a cron rest that has nothing undecided up to `now`; false when it must be looked at again."""
        slot, apart = self._slots[cron_id], self.apart(cron_id)
        present = apart.timeline.present
        if present.after > now:
            return False  # edited by a clock that is ahead of ours
        # Whatever came before the rule is decided, and nobody can edit it any more.
        self._cursor[slot] = max(self._cursor[slot], present.after)
        apart.timeline, apart.look_at = Timeline((present,)), NEVER
        if resumes_at(present.rule) == FOREVER:
            return True
        return present.rule.active and self._join(slot, present.rule, now)

    def look(self, cron_id: bytes, at: float) -> None:
        """Look at the cron then; 0.0 = before those that have been behind for long."""
        partition = self.partition(cron_id)
        apart = partition.apart[cron_id]
        if apart.look_at != at:
            apart.look_at = at
            heapq.heappush(partition.looks, (at, next(self._serial), cron_id))

    def set_aside(self, cron_id: bytes, until: float) -> None:
        """Look at it alone, and not before then; harmless when it is not there."""
        slot = self._slots.get(cron_id)
        if slot is not None:
            self._stand_apart(slot)
            self.look(cron_id, until)

    def remove(self, cron_id: bytes) -> None:
        """Forget a cron; harmless when it is not there."""
        self.partition(cron_id).apart.pop(cron_id, None)
        slot = self._slots.pop(cron_id, None)
        if slot is not None:
            self._leave(slot)
            self._free.append(slot)

    def holds(self, cron_id: bytes) -> bool:
        """Whether the cron exists here."""
        return cron_id in self._slots

    def decided(self, cron_id: bytes, until: int) -> None:
        """A decision is stored: move the cursor, forward only."""
        slot = self._slots.get(cron_id)
        if slot is not None and until > self._cursor[slot]:
            self._cursor[slot] = until

    def fired(self, cron_id: bytes) -> None:
        """Its schedule has one run more; harmless where they are not counted."""
        apart = self.partition(cron_id).apart.get(cron_id)
        if apart is not None and apart.runs is not None:
            apart.runs += 1

    def seen(self, cron_id: bytes, version: int, revision: int = 0) -> None:
        """Note a newer version of its stream, and of what a client caused."""
        slot = self._slots.get(cron_id)
        if slot is not None:
            self._version[slot] = max(self._version[slot], version)
            self._revision[slot] = max(self._revision[slot], revision)

    def apart(self, cron_id: bytes) -> Apart:
        """What is known of a cron that stands apart."""
        return self.partition(cron_id).apart[cron_id]

    def stands_apart(self, cron_id: bytes) -> bool:
        """Whether it is looked at by itself."""
        return cron_id in self.partition(cron_id).apart

    def is_grouped(self, cron_id: bytes) -> bool:
        """Whether it is decided with its group."""
        slot = self._slots.get(cron_id)
        return slot is not None and self._group_of[slot] is not None

    def cursor(self, cron_id: bytes) -> int:
        """The instant up to which a cron is decided."""
        return self._cursor[self._slots[cron_id]]

    def version(self, cron_id: bytes) -> int:
        """The version of a cron's stream that is known, 0 when it is not here."""
        slot = self._slots.get(cron_id)
        return 0 if slot is None else self._version[slot]

    def revision(self, cron_id: bytes) -> int:
        """The version of its newest event that a client caused."""
        return self._revision[self._slots[cron_id]]

    def rule(self, cron_id: bytes) -> Rule:
        """The rule in force."""
        apart = self.partition(cron_id).apart.get(cron_id)
        return self._rule(self._slots[cron_id]) if apart is None else apart.timeline.present.rule

    # --- groups -------------------------------------------------------------------------------------

    def next_due(self) -> int | None:
        """The next instant at which one of our groups is due."""
        dues = (partition.next_due() for partition in self.our_partitions)
        return min((due for due in dues if due is not None), default=None)

    def due(self, now: int) -> list[Group]:
        """Our groups that are due; the same ones until `advance` or `scatter` was called."""
        return list(chain.from_iterable(partition.due(now) for partition in self.our_partitions))

    def due_elsewhere(self, now: int, but: frozenset[int]) -> list[Group]:
        """The groups of others, `but` those of these partitions, that are due; the same until `pass_over` was called."""
        others = (self._partitions[n] for n in EVERY - self.ours - but)
        return list(chain.from_iterable(partition.due(now) for partition in others))

    def dues(self, group: Group, start: int, stop: int) -> list[Due]:
        """The group's instant, for each of these members that has not decided it."""
        at = group.next
        assert at is not None
        group.tried = at
        coming = next_after(group.schedule, group.place, at)
        local = local_time(group.place, at).isoformat()
        cursor, end, ids = self._cursor, self._end, self._ids
        version, revision = self._version, self._revision
        return [
            Due(
                ids[slot],
                at,
                local,
                "schedule",
                coming if coming is not None and coming <= end[slot] else None,
                version[slot],
                revision[slot],
            )
            for slot in group.members[start:stop]
            if cursor[slot] < at
        ]

    def advance(self, group: Group) -> None:
        """Go on to the next instant; who has not decided this one, or has no other, is looked at alone."""
        assert group.next is not None
        at, coming = group.next, next_after(group.schedule, group.place, group.next)
        limit = FOREVER if coming is None else coming
        cursor, end = self._cursor, self._end
        for slot in [s for s in group.members if cursor[s] < at or end[s] < limit or coming is None]:
            self._stand_apart(slot)
            self.look(self._ids[slot], 0.0)
        group.waits, group.next = at, coming
        self._queue(group)

    def pass_over(self, group: Group) -> None:
        """Go on to the next instant: another scheduler has decided this one for all of them."""
        assert group.next is not None
        for slot in group.members:
            self._cursor[slot] = max(self._cursor[slot], group.next)
        self.advance(group)

    def scatter(self, group: Group, most: int, now: float, position: int) -> None:
        """Let `most` members be looked at alone: their instant passed unseen, by a halt or a jump of the clock.

        Another scheduler may have gone on meanwhile: the read model, at `position`, knows.
        """
        for slot in group.members[-most:][::-1]:
            self._stand_apart(slot).sure = position
            self.look(self._ids[slot], now)

    # --- those that stand apart -----------------------------------------------------------------------

    def next_look(self) -> float | None:
        """When to look at the first of ours that stand apart."""
        looks = (partition.next_look() for partition in self.our_partitions)
        return min((at for at in looks if at is not None), default=None)

    def to_look_at(
        self, now: float, most: int, partitions: Collection[Partition] | None = None
    ) -> list[bytes]:
        """Crons whose time to be looked at has come, of ours or of these partitions.

        Each goes to the end of the line, and is not forgotten.
        """
        found: dict[bytes, float] = {}
        waiting = [
            (at, n, p)
            for n, p in enumerate(self.our_partitions if partitions is None else partitions)
            if (at := p.next_look()) is not None
        ]
        heapq.heapify(waiting)
        while waiting and len(found) < most and waiting[0][0] <= now:
            at, n, partition = waiting[0]
            # One that was in the line twice is in it once from now on.
            found[heapq.heappop(partition.looks)[2]] = at
            if (following := partition.next_look()) is None:
                heapq.heappop(waiting)
            else:
                heapq.heapreplace(waiting, (following, n, partition))
        for cron_id, at in found.items():
            heapq.heappush(self.partition(cron_id).looks, (at, next(self._serial), cron_id))
        return list(found)

    # --- inside -------------------------------------------------------------------------------------

    def _join(self, slot: int, rule: Rule, now: int) -> bool:
        """Put a cron into its group, unless something of it is undecided before the group's next instant.

        One with jitter has instants of its own, and one whose runs are counted must be asked before each.
        """
        start, end = start_of(rule), end_of(rule)
        if start > now or rule.jitter_s or rule.max_runs is not None:
            return False
        # Before its start there was nothing to decide: from here on the group needs to know of it no longer.
        self._cursor[slot] = max(self._cursor[slot], start)
        key = (
            rule
            if rule.start_time is rule.end_time is None
            else replace(rule, start_time=None, end_time=None)
        )
        partition = self.partition(self._ids[slot])
        group = partition.groups.get(key)
        if group is None:
            group = Group(key, parse_canonical(key.canonical), zone(key.timezone), now, partition)
            partition.groups[key] = group
            self._queue(group)
        if group.next is None or group.next > end or not group.waits_for(self._cursor[slot]):
            return False
        partition.apart.pop(self._ids[slot])
        self._group_of[slot], self._end[slot] = group, end
        self._place_of[slot] = len(group.members)
        group.members.append(slot)
        return True

    def _stand_apart(self, slot: int) -> Apart:
        cron_id = self._ids[slot]
        aparts = self.partition(cron_id).apart
        if (group := self._group_of[slot]) is not None:
            rule, tried = self._rule(slot), group.tried
            self._leave(slot)
            timeline = Timeline((Stretch(self._cursor[slot], FOREVER, rule),))
            aparts[cron_id] = Apart(timeline, NEVER, tried=tried)
        return aparts[cron_id]

    def _rule(self, slot: int) -> Rule:
        group, end = self._group_of[slot], self._end[slot]
        assert group is not None
        if end == FOREVER:
            return group.key
        return replace(group.key, end_time=datetime.fromtimestamp(end, UTC))

    def _new_slot(self, cron_id: bytes) -> int:
        if self._free:
            slot = self._free.pop()
            self._ids[slot] = cron_id
        else:
            slot = len(self._ids)
            self._ids.append(cron_id)
            self._group_of.append(None)
            for column in (self._place_of, self._cursor, self._end, self._version, self._revision):
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

    def _queue(self, group: Group) -> None:
        if group.next is not None:
            heapq.heappush(group.partition.heap, (group.next, next(self._serial), group))
