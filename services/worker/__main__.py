"""A worker of its own, beside the process that owns an SQLite ledger: `python -m services.worker DIR CONFIG`.

Workers share the queue; a run is claimed in the ledger, so that two of them never have it at once.
"""

import asyncio
import logging
import signal
import sys
from pathlib import Path
from uuid import uuid4

from contracts.codec import EventCodec
from contracts.subjects import log_append_subject, log_nudge_subject
from services.kit.bus import Msg
from services.kit.bus.embedded import runtime_endpoint
from services.kit.bus.nats import NatsBus
from services.kit.clock import SystemClock
from services.kit.eventlog.remote import RemoteLog
from services.kit.project import load_project
from services.kit.settings import Settings
from services.worker.children import ChildPool, store_settings
from services.worker.worker import Worker

APPEND_S = 10.0


async def run(folder: Path, config: Path) -> None:
    """Work until a signal comes."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    settings, project = Settings.read(), load_project(config, Path.cwd())
    bus = await NatsBus.connect(runtime_endpoint(folder / "nats"), "cronledger-worker")

    async def ask(data: bytes) -> bytes:
        return await bus.request(log_append_subject(), data, APPEND_S)

    log = RemoteLog(folder / "ledger.db", EventCodec(), ask)

    async def nudged(msg: Msg) -> None:
        log.nudged(int(msg.data))

    await bus.subscribe(log_nudge_subject(), nudged)
    children = ChildPool(
        project,
        folder / "checkpoints.db",
        store_settings(folder / "store.db", project),
        settings.children,
        settings.runs_per_child,
        Path(settings.graph_python or sys.executable),
    )
    await children.start()
    worker = Worker(log, bus, children, project, SystemClock(), settings, worker_id=f"w-{uuid4().hex[:12]}")
    await worker.start()
    sys.stdout.write(f"worker is ready, graphs run in {' '.join(map(str, children.pids))}\n")
    sys.stdout.flush()
    await stopping.wait()
    await worker.stop()
    await children.stop()
    await bus.close()
    await log.close()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING")
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2])))
