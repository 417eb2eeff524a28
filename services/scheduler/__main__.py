"""A scheduler of its own, beside the process that owns an SQLite ledger: `python -m services.scheduler DIR`.

Two schedulers on one log are harmless: the first run of an occurrence makes a second one impossible.
"""

import asyncio
import logging
import signal
import sys
from pathlib import Path

from contracts.codec import EventCodec
from contracts.subjects import log_append_subject, log_nudge_subject
from services.kit.bus import Msg
from services.kit.bus.embedded import runtime_endpoint
from services.kit.bus.nats import NatsBus
from services.kit.clock import SystemClock
from services.kit.eventlog.remote import RemoteLog
from services.kit.settings import Settings
from services.kit.views import Views
from services.scheduler.scheduler import Scheduler

APPEND_S = 10.0


async def run(folder: Path) -> None:
    """Schedule until a signal comes."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    bus = await NatsBus.connect(runtime_endpoint(folder / "nats"), "cronledger-scheduler")

    async def ask(data: bytes) -> bytes:
        return await bus.request(log_append_subject(), data, APPEND_S)

    log = RemoteLog(folder / "ledger.db", EventCodec(), ask)

    async def nudged(msg: Msg) -> None:
        log.nudged(int(msg.data))

    await bus.subscribe(log_nudge_subject(), nudged)
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
