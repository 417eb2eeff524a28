"""A place beside the process that owns an SQLite ledger: its bus, and its log by way of it."""

from pathlib import Path

from contracts.codec import EventCodec
from contracts.subjects import log_append_subject
from services.kit.bus.embedded import LARGEST, runtime_endpoint
from services.kit.bus.nats import NatsBus
from services.kit.eventlog import BadTransaction
from services.kit.eventlog.owner import LogNews
from services.kit.eventlog.remote import RemoteLog
from services.kit.lifecycle import Whole

APPEND_S = 10.0
MOST_BYTES = LARGEST - (64 << 10)
"""Of one request to the owner; the rest is for what the bus adds."""


class Beside(Whole):
    """Bus and log of a data folder that another process owns."""

    def __init__(self, folder: Path, name: str) -> None:
        self.bus = NatsBus(lambda: runtime_endpoint(folder / "nats"), name)
        self.log = RemoteLog(folder / "ledger.db", EventCodec(), self._append)
        super().__init__("beside", [self.bus, self.log, LogNews(self.log, self.bus)])

    async def _append(self, data: bytes) -> bytes:
        if len(data) > MOST_BYTES:
            raise BadTransaction(f"{len(data)} bytes can't be sent to the ledger; {MOST_BYTES} can")
        return await self.bus.request(log_append_subject(), data, APPEND_S)
