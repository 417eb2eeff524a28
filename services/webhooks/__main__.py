"""A sender of webhooks of its own, beside the process that owns an SQLite ledger: `python -m services.webhooks DIR`.

Of several senders one posts, and another one takes over when it has ended.
"""

import argparse
import asyncio
import logging
import sys
from importlib.metadata import version
from pathlib import Path

from services.kit.clock import SystemClock
from services.kit.eventlog.beside import Beside
from services.kit.lifecycle import Whole
from services.kit.process import command, run
from services.kit.project import load_project
from services.kit.settings import Settings
from services.kit.views import Views
from services.webhooks.sender import Sender


async def main(folder: Path, config: Path | None) -> None:
    """Send until a signal comes."""
    beside, views = Beside(folder, "cronledger-webhooks"), Views(folder / "views.db")
    webhooks = load_project(config, Path.cwd()).webhooks
    sender = Sender(beside.log, views, SystemClock(), Settings.read(), webhooks, version("cronledger"))
    try:
        await run(Whole("telling", [beside, sender]), lambda: "sender of webhooks is ready")
    finally:
        views.close()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING")
    parser = argparse.ArgumentParser(prog="python -m services.webhooks")
    parser.add_argument("data", type=Path, help="the data folder of the server")
    parser.add_argument(
        "--config", type=Path, help="langgraph.json or aegra.json; found in this folder by default"
    )
    args = parser.parse_args()
    sys.exit(command(lambda: asyncio.run(main(args.data, args.config))))
