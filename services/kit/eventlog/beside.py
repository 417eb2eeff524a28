"""A place beside the process that owns an SQLite ledger: its bus, and its log by way of it."""

from collections.abc import Callable
from pathlib import Path

from contracts.codec import EventCodec
from contracts.subjects import log_append_subject
from services.kit.bus import Endpoint
from services.kit.bus.embedded import LARGEST, runtime_endpoint
from services.kit.bus.nats import NatsBus
from services.kit.eventlog import BadTransaction
from services.kit.eventlog.owner import LogNews
from services.kit.eventlog.remote import RemoteLog
from services.kit.lifecycle import Whole

APPEND_S = 10.0
REST = 64 << 10
MOST_BYTES = LARGEST - REST
"""Of one request to the owner; the rest is for what the bus adds."""


class Beside(Whole):
    """Bus and log of a data folder that another process owns."""

    def __init__(self, folder: Path, name: str, endpoint: Callable[[], Endpoint] | None = None) -> None:
        """`endpoint` is where the bus is when the owner has none in its folder."""
        self.bus = NatsBus(endpoint or (lambda: runtime_endpoint(folder / "nats")), name)
        self.log = RemoteLog(folder / "ledger.db", EventCodec(), self._append)
        super().__init__("beside", [self.bus, self.log, LogNews(self.log, self.bus)])

    async def _append(self, data: bytes) -> bytes:
        most = min(MOST_BYTES, self.bus.client.max_payload - REST)  # servers of others take less
        if len(data) > most:
            raise BadTransaction(f"{len(data)} bytes can't be sent to the ledger; {most} can")
        return await self.bus.request(log_append_subject(), data, APPEND_S)
