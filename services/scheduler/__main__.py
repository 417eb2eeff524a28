"""A scheduler of its own, beside the process that owns an SQLite ledger: `python -m services.scheduler DIR`.

Two schedulers on one log are harmless: the first run of an occurrence makes a second one impossible.
"""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from services.kit.clock import SystemClock
from services.kit.eventlog.beside import Beside
from services.kit.lifecycle import Whole
from services.kit.process import command, run
from services.kit.settings import Settings
from services.kit.views import Views
from services.scheduler.scheduler import Scheduler


async def main(folder: Path) -> None:
    """Schedule until a signal comes."""
    beside, views = Beside(folder, "cronledger-scheduler"), Views(folder / "views.db")
    scheduler = Scheduler(beside.log, views, SystemClock(), Settings.read())
    try:
        await run(Whole("scheduling", [beside, scheduler]), lambda: "scheduler is ready")
    finally:
        views.close()
    sys.stdout.write(f"fired {scheduler.counts.fired} duplicates {scheduler.counts.duplicates}\n")


if __name__ == "__main__":
    logging.basicConfig(level="WARNING")
    parser = argparse.ArgumentParser(prog="python -m services.scheduler")
    parser.add_argument("data", type=Path, help="the data folder of the server")
    args = parser.parse_args()
    sys.exit(command(lambda: asyncio.run(main(args.data))))
