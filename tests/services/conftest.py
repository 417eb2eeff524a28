"""What tests of several services begin with: a real nats-server and a connection to it, a log with schedulers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.subjects import STREAMS
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.nats import NatsBus
from services.kit.bus.streams import ensure_streams
from tests.services.schedulers import Bench


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    """The bundled server in a folder of its own."""
    server = EmbeddedNats(tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def bus(nats: EmbeddedNats) -> AsyncIterator[NatsBus]:
    """A connection to it, with the streams made."""
    connected = await NatsBus.connect(nats.endpoint, "test")
    await ensure_streams(connected, STREAMS)
    yield connected
    await connected.stop()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A log with its read models, on which schedulers begin; files about something else have a bench of their own."""
    made = Bench(tmp_path)
    await made.open()
    yield made
    await made.close()
