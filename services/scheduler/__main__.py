"""A scheduler of its own, beside the process that owns an SQLite ledger: `python -m services.scheduler DIR`.

Two schedulers on one log are harmless: the first run of an occurrence makes a second one impossible.
"""

import asyncio
import logging
import signal
import sys
from pathlib import Path

from services.kit.clock import SystemClock
from services.kit.eventlog.beside import beside_owner
from services.kit.settings import Settings
from services.kit.views import Views
from services.scheduler.scheduler import Scheduler


async def run(folder: Path) -> None:
    """Schedule until a signal comes."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    bus, log = await beside_owner(folder, "cronledger-scheduler")
    scheduler = Scheduler(log, Views(folder / "views.db"), SystemClock(), Settings.read())
    await scheduler.start()
    sys.stdout.write("scheduler is ready\n")
    sys.stdout.flush()
    await stopping.wait()
    await scheduler.stop()
    sys.stdout.write(f"fired {scheduler.counts.fired} duplicates {scheduler.counts.duplicates}\n")
    await bus.close()
    await log.close()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING")
    asyncio.run(run(Path(sys.argv[1])))
