"""A worker of its own, beside the process that owns an SQLite ledger: `python -m services.worker DIR CONFIG`.

Workers share the queue; a run is claimed in the ledger, so that two of them never have it at once.
"""

import argparse
import asyncio
import logging
import sys
from pathlib import Path
from uuid import uuid4

from services.kit.clock import SystemClock
from services.kit.eventlog.beside import Beside
from services.kit.lifecycle import Whole
from services.kit.process import command, run
from services.kit.project import load_project
from services.kit.settings import Settings
from services.worker.children import ChildPool
from services.worker.worker import Worker


async def main(folder: Path, config: Path) -> None:
    """Work until a signal comes."""
    settings, project = Settings.read(), load_project(config, Path.cwd())
    beside, worker_id = Beside(folder, "cronledger-worker"), f"w-{uuid4().hex[:12]}"
    children = ChildPool(settings, project, folder)
    worker = Worker(beside.log, beside.bus, children, project, SystemClock(), settings, worker_id=worker_id)
    await run(
        Whole("working", [beside, children, worker]),
        lambda: f"worker {worker_id} is ready, graphs run in {' '.join(map(str, children.pids))}",
    )


if __name__ == "__main__":
    logging.basicConfig(level="WARNING")
    parser = argparse.ArgumentParser(prog="python -m services.worker")
    parser.add_argument("data", type=Path, help="the data folder of the server")
    parser.add_argument("config", type=Path, help="the project's langgraph.json")
    args = parser.parse_args()
    sys.exit(command(lambda: asyncio.run(main(args.data, args.config))))
