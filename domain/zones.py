"""Zones of the pinned tzdata package: which offset holds when. The host's own files are never looked at."""

from bisect import bisect_right
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

import tzdata

from domain.errors import InvalidTimezone

CHUNK = 366 * 86_400
PROBE = 6 * 3600
"""Offsets are probed this often (seconds); no zone ever changed twice within six hours."""
MAX_LENGTH = 64
LATEST = 253_370_764_800  # 9999-01-01: what datetime can still express in every zone


class Zone:
    """Segments of constant offset, in order, found when they are asked for."""

    def __init__(self, name: str, info: ZoneInfo | None) -> None:
        self.name = name
        self._info = info  # None = UTC
        self._low = self._high = 0
        self.starts: list[int] = []  # first instant of each segment
        self.offsets: list[int] = []  # seconds east of UTC

    @property
    def info(self) -> tzinfo:
        """The zone for datetimes."""
        return self._info or UTC

    def segment(self, epoch: int) -> int:
        """Index of the segment that holds the instant."""
        if not self._low <= epoch < self._high:
            self._cover(epoch)
        return bisect_right(self.starts, epoch) - 1

    def end(self, index: int, beyond: int) -> int:
        """First instant after the segment; when none is known up to `beyond`, an instant after that."""
        while index + 1 >= len(self.starts):
            if self._high > beyond:
                return self._high
            if self._high >= LATEST:
                return LATEST + CHUNK
            self._extend_up()
        return self.starts[index + 1]

    def offset_at(self, epoch: int) -> int:
        """Seconds east of UTC at the instant."""
        index = self.segment(epoch)  # first: it may replace the list
        return self.offsets[index]

    def _cover(self, epoch: int) -> None:
        if not self.starts:
            # Two months back: what was shown before an overlap must be known.
            self._low = self._high = epoch - 60 * 86_400
            self.starts, self.offsets = [self._low], [self._probe(self._low)]
        while epoch >= self._high:
            self._extend_up()
        while epoch < self._low:
            self._extend_down()

    def _extend_up(self) -> None:
        until = self._high + CHUNK
        for start, offset in self._changes(self._high, until, self.offsets[-1]):
            self.starts.append(start)
            self.offsets.append(offset)
        self._high = until

    def _extend_down(self) -> None:
        low = self._low - CHUNK
        first = self._probe(low)
        found = self._changes(low, self._low, first)
        self.starts[0] = self._low
        known = list(zip(self.starts, self.offsets, strict=True))
        merged = [(low, first), *found]
        # The old first segment began where the table began, not where an offset changed.
        merged += known[1:] if merged[-1][1] == known[0][1] else known
        self.starts = [start for start, _ in merged]
        self.offsets = [offset for _, offset in merged]
        self._low = low

    def _changes(self, low: int, high: int, offset: int) -> list[tuple[int, int]]:
        if self._info is None:
            return []
        found: list[tuple[int, int]] = []
        before = low
        for instant in range(low + PROBE, high + PROBE, PROBE):
            here = self._probe(instant)
            if here != offset:
                start = self._first_with(before, instant, here)
                if start < high:
                    found.append((start, here))
                offset = here
            before = instant
        return found

    def _first_with(self, low: int, high: int, offset: int) -> int:
        while high - low > 1:
            middle = (low + high) // 2
            if self._probe(middle) == offset:
                high = middle
            else:
                low = middle
        return high

    def _probe(self, epoch: int) -> int:
        if self._info is None:
            return 0
        offset = datetime.fromtimestamp(min(epoch, LATEST), self._info).utcoffset()
        assert offset is not None
        return int(offset.total_seconds())


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    listed = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8")
    return frozenset(listed.split())


def is_known(name: str | None) -> bool:
    """Whether there are rules of that zone: what was one when a cron was made may be none in other rules."""
    return name is None or name in _names()


@lru_cache(maxsize=1024)
def zone(name: str | None) -> Zone:
    """The zone of that exact IANA name; None = UTC. Raises InvalidTimezone."""
    if name is None:
        return Zone("UTC", None)
    if not name or len(name) > MAX_LENGTH or name not in _names() or name == "Factory":
        shown = name[:MAX_LENGTH]
        raise InvalidTimezone(
            f"timezone: '{shown}' is not an IANA zone such as 'Europe/Berlin' (exact spelling; null = UTC)"
        )
    if name in ("UTC", "Etc/UTC"):
        return Zone(name, None)
    folder = resources.files("tzdata").joinpath("zoneinfo")
    with folder.joinpath(*name.split("/")).open("rb") as file:
        return Zone(name, ZoneInfo.from_file(file, key=name))


def tzdata_version() -> str:
    """Version of the rules in force, such as `2026f`."""
    return str(tzdata.IANA_VERSION)
