"""A service whose wall clock is beside the host's, as a file says: `python -m tests.faults.skewed FILE gateway ...`."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from services.__main__ import main
from services.kit.clock import SystemClock


def skew(file: Path) -> None:
    """From now on the file's number is added to the wall clock, seconds; without the file nothing is."""

    def ahead_s() -> float:
        try:
            return float(file.read_text() or 0)
        except FileNotFoundError:
            return 0.0

    def wall_s(self: SystemClock) -> float:
        return time.time() + ahead_s()

    SystemClock.wall_s = wall_s  # type: ignore[method-assign]
    SystemClock.now = lambda self: datetime.fromtimestamp(self.wall_s(), UTC)  # type: ignore[method-assign]


if __name__ == "__main__":
    skew(Path(sys.argv.pop(1)))
    sys.exit(main())
