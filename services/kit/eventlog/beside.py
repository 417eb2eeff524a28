"""A place beside the process that owns an SQLite ledger: its bus, and its log by way of it."""

from pathlib import Path

from contracts.codec import EventCodec
from contracts.subjects import log_append_subject, log_nudge_subject
from services.kit.bus import Msg
from services.kit.bus.embedded import runtime_endpoint
from services.kit.bus.nats import NatsBus
from services.kit.eventlog.remote import RemoteLog

APPEND_S = 10.0


async def beside_owner(folder: Path, name: str) -> tuple[NatsBus, RemoteLog]:
    """Bus and log of the data folder; whoever asks closes both, the bus first. Raises ConnectionError."""
    bus = await NatsBus.connect(runtime_endpoint(folder / "nats"), name)

    async def ask(data: bytes) -> bytes:
        return await bus.request(log_append_subject(), data, APPEND_S)

    log = RemoteLog(folder / "ledger.db", EventCodec(), ask)

    async def nudged(msg: Msg) -> None:
        log.nudged(int(msg.data))

    await bus.subscribe(log_nudge_subject(), nudged)
    return bus, log
