"""A process that owns a ledger and nothing else: log, bus and read models, for schedulers beside it.

`python -m tests.faults.owner DIR`; it ends at SIGTERM.
"""

import asyncio
import signal
import sys
from pathlib import Path

from contracts.codec import EventCodec
from contracts.subjects import STREAMS, log_append_subject, log_nudge_subject
from services.kit.bus import Msg
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.nats import NatsBus, ensure_streams
from services.kit.eventlog.remote import serve_remote
from services.kit.eventlog.sqlite import SqliteLog
from services.projector.projector import Projector


async def run(folder: Path) -> None:
    """Own the ledger of that folder until a signal comes."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    nats = EmbeddedNats(folder / "nats")
    await nats.start()
    bus = await NatsBus.connect(nats.endpoint, "owner")
    await ensure_streams(bus, STREAMS)
    log = SqliteLog(folder / "ledger.db", EventCodec())
    await log.start()
    projector = Projector(log, folder / "views.db")
    await projector.start()
    serve, news = serve_remote(log), asyncio.Event()

    async def append(msg: Msg) -> None:
        await msg.respond(await serve(msg.data))

    async def announce() -> None:
        while True:
            await news.wait()
            news.clear()
            await bus.publish(log_nudge_subject(), str(log.head()).encode())

    log.on_commit(lambda _: news.set())
    await bus.subscribe(log_append_subject(), append)
    announcing = asyncio.create_task(announce())
    sys.stdout.write("owner is ready\n")
    sys.stdout.flush()
    await stopping.wait()
    announcing.cancel()
    await projector.stop()
    await bus.close()
    await log.close()
    await nats.stop()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
