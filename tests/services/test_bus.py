"""The bus on a real nats-server: started, shared, killed, resumed."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from nats.aio.msg import Msg as NatsMsg

from contracts.subjects import LEDGER, RUNEV, RUNS, STREAMS, StreamSpec, run_queue_subject, token
from services.kit.bus import Endpoint, Login, NoResponders, Outgoing, RequestTimeout
from services.kit.bus.embedded import EmbeddedNats, runtime_endpoint
from services.kit.bus.nats import NatsBus
from services.kit.bus.ordered import OrderedPublisher
from services.kit.bus.streams import StreamDiffers, Streams, ensure_streams
from services.kit.bus.work import EXPIRES_S, LEAST_EXPIRES_S, PullLoop, WorkQueue, void_deliveries


def messages(first: int, last: int) -> list[Outgoing]:
    return [Outgoing(n, f"ledger.run.done.{n}", str(n).encode()) for n in range(first, last + 1)]


class Prefixed(EmbeddedNats):
    """A server that is said to be shared, so that every name of ours has a prefix."""

    @property
    def endpoint(self) -> Endpoint:
        return msgspec.structs.replace(super().endpoint, prefix="inst")


@pytest.fixture(params=[EmbeddedNats, Prefixed])
async def nats(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    """The bundled server in a folder of its own: all is the same with a prefix and without."""
    server: EmbeddedNats = request.param(tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()


async def kill(nats: EmbeddedNats) -> None:
    assert nats.pid is not None
    os.kill(nats.pid, signal.SIGKILL)
    await asyncio.sleep(0.3)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_requests(bus: NatsBus) -> None:
    async def double(msg: object) -> None:
        await msg.respond(2 * msg.data)  # type: ignore[attr-defined]

    async def silent(_: object) -> None:
        return

    await bus.subscribe("double", double)
    await bus.subscribe("silent", silent)
    assert await bus.request("double", b"ab", 2) == b"abab"
    with pytest.raises(NoResponders):
        await bus.request("nobody", b"", 2)
    with pytest.raises(RequestTimeout):
        await bus.request("silent", b"", 0.1)


async def test_wrong_token_is_refused(nats: EmbeddedNats) -> None:
    with pytest.raises(ConnectionError):
        await NatsBus.connect(Endpoint(nats.endpoint.servers, Login("wrong")), "thief")


async def test_second_server_on_the_folder_attaches(nats: EmbeddedNats, tmp_path: Path) -> None:
    second = EmbeddedNats(tmp_path / "nats")
    assert (await second.start()).servers == nats.endpoint.servers
    assert (nats.owned, second.owned) == (True, False)
    await second.stop()
    await (await NatsBus.connect(nats.endpoint, "still there")).stop()
    assert (tmp_path / "nats" / "runtime.json").stat().st_mode & 0o077 == 0


async def test_killed_server_comes_back_on_the_same_port(nats: EmbeddedNats, bus: NatsBus) -> None:
    before = nats.endpoint
    await kill(nats)
    async with asyncio.timeout(10):
        while not bus.connected:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert nats.endpoint == before


async def test_connection_follows_a_server_to_another_port(tmp_path: Path) -> None:
    folder, told, asked = tmp_path / "nats", 0, 0
    first = EmbeddedNats(folder)
    await first.start()

    def endpoint() -> Endpoint:
        nonlocal asked
        asked += 1
        return runtime_endpoint(folder)

    bus = NatsBus(endpoint, "test")
    await bus.start()

    async def count(_: object) -> None:
        nonlocal told
        told += 1

    await bus.subscribe("hello", count)
    await first.stop()
    await until(lambda: bus.failing == "not connected to NATS")
    # As when somebody else has taken the port meanwhile.
    told_by = json.loads((folder / "runtime.json").read_text())
    (folder / "runtime.json").write_text(json.dumps({**told_by, "url": "nats://127.0.0.1:-1"}))
    before = asked
    await until(lambda: asked > before + 2)  # what is no address does not end the attempts
    second = EmbeddedNats(folder)
    await second.start()
    assert second.endpoint.url != told_by["url"]
    await until(lambda: bus.connected)
    assert bus.failing == ""
    await bus.publish("hello", b"")
    await until(lambda: told == 1)
    await bus.stop()
    await second.stop()


async def test_server_that_lost_its_folder_gets_its_streams_again(
    nats: EmbeddedNats, bus: NatsBus, tmp_path: Path
) -> None:
    streams = Streams(bus, STREAMS)
    await streams.start()
    shutil.rmtree(tmp_path / "nats" / "js")
    await kill(nats)

    async def are_there() -> bool:
        try:
            answers = [await bus.api(f"STREAM.INFO.{bus.js_stream(spec.name)}") for spec in STREAMS]
        except (ConnectionError, TimeoutError):
            return False
        return not any("error" in answer for answer in answers)

    async with asyncio.timeout(20):
        while not await are_there():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await streams.stop()


async def test_server_that_dies_again_and_again_has_ended_and_says_so(nats: EmbeddedNats) -> None:
    for _ in range(4):
        pid = nats.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: not nats.started or (nats.pid != pid and not nats.failing))  # type: ignore[misc]
    assert not nats.started
    assert "died 4 times in a minute" in nats.failing


async def test_who_has_stopped_is_not_called_back(nats: EmbeddedNats, bus: NatsBus) -> None:
    called: list[str] = []
    stop = bus.on_reconnect(lambda: called.append("gone"))
    bus.on_reconnect(lambda: called.append("there"))
    stop()
    stop()
    await kill(nats)
    await until(lambda: bool(called))
    assert called == ["there"]


async def test_streams_are_ensured_and_never_changed_in_kind(bus: NatsBus) -> None:
    await ensure_streams(bus, STREAMS)
    with pytest.raises(StreamDiffers, match="storage"):
        await ensure_streams(bus, [StreamSpec(name=LEDGER.name, subjects=LEDGER.subjects, storage="memory")])


async def test_stream_that_nobody_misses_is_made_anew_in_another_kind(bus: NatsBus) -> None:
    other = StreamSpec(name=RUNEV.name, subjects=RUNEV.subjects, storage="memory", is_passing=True)
    await bus.publish("runs.x.ev", b"old")
    for spec in (other, RUNEV):
        await ensure_streams(bus, [spec])
        info = await bus.api(f"STREAM.INFO.{bus.js_stream(RUNEV.name)}")
        assert info["config"]["storage"] == spec.storage
        assert info["state"]["messages"] == 0


async def test_streams_are_as_they_should_be_after_a_restart_too(nats: EmbeddedNats, bus: NatsBus) -> None:
    for _ in range(2):
        await ensure_streams(bus, STREAMS)
        for spec in STREAMS:
            config = (await bus.api(f"STREAM.INFO.{bus.js_stream(spec.name)}"))["config"]
            assert config["subjects"] == [bus.subject(subject) for subject in spec.subjects]
            assert (config["storage"], config["retention"]) == (spec.storage, spec.retention)
            assert config["max_bytes"] == spec.max_bytes
            assert config.get("persist_mode", "") == ("async" if spec.persist_async else "")
        await kill(nats)


class Restless(NatsBus):
    """A connection that is lost and back once more while the streams are looked after."""

    looks = 0

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.back = callback
        return super().on_reconnect(callback)

    async def api(self, call: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = await super().api(call, body)
        self.looks += 1
        if self.looks == 2:
            self.back()
        return answer


async def test_streams_are_looked_after_once_more_when_the_server_was_away_meanwhile(
    nats: EmbeddedNats, bus: NatsBus
) -> None:
    restless = Restless(lambda: nats.endpoint, "restless")
    await restless.start()
    streams = Streams(restless, [RUNEV])
    await streams.start()
    restless.back()
    await until(lambda: restless.looks == 3)
    await streams.stop()
    await restless.stop()


async def test_two_publishers_put_each_message_once_and_in_order(nats: EmbeddedNats, bus: NatsBus) -> None:
    last = 2_000

    async def publish() -> None:
        publisher = OrderedPublisher(bus, LEDGER.name, "ledger.>")
        position, _ = await publisher.resync()
        while position < last:
            batch = messages(position + 1, min(last, position + 150))
            try:
                done = await publisher.publish(batch)
            except (ConnectionError, TimeoutError):
                done = False
            if done:
                position = batch[-1].position
                continue
            await asyncio.sleep(0.05)
            try:
                position, _ = await publisher.resync()
            except (ConnectionError, TimeoutError):
                continue

    async with asyncio.timeout(60):
        racing = [asyncio.create_task(publish()) for _ in range(2)]
        await asyncio.sleep(0.1)
        await kill(nats)
        await asyncio.gather(*racing)
    found = []
    for sequence in range(1, last + 1):
        answer = await bus.request(
            f"$JS.API.DIRECT.GET.{bus.js_stream(LEDGER.name)}", b'{"seq": %d}' % sequence, 5
        )
        found.append(int(answer))
    assert found == list(range(1, last + 1))
    assert (await bus.api(f"STREAM.INFO.{bus.js_stream(LEDGER.name)}"))["state"]["messages"] == last


class Forgetful(NatsBus):
    """A connection that is lost in the middle of a look at a stream."""

    async def api(self, call: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if call.startswith("STREAM.MSG.GET"):
            raise ConnectionError("lost meanwhile")
        return await super().api(call, body)


async def test_half_a_look_at_the_stream_lets_nothing_stale_through(nats: EmbeddedNats, bus: NatsBus) -> None:
    assert await OrderedPublisher(bus, LEDGER.name, "ledger.>").publish(messages(1, 2))
    forgetful = Forgetful(lambda: nats.endpoint, "forgetful")
    await forgetful.start()
    publisher = OrderedPublisher(forgetful, LEDGER.name, "ledger.>")
    with pytest.raises(ConnectionError, match="lost meanwhile"):
        await publisher.resync()
    assert not await publisher.publish(messages(1, 2))
    await forgetful.stop()


RUN_IDS = [UUID(int=n) for n in range(5)]


def work(n: int) -> tuple[str, bytes]:
    return run_queue_subject("default", "normal", RUN_IDS[n]), str(n).encode()


def pull_loop(bus: NatsBus, slots: int = 2, ack_wait_s: float = 1) -> PullLoop:
    every = run_queue_subject("default", "normal")
    return PullLoop(bus, RUNS.name, "w_default_normal", every, slots, ack_wait_s)


async def test_work_is_pulled_by_slots_and_resumes_after_a_kill(nats: EmbeddedNats, bus: NatsBus) -> None:
    queue, loop = WorkQueue(bus, RUNS.name), pull_loop(bus)
    await loop.start()
    for n in range(4):
        assert await queue.put(*work(n))
    held = [await loop.next(), await loop.next()]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await loop.next()  # both slots are taken
    for delivery in held:
        assert await delivery.ack_sync()
    rest = [await loop.next(), await loop.next()]
    await rest[0].nak()
    again = await loop.next()
    assert (again.data, again.num_delivered) == (rest[0].data, 2)
    await again.ack_sync()
    await rest[1].ack_sync()
    await kill(nats)
    async with asyncio.timeout(15):
        while True:
            try:
                await queue.put(*work(4))
                break
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(0.05)
        delivery = await loop.next()
    assert delivery.data == b"4"
    await delivery.ack()
    await loop.stop()


async def test_who_stands_still_asks_for_no_longer_than_a_message_waits(
    bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise what comes back from one that is stopped would go to it again, until its request is over."""
    asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    publish = bus.publish

    async def overheard(subject: str, data: bytes, *args: Any, **given: Any) -> None:
        if ".MSG.NEXT." in subject:
            asked.put_nowait(json.loads(data))
        await publish(subject, data, *args, **given)

    monkeypatch.setattr(bus, "publish", overheard)
    for ack_wait_s, expires_s in ((1, LEAST_EXPIRES_S), (10, 10), (3600, EXPIRES_S)):
        loop = pull_loop(bus, ack_wait_s=ack_wait_s)
        await loop.start()
        async with asyncio.timeout(30):
            assert (await asked.get())["expires"] == expires_s * 1e9
        await loop.stop()
        while not asked.empty():
            asked.get_nowait()


async def test_what_is_no_work_takes_no_slot(bus: NatsBus) -> None:
    queue, loop, inboxes = WorkQueue(bus, RUNS.name), pull_loop(bus, slots=1), asyncio.Queue[str]()

    async def on_request(msg: NatsMsg) -> None:
        inboxes.put_nowait(msg.reply)

    await bus.client.subscribe(
        f"$JS.API.CONSUMER.MSG.NEXT.{bus.js_stream(RUNS.name)}.w_default_normal", cb=on_request
    )
    await loop.start()
    async with asyncio.timeout(10):
        await bus.publish(await inboxes.get(), b"stray")
        for n in range(3):
            assert await queue.put(*work(n))
            await (await loop.next()).ack()
    await loop.stop()


async def test_work_is_put_once_until_it_is_done(bus: NatsBus) -> None:
    queue, loop = WorkQueue(bus, RUNS.name), pull_loop(bus)
    assert [await queue.put(*work(1)) for _ in range(3)] == [True, False, False]
    await loop.start()
    delivery = await loop.next()
    assert not await queue.put(*work(1))  # somebody is at it
    assert await delivery.ack_sync()
    assert await queue.put(*work(1))  # at once: no window of ids swallows it
    await loop.stop()


async def test_work_that_is_refused_is_no_work_that_is_there(bus: NatsBus) -> None:
    config = (await bus.api(f"STREAM.INFO.{bus.js_stream(RUNS.name)}"))["config"]
    await bus.api(f"STREAM.UPDATE.{bus.js_stream(RUNS.name)}", {**config, "max_msgs": 1})
    queue = WorkQueue(bus, RUNS.name)
    assert await queue.put(*work(1))
    with pytest.raises(ConnectionError, match="maximum messages exceeded"):
        await queue.put(*work(2))
    assert not await queue.put(*work(1))


async def test_what_the_dead_had_comes_at_once(bus: NatsBus) -> None:
    queue, dead = WorkQueue(bus, RUNS.name), pull_loop(bus, ack_wait_s=600)
    await queue.put(*work(1))
    await dead.start()
    await dead.next()
    await dead.stop()
    await void_deliveries(bus, RUNS.name)
    living = pull_loop(bus, ack_wait_s=600)
    await living.start()
    async with asyncio.timeout(10):
        delivery = await living.next()
    assert delivery.data == b"1"
    assert await delivery.ack_sync()
    await living.stop()


async def test_a_consumer_that_is_lost_is_made_again(bus: NatsBus) -> None:
    loop = pull_loop(bus)
    await loop.start()
    await asyncio.sleep(0.1)  # let it ask
    await void_deliveries(bus, RUNS.name)
    await WorkQueue(bus, RUNS.name).put(*work(1))
    async with asyncio.timeout(10):
        assert (await loop.next()).data == b"1"
    await loop.stop()


async def test_a_stream_that_is_lost_fails_the_pull_and_is_found_again(bus: NatsBus) -> None:
    loop = pull_loop(bus)
    await loop.start()
    await bus.api(f"STREAM.DELETE.{bus.js_stream(RUNS.name)}")
    async with asyncio.timeout(20):
        while not loop.failing:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await ensure_streams(bus, STREAMS)
        await WorkQueue(bus, RUNS.name).put(*work(1))
        assert (await loop.next()).data == b"1"
    await loop.stop()


async def test_a_refusal_of_the_stream_is_an_error(bus: NatsBus) -> None:
    publisher = OrderedPublisher(bus, LEDGER.name, "ledger.>")
    await publisher.resync()
    assert await publisher.publish(messages(1, 2))
    other = OrderedPublisher(bus, LEDGER.name, "ledger.>")
    assert not await other.publish(messages(1, 2))  # somebody else did: look again
    large = Outgoing(3, "ledger.run.done.3", b"x" * 5000)
    await _limit(bus, 1000)
    for batch in ([large], [large, large]):
        with pytest.raises(ConnectionError, match="size exceeds"):
            await publisher.publish(batch)
    await _limit(bus, -1)
    assert await publisher.publish([large])


async def _limit(bus: NatsBus, most_bytes: int) -> None:
    """Let the stream refuse larger messages: that stands for a full store, a seal, a lost quorum."""
    config = (await bus.api(f"STREAM.INFO.{bus.js_stream(LEDGER.name)}"))["config"]
    answer = await bus.api(
        f"STREAM.UPDATE.{bus.js_stream(LEDGER.name)}", {**config, "max_msg_size": most_bytes}
    )
    assert "error" not in answer, answer


@pytest.mark.parametrize("text", ["", "a.b", "a b", "*", ">"])
def test_only_safe_tokens_stand_in_a_subject(text: str) -> None:
    with pytest.raises(ValueError, match="subject"):
        token(text)
