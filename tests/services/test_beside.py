"""The log of a process beside the owner of the ledger, over a real nats-server."""

from pathlib import Path

import pytest

from contracts.codec import EventCodec, pack
from contracts.events import ThreadCreated
from contracts.ledger import Append, Blob, Meta, Transaction
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.nats import NatsBus
from services.kit.clock import SystemClock
from services.kit.eventlog import BadTransaction
from services.kit.eventlog.beside import MOST_BYTES, Beside
from services.kit.eventlog.owner import LogOwner
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.ids import uuid7


def large(size: int) -> tuple[Transaction, Blob]:
    _, [blob] = pack("x" * size)
    meta = Meta(at=SystemClock().now(), actor="test")
    return Transaction(
        meta=meta, appends=(Append(uuid7(), 0, (ThreadCreated(user_id="u"),)),), blobs=(blob,)
    ), blob


async def test_large_values_are_stored_or_refused_for_good(
    nats: EmbeddedNats, bus: NatsBus, tmp_path: Path
) -> None:
    log = SqliteLog(tmp_path / "ledger.db", EventCodec())
    owner, beside = LogOwner(log, bus), Beside(tmp_path, "test")
    for part in (log, owner, beside):
        await part.start()
    transaction, blob = large(10_000_000)
    assert await beside.log.append(transaction) == log.head() == 1
    assert beside.log.blob(blob.sha256) == blob.data
    with pytest.raises(BadTransaction):
        await beside.log.append(large(MOST_BYTES)[0])
    assert log.head() == 1
    for part in (beside, owner, log):
        await part.stop()
