"""A worker of its own, beside the process that owns an SQLite ledger: `python -m services.worker DIR CONFIG`.

Workers share the queue; a run is claimed in the ledger, so that two of them never have it at once.
"""

import asyncio
import logging
import signal
import sys
from pathlib import Path
from uuid import uuid4

from services.kit.clock import SystemClock
from services.kit.eventlog.beside import beside_owner
from services.kit.project import load_project
from services.kit.settings import Settings
from services.worker.children import ChildPool
from services.worker.worker import Worker


async def run(folder: Path, config: Path) -> None:
    """Work until a signal comes."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    settings, project = Settings.read(), load_project(config, Path.cwd())
    bus, log = await beside_owner(folder, "cronledger-worker")
    children = ChildPool(settings, project, folder)
    await children.start()
    worker = Worker(log, bus, children, project, SystemClock(), settings, worker_id=f"w-{uuid4().hex[:12]}")
    await worker.start()
    sys.stdout.write(f"worker {worker.id} is ready, graphs run in {' '.join(map(str, children.pids))}\n")
    sys.stdout.flush()
    await stopping.wait()
    await worker.stop()
    await children.stop()
    await bus.close()
    await log.close()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING")
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2])))
