"""A process that owns a ledger and nothing else: log, bus and read models, for schedulers beside it.

`python -m tests.faults.owner DIR`; it ends at SIGTERM.
"""

import asyncio
import sys
from pathlib import Path

from contracts.codec import EventCodec
from contracts.subjects import STREAMS
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.nats import NatsBus
from services.kit.bus.streams import Streams
from services.kit.eventlog.owner import LogOwner
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.lifecycle import Part, Whole
from services.kit.process import run
from services.projector.projector import Projector


async def main(folder: Path) -> None:
    """Own the ledger of that folder until a signal comes."""
    nats = EmbeddedNats(folder / "nats")
    bus = NatsBus(lambda: nats.endpoint, "owner")
    log = SqliteLog(folder / "ledger.db", EventCodec())
    projector = Projector(log, folder / "views.db")
    parts: list[Part] = [nats, bus, Streams(bus, STREAMS), log, LogOwner(log, bus), projector]
    await run(Whole("owner", parts), lambda: "owner is ready")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
