"""A cluster of three nats-servers: streams on all of them, and whoever leads is killed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from contracts.frames import Emitted
from contracts.subjects import LEDGER, RUNEV, RUNS, STREAMS, StreamSpec, run_events_subject, run_queue_subject
from contracts.work import LiveBatch
from services.kit.bus import Outgoing
from services.kit.bus.external import ExternalNats, NatsUnfit, external
from services.kit.bus.nats import NatsBus
from services.kit.bus.ordered import OrderedPublisher
from services.kit.bus.pages import Pages
from services.kit.bus.streams import StreamDiffers, Streams, ensure_streams
from services.kit.bus.work import PullLoop, WorkQueue
from services.kit.settings import Settings
from services.worker.feed import Feeds, FeedSource
from services.worker.seen import Seen
from tests.nats import NatsCluster, until

_prefixes = count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """Three servers; each test has a prefix of its own on them, and starts again those that it kills."""
    made = NatsCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
async def servers(cluster: NatsCluster) -> AsyncIterator[ExternalNats]:
    """All of them, fit."""
    cluster.start()
    part = external(Settings(nats_url=cluster.url, nats_prefix=f"t{next(_prefixes)}"))
    assert part is not None
    await part.start()
    yield part
    await part.stop()


@pytest.fixture
async def bus(servers: ExternalNats) -> AsyncIterator[NatsBus]:
    """A connection to one of them, with the streams made."""
    connected = await NatsBus.connect(servers.endpoint, "test")
    await ensure_streams(connected, STREAMS, servers.replicas)
    yield connected
    for spec in STREAMS:
        await connected.api(f"STREAM.DELETE.{connected.js_stream(spec.name)}")
    await connected.stop()


async def leader_of(bus: NatsBus, name: str) -> str:
    info = await bus.api(f"STREAM.INFO.{bus.js_stream(name)}")
    return str(info["cluster"].get("leader", ""))


async def config_of(bus: NatsBus, name: str) -> dict[str, Any]:
    config: dict[str, Any] = (await bus.api(f"STREAM.INFO.{bus.js_stream(name)}"))["config"]
    return config


async def test_several_processes_make_the_streams_on_three_servers(servers: ExternalNats) -> None:
    buses = [await NatsBus.connect(servers.endpoint, f"process {n}") for n in range(4)]
    await asyncio.gather(*(ensure_streams(bus, STREAMS, servers.replicas) for bus in buses))
    for spec in STREAMS:
        assert (await config_of(buses[0], spec.name))["num_replicas"] == 3
        await buses[0].api(f"STREAM.DELETE.{buses[0].js_stream(spec.name)}")
    for bus in buses:
        await bus.stop()


async def test_replicas_are_raised_and_never_given_up(bus: NatsBus) -> None:
    await bus.api(f"STREAM.DELETE.{bus.js_stream(LEDGER.name)}")
    await ensure_streams(bus, [LEDGER], 1)
    await OrderedPublisher(bus, LEDGER.name, "ledger.>").publish([Outgoing(1, "ledger.a.b.c", b"kept")])
    await ensure_streams(bus, [LEDGER])  # the default, of a server that is alone
    assert (await config_of(bus, LEDGER.name))["num_replicas"] == 1
    await ensure_streams(bus, [LEDGER], 0)
    assert (await config_of(bus, LEDGER.name))["num_replicas"] == 3
    publisher = OrderedPublisher(bus, LEDGER.name, "ledger.>")

    async def is_kept() -> bool:
        return await publisher.resync() == (1, 1)

    await until(is_kept)
    with pytest.raises(StreamDiffers, match="has 3 replicas, and CRONLEDGER_NATS_REPLICAS=1"):
        await ensure_streams(bus, [LEDGER], 1)
    with pytest.raises(StreamDiffers, match=r"no room for 5 replicas.*CRONLEDGER_NATS_REPLICAS"):
        await ensure_streams(bus, [LEDGER], 5)


async def led_by_one(bus: NatsBus) -> str:
    """The name of a server, which leads all the streams from now on."""
    name = await leader_of(bus, LEDGER.name)
    for spec in (RUNS, RUNEV):

        async def is_led(spec: StreamSpec = spec) -> bool:
            if await leader_of(bus, spec.name) == name:
                return True
            call = f"STREAM.LEADER.STEPDOWN.{bus.js_stream(spec.name)}"
            await bus.api(call, {"placement": {"preferred": name}})
            return False

        await until(is_led)
    return name


async def test_nothing_is_lost_when_the_leader_of_all_streams_dies(
    cluster: NatsCluster, servers: ExternalNats, bus: NatsBus
) -> None:
    streams = Streams(bus, STREAMS, 0)
    await streams.start()
    leader = await led_by_one(bus)
    # What a worker streams goes without an answer, so one that keeps its connection hears nothing of the death.
    other = next(node.url for node in cluster.nodes if node.name != leader)
    beside = await NatsBus.connect(msgspec.structs.replace(servers.endpoint, servers=(other,)), "beside")
    going_on = [asyncio.create_task(doing) for doing in (worked(bus), told(bus), streamed(beside))]
    await asyncio.sleep(0.5)
    assert not any(task.done() for task in going_on)
    cluster.node(leader).kill()
    async with asyncio.timeout(60):
        await asyncio.gather(*going_on)
    assert not streams.parts[0].failing
    assert beside.client.stats["reconnects"] == 0
    await beside.stop()
    await streams.stop()


async def worked(bus: NatsBus) -> None:
    """Work is put and done by two workers; none of it is lost."""
    queue, done, total = WorkQueue(bus, RUNS.name), set[bytes](), 60
    subject = run_queue_subject("default", "normal")
    loops = [PullLoop(bus, RUNS.name, "w_default_normal", subject, 2, 2.0) for _ in range(2)]

    async def work(loop: PullLoop) -> None:
        while True:
            delivery = await loop.next()
            done.add(delivery.data)
            await delivery.ack_sync()

    for loop in loops:
        await loop.start()
    working = [asyncio.create_task(work(loop)) for loop in loops]
    for n in range(total):
        item = run_queue_subject("default", "normal", UUID(int=n))

        async def is_put(item: str = item, n: int = n) -> bool:
            await queue.put(item, str(n).encode())
            return True

        await until(is_put)
        await asyncio.sleep(0.02)

    async def is_over() -> bool:
        info = await bus.api(f"STREAM.INFO.{bus.js_stream(RUNS.name)}")
        return int(info["state"]["messages"]) == 0 and not any(loop.failing for loop in loops)

    await until(is_over)
    assert done == {str(n).encode() for n in range(total)}
    for task in working:
        task.cancel()
    for loop in loops:
        await loop.stop()


async def told(bus: NatsBus) -> None:
    """The ledger is published in order, each event once."""
    publisher, last, position = OrderedPublisher(bus, LEDGER.name, "ledger.>"), 1_500, 0
    while position < last:
        batch = [Outgoing(n, f"ledger.run.done.{n}", b"") for n in range(position + 1, position + 51)]
        try:
            if await publisher.publish(batch):
                position = batch[-1].position
                await asyncio.sleep(0.05)
                continue
        except (ConnectionError, TimeoutError):
            await asyncio.sleep(0.1)

        async def is_known() -> bool:
            nonlocal position
            position, _ = await publisher.resync()
            return True

        await until(is_known)

    async def is_whole() -> bool:
        state = (await bus.api(f"STREAM.INFO.{bus.js_stream(LEDGER.name)}"))["state"]
        return bool(state["messages"] == state["last_seq"] == last)

    await until(is_whole)


async def streamed(bus: NatsBus) -> None:
    """What a run emits is in the stream, though its sender never loses its connection."""
    feeds, run_id, total = Feeds(bus), uuid4(), 300
    await feeds.start()
    feed = feeds.open(FeedSource(run_id=run_id, attempt=1, began_ms=1, began_at=1, seen=Seen()))
    for n in range(total):
        feed.emit(Emitted(run_id=str(run_id), seq=0, event="custom", data=msgspec.Raw(str(n).encode())))
        await feed.flushed()
        await asyncio.sleep(0.01)

    async def is_whole() -> bool:
        found = set[int]()
        async for value in Pages(bus, RUNEV.name, run_events_subject(run_id)).rest():
            found |= {event.seq for event in msgspec.json.decode(value.data, type=LiveBatch).events}
        return found == set(range(1, total + 2))  # one tells that the attempt began

    await until(is_whole)
    await feeds.stop()


# --- a first start without all of them ---------------------------------------------------------------


@pytest.fixture
def young(tmp_path: Path) -> Iterator[NatsCluster]:
    """Servers that have never met."""
    made = NatsCluster(tmp_path)
    yield made
    made.stop()


async def test_two_of_three_are_enough_and_the_third_gets_its_part(
    young: NatsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.bus.streams.PEERS_S", 0.5)
    monkeypatch.setattr("services.kit.bus.streams.SPREAD_S", 0.5)
    young.start("n0", "n1")
    part = external(Settings(nats_url=young.url))
    assert part is not None
    bus = await NatsBus.connect(await part.start(), "test")
    streams = Streams(bus, STREAMS, part.replicas)
    await streams.start()
    assert streams.notice == "on fewer servers than they should be, for now: LEDGER, RUNS, RUNEV"
    assert [(await config_of(bus, spec.name))["num_replicas"] for spec in STREAMS] == [2, 2, 2]
    publisher = OrderedPublisher(bus, LEDGER.name, "ledger.>")
    assert await publisher.publish([Outgoing(1, "ledger.a.b.c", b"kept")])
    young.start()

    async def is_spread() -> bool:
        replicas = [(await config_of(bus, spec.name))["num_replicas"] for spec in STREAMS]
        return replicas == [3, 3, 3] and not streams.notice and not streams.parts[0].failing

    await until(is_spread)
    assert await OrderedPublisher(bus, LEDGER.name, "ledger.>").resync() == (1, 1)
    await streams.stop()
    await bus.stop()


async def test_one_of_three_is_told_of(young: NatsCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.bus.external.API_S", 1.0)
    young.start("n0")
    part = external(Settings(nats_url=young.url))
    assert part is not None
    with pytest.raises(NatsUnfit, match="more than half of the servers must be there"):
        await part.start()
