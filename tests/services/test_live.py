"""Streams of runs over HTTP: a real log, real read models, a real bus, a real server; the test is the worker."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import httpx
import msgspec
import pytest

from contracts.frames import Emitted
from contracts.subjects import RUNEV, run_events_subject
from contracts.work import LiveBatch, LiveEvent
from services.gateway.streams import answer, channel, cursor, frames
from services.gateway.streams.channel import BEGINNING, Batch
from services.gateway.streams.cursor import Cursor, Ended, Events, Gap, Step
from services.gateway.streams.frames import EventChoice
from services.kit.bus import pages
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.large import parts_of
from services.kit.bus.nats import NatsBus
from services.kit.bus.pages import Pages
from services.worker import feed as feeds
from services.worker.feed import Feed, Feeds, FeedSource
from tests.services.live_bench import BEGAN, LiveBench, emitted, live_bench, names, stored


@pytest.fixture
async def bench(tmp_path: Path, bus: NatsBus) -> AsyncIterator[LiveBench]:
    async with live_bench(tmp_path, bus) as made:
        yield made


# --- the stream of a new run --------------------------------------------------------------------------


async def test_stream_from_birth_to_end(bench: LiveBench) -> None:
    thread_id = await bench.thread()
    body = {"assistant_id": "agent", "stream_resumable": True}
    async with bench.stream(f"/threads/{thread_id}/runs/stream", json=body) as frames:
        headers = frames.answer.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
        path = headers["content-location"]
        assert path.startswith(f"/threads/{thread_id}/runs/")
        assert headers["location"] == path + "/stream"
        run_id = UUID(path.rpartition("/")[2])
        feed = await bench.claim(run_id)
        assert await frames.next() == ("metadata", {"run_id": str(run_id), "attempt": 1}, f"{BEGAN}-1")
        feed.emit(emitted(run_id, 1))
        assert await frames.next() == ("values", {"n": 1}, f"{BEGAN}-2")
        await bench.settle(run_id, feed, {"n": 1})
        assert await frames.next() == ("end", {"status": "success"}, None)
        assert (await bench.http.get(path)).json()["status"] == "success"
        assert await frames.rest() == []
    await bench.watched(0)


async def test_frames_byte_for_byte(bench: LiveBench) -> None:
    thread_id = await bench.thread()
    async with bench.http.stream(
        "POST", f"/threads/{thread_id}/runs/stream", json={"assistant_id": "agent"}
    ) as answer:
        run_id = UUID(answer.headers["content-location"].rpartition("/")[2])
        feed = await bench.claim(run_id)
        feed.emit(emitted(run_id, 1, "values|child:7"))
        await feed.flushed()
        await bench.settle(run_id, feed)
        text = (await answer.aread()).decode()
    assert text == (
        f'event: metadata\r\ndata: {{"run_id":"{run_id}","attempt":1}}\r\n\r\n'
        'event: values|child:7\r\ndata: {"n":1}\r\n\r\n'
        'event: end\r\ndata: {"status":"success"}\r\n\r\n'
    )


async def test_error_is_the_last_frame(bench: LiveBench) -> None:
    thread_id = await bench.thread()
    async with bench.stream(f"/threads/{thread_id}/runs/stream", json={"assistant_id": "agent"}) as frames:
        run_id = UUID(frames.answer.headers["content-location"].rpartition("/")[2])
        await bench.settle(run_id, await bench.claim(run_id), error="boom")
        found = await frames.rest()
    assert names(found) == ["metadata", "error"]
    assert found[-1][1] == {"error": "ValueError", "message": "boom"}


async def test_large_and_many_events_arrive_whole_and_in_order(bench: LiveBench) -> None:
    thread_id = await bench.thread()
    text = "x" * 900_000
    async with bench.stream(f"/threads/{thread_id}/runs/stream", json={"assistant_id": "agent"}) as frames:
        run_id = UUID(frames.answer.headers["content-location"].rpartition("/")[2])
        feed = await bench.claim(run_id)
        for n in range(1, 3001):
            feed.emit(emitted(run_id, n))
        big = msgspec.Raw(json.dumps({"n": 3001, "text": text}).encode())
        feed.emit(Emitted(run_id=str(run_id), seq=3001, event="values", data=big))
        await bench.settle(run_id, feed)
        found = await frames.rest()
    assert [data["n"] for event, data, _ in found if event == "values"] == list(range(1, 3002))
    assert found[-2][1]["text"] == text


async def test_many_listeners_share_one_subscription(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    before = len(bench.bus.client._subs)

    async def all_of_it() -> list[str]:
        async with bench.stream(path + "/stream") as frames:
            started.release()
            return names(await frames.rest())

    started = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(all_of_it()) for _ in range(20)]
        for _ in tasks:
            await started.acquire()
        assert (bench.parts.live.watched, len(bench.bus.client._subs)) == (1, before + 1)
        feed = await bench.claim(run_id)
        feed.emit(emitted(run_id, 1))
        await bench.settle(run_id, feed)
    assert {tuple(task.result()) for task in tasks} == {("metadata", "values", "end")}
    await bench.watched(0)
    async with asyncio.timeout(5):
        while len(bench.bus.client._subs) != before:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# --- joining ------------------------------------------------------------------------------------------


async def test_join_gets_what_comes_from_now_on(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    feed = await bench.claim(run_id)
    feed.emit(emitted(run_id, 1))
    await feed.flushed()
    async with bench.stream(path + "/stream") as frames:
        await bench.watched(1)
        feed.emit(emitted(run_id, 2))
        assert await frames.next() == ("values", {"n": 2}, None)
        await bench.settle(run_id, feed)
        assert names(await frames.rest()) == ["end"]


async def test_join_of_a_run_that_has_ended(bench: LiveBench) -> None:
    path, run_id = await bench.run(stream_resumable=True)
    await bench.settle(run_id, await bench.claim(run_id), {"n": 1})
    for where in (path, f"/runs/{run_id}"):
        async with bench.stream(where + "/stream") as frames:
            assert await frames.rest() == [("end", {"status": "success"}, None)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["values", "values|c:1", "updates", "messages", "messages/partial", "custom"]),
        ("stream_mode=", ["values", "values|c:1", "updates", "messages", "messages/partial", "custom"]),
        ("stream_mode=values", ["values", "values|c:1"]),
        ("stream_mode=values&stream_mode=updates", ["values", "values|c:1", "updates"]),
        ('stream_mode=["updates","custom"]', ["updates", "custom"]),
        ("stream_mode=updates,custom", ["updates", "custom"]),
        ("stream_mode=messages", ["messages", "messages/partial"]),
        ("stream_mode=messages-tuple", ["messages"]),
    ],
)
async def test_join_filters_by_mode(bench: LiveBench, query: str, expected: list[str]) -> None:
    path, run_id = await bench.run()
    async with bench.stream(f"{path}/stream?{query}") as frames:
        feed = await bench.claim(run_id)
        every = ("values", "values|c:1", "updates", "messages", "messages/partial", "custom")
        for n, event in enumerate(every, start=1):
            feed.emit(emitted(run_id, n, event))
        await bench.settle(run_id, feed, error="boom")
        assert names(await frames.rest()) == ["metadata", *expected, "error"]


# --- going on behind an event -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "first"),
    [
        ("-1", 0),
        ("0", 0),
        ("-", 0),
        (f"{BEGAN}-1", 1),
        (f"{BEGAN}-9", 9),
        (f"{BEGAN}-10", 10),
        (f"{BEGAN}-11", 11),
    ],
)
async def test_last_event_id_compares_as_numbers(bench: LiveBench, last: str, first: int) -> None:
    path, run_id = await bench.run(stream_resumable=True)
    feed = await bench.claim(run_id)
    for n in range(1, 11):
        feed.emit(emitted(run_id, n))
    await feed.flushed()
    async with bench.stream(path + "/stream", headers={"Last-Event-ID": last}) as frames:
        await bench.watched(1)
        feed.emit(emitted(run_id, 11))
        await bench.settle(run_id, feed)
        found = await frames.rest()
    ids = [f"{BEGAN}-{n}" for n in range(first + 1, 13)]
    assert [event_id for _, _, event_id in found] == [*ids, None]
    async with bench.stream(path + "/stream", headers={"Last-Event-ID": last}) as frames:
        assert await frames.rest() == found  # the same when the run has ended


async def test_replay_goes_over_attempts(bench: LiveBench) -> None:
    path, run_id = await bench.run(stream_resumable=True)
    first = await bench.claim(run_id)
    first.emit(emitted(run_id, 1))
    await first.flushed()
    second = await bench.claim(run_id, BEGAN + 50)
    second.emit(emitted(run_id, 2))
    await second.flushed()
    first.emit(emitted(run_id, 3))  # by a worker that does not know yet that it lost the run
    await first.flushed()
    await bench.settle(run_id, second)
    async with bench.stream(path + "/stream", headers={"Last-Event-ID": "-1"}) as frames:
        found = await frames.rest()
    assert [event_id for _, _, event_id in found if event_id and int(event_id.split("-")[0]) > BEGAN] == [
        f"{BEGAN + 50}-1",
        f"{BEGAN + 50}-2",
    ]
    # What the former worker still said is left out, as it is for those who were there.
    assert names(found) == ["metadata", "values", "metadata", "values", "end"]


async def test_without_ids_there_is_nothing_to_go_on_from(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    feed = await bench.claim(run_id)
    feed.emit(emitted(run_id, 1))
    await feed.flushed()
    async with bench.stream(path + "/stream", headers={"Last-Event-ID": "-1"}) as frames:
        await bench.watched(1)
        feed.emit(emitted(run_id, 2))
        await bench.settle(run_id, feed)
        assert await frames.rest() == [("values", {"n": 2}, None), ("end", {"status": "success"}, None)]


async def test_forgotten_events_leave_the_milestones(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "GRACE_S", 0.0)
    path, run_id = await bench.run(stream_resumable=True)
    await bench.settle(run_id, await bench.claim(run_id), {"n": 7})
    await bench.forget()
    async with bench.stream(path + "/stream", headers={"Last-Event-ID": f"{BEGAN}-1"}) as frames:
        found = await frames.rest()
    assert [(event, data) for event, data, _ in found] == [
        ("gap", {"behind": f"{BEGAN}-1", "before": None}),
        ("metadata", {"run_id": str(run_id), "attempt": 1}),
        ("values", {"n": 7}),
        ("end", {"status": "success"}),
    ]


@pytest.mark.parametrize("text", ["x", "1", "1-", "1-x", "-1-2", "1.5-2", "1-2-3", "9999999999999-7"])
async def test_unknown_last_event_id_replays_from_the_beginning(bench: LiveBench, text: str) -> None:
    path, run_id = await bench.run(stream_resumable=True)
    feed = await bench.claim(run_id)
    feed.emit(emitted(run_id, 1))
    await bench.settle(run_id, feed, {"n": 1})
    async with bench.stream(path + "/stream", headers={"Last-Event-ID": text}) as frames:
        assert names(await frames.rest()) == ["metadata", "values", "end"]


# --- what goes wrong ----------------------------------------------------------------------------------


async def test_doubles_are_dropped(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    async with bench.stream(path + "/stream") as frames:
        feed = await bench.claim(run_id)
        feed.emit(emitted(run_id, 1))
        await feed.flushed()
        feed.send_again()
        await feed.flushed()
        feed.emit(emitted(run_id, 2))
        feed.send_again()
        await bench.settle(run_id, feed)
        assert names(await frames.rest()) == ["metadata", "values", "values", "end"]


async def test_what_was_lost_on_the_way_is_fetched(bench: LiveBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that only the stream has: as if the live message had been lost."""
    path, run_id = await bench.run(stream_resumable=True)
    async with bench.stream(path + "/stream") as frames:
        await bench.claim(run_id, BEGAN)
        assert (await frames.next())[0] == "metadata"

        async def publish(batch: LiveBatch) -> None:
            await bench.bus.publish(run_events_subject(run_id), msgspec.json.encode(batch))

        def batch(*seqs: int) -> LiveBatch:
            events = [LiveEvent(seq, "values", msgspec.Raw(b"%d" % seq)) for seq in seqs]
            return LiveBatch(attempt=1, began_ms=BEGAN, events=events)

        watched = bench.parts.live._open[run_id]
        with monkeypatch.context() as deaf:
            deaf.setattr(watched, "_append", lambda came: None)
            await publish(batch(2, 3))
            await stored(bench.bus, run_id, 3)
        await publish(batch(4))
        assert [(await frames.next())[1] for _ in range(3)] == [2, 3, 4]


async def test_marker_that_never_comes(bench: LiveBench) -> None:
    """The worker died between the outcome and its marker: the read models know, and the bus has the rest."""
    path, run_id = await bench.run()
    async with bench.stream(path + "/stream") as frames:
        feed = await bench.claim(run_id)
        feed.emit(emitted(run_id, 1))
        await feed.flushed()
        await bench.settle(run_id, None)
        assert names(await frames.rest()) == ["metadata", "values", "end"]


async def test_run_that_never_starts_ends_its_stream(bench: LiveBench) -> None:
    for action, shown in (("interrupt", "interrupted"), ("rollback", "rollback")):
        path, _ = await bench.run()
        async with bench.stream(path + "/stream") as frames:
            await bench.watched(1)
            answer = await bench.http.post(path + f"/cancel?action={action}")
            assert (answer.status_code, answer.json()["status"]) == (200, "interrupted")
            assert await frames.rest() == [("end", {"status": shown}, None)]
        await bench.watched(0)


async def test_streams_close_without_an_end_when_the_gateway_stops(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    async with bench.stream(path + "/stream") as frames:
        await bench.claim(run_id)
        assert (await frames.next())[0] == "metadata"
        await bench.parts.live.stop()
        assert await frames.rest() == []
    assert bench.run_now(run_id).cancel == ""


# --- the client goes away -----------------------------------------------------------------------------


@pytest.mark.parametrize("cancels", [True, False])
async def test_leaving_a_stream(bench: LiveBench, cancels: bool) -> None:
    thread_id = await bench.thread()
    body = {"assistant_id": "agent", "on_disconnect": "cancel" if cancels else "continue"}
    async with bench.stream(f"/threads/{thread_id}/runs/stream", json=body) as frames:
        run_id = UUID(frames.answer.headers["content-location"].rpartition("/")[2])
        await bench.claim(run_id)
        assert (await frames.next())[0] == "metadata"
    await bench.watched(0)
    await bench.parts.background.stop()
    assert bench.run_now(run_id).cancel == ("interrupt" if cancels else "")


@pytest.mark.parametrize("how", ["join", "stream"])
async def test_leaving_a_join(bench: LiveBench, how: str) -> None:
    path, run_id = await bench.run()
    await bench.claim(run_id)
    with pytest.raises(httpx.ReadTimeout):
        await bench.http.get(f"{path}/{how}?cancel_on_disconnect=true", timeout=0.5)
    async with asyncio.timeout(5):
        while not bench.run_now(run_id).cancel:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_staying_to_the_end_cancels_nothing(bench: LiveBench) -> None:
    thread_id = await bench.thread()
    body = {"assistant_id": "agent", "on_disconnect": "cancel"}
    async with bench.stream(f"/threads/{thread_id}/runs/stream", json=body) as frames:
        run_id = UUID(frames.answer.headers["content-location"].rpartition("/")[2])
        await bench.settle(run_id, await bench.claim(run_id))
        assert names(await frames.rest())[-1] == "end"
    await bench.parts.background.stop()
    assert (bench.run_now(run_id).status, bench.run_now(run_id).cancel) == ("success", "")


async def test_head_of_a_stream_leaves_nothing_behind(bench: LiveBench) -> None:
    path, run_id = await bench.run()
    answer = await bench.http.head(path + "/stream?cancel_on_disconnect=true")
    assert (answer.status_code, answer.headers["location"]) == (200, path + "/stream")
    await bench.watched(0)
    assert bench.run_now(run_id).cancel == ""


async def test_keep_alive(bench: LiveBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.streams.answer.HEARTBEAT_S", 0.02)
    monkeypatch.setattr("services.gateway.streams.answer.KEEP_ALIVE_S", 0.02)
    path, run_id = await bench.run()
    async with bench.http.stream("GET", path + "/stream") as stream:
        chunks = stream.aiter_bytes()
        assert (await anext(chunks)).startswith(b": heartbeat\r\n\r\n")
        async with bench.http.stream("GET", path + "/join") as join:
            pieces = join.aiter_bytes()
            assert await anext(pieces) == b"\n"
            await bench.settle(run_id, await bench.claim(run_id), {"n": 1})
            rest = b"".join([piece async for piece in pieces])
            assert json.loads(rest) == {"n": 1}
            assert rest.strip(b"\n") == b'{"n":1}'


# --- the cursor ---------------------------------------------------------------------------------------


class Reader:
    """A cursor on a run whose events the test publishes by itself."""

    def __init__(self, bench: LiveBench, run_id: UUID, made: Cursor) -> None:
        self.bench, self.run_id, self.cursor = bench, run_id, made

    async def publish(self, *seqs: int, settled: int = 0, size: int = 1) -> None:
        events = [LiveEvent(seq, "values", msgspec.Raw(b'"%b"' % (b"x" * size))) for seq in seqs]
        batch = LiveBatch(attempt=1, began_ms=BEGAN, events=events, settled=settled)
        for headers, part in parts_of(msgspec.json.encode(batch)):
            await self.bench.bus.publish(run_events_subject(self.run_id), part, headers)
        await self.bench.bus.client.flush()

    async def steps(self, until: Callable[[list[Step]], bool]) -> list[Step]:
        steps: list[Step] = []
        async with asyncio.timeout(15):
            while not until(steps):
                steps += await self.cursor.next(1)
        return steps

    async def numbers(self, last: int) -> list[int]:
        """The events up to that one."""
        steps = await self.steps(lambda steps: last in numbers_of(steps))
        return numbers_of(steps)


def numbers_of(steps: list[Step]) -> list[int]:
    """The numbers of events; a gap is told by the negative number of what comes behind it."""
    told: list[int] = []
    for step in steps:
        if isinstance(step, Events):
            told += [event.seq for event in step.some or step.batch.batch.events]
        elif isinstance(step, Gap):
            told.append(-(step.before or (0, 0))[1])
    return told


@asynccontextmanager
async def reader(bench: LiveBench, mark: tuple[int, int] | None = BEGINNING) -> AsyncIterator[Reader]:
    _, run_id = await bench.run()
    run = Reader(bench, run_id, await Cursor.open(bench.parts.live, run_id, mark, is_new=mark == BEGINNING))
    try:
        yield run
    finally:
        run.cursor.close()


async def test_what_comes_late_to_the_stream_is_waited_for(bench: LiveBench) -> None:
    """Sent again behind what came after it, as by a worker whose bus came back."""
    async with reader(bench) as run:
        await run.publish(1, 2)
        await run.publish(4)
        assert await run.numbers(2) == [1, 2]
        assert await run.cursor.next(0.2) == []
        await run.publish(1, 2)
        await run.publish(3)
        await run.publish(4)
        await run.publish(5)
        assert await run.numbers(5) == [3, 4, 5]


async def test_what_nobody_has_is_told_as_a_gap(bench: LiveBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "GAP_S", 0.2)
    async with reader(bench) as run:
        await run.publish(1)
        await run.publish(4, 5)
        await run.publish(6)
        assert await run.numbers(6) == [1, -4, 4, 5, 6]
        behind = await Cursor.open(bench.parts.live, run.run_id, (BEGAN, 2))
        run.cursor.close()
        run.cursor = behind
        assert await run.numbers(6) == [-4, 4, 5, 6]


async def test_cursor_that_falls_behind_reads_the_stream(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "WINDOW_BYTES", 2_000)
    monkeypatch.setattr(pages, "PAGE_BYTES", 3_000)
    async with reader(bench) as run:
        for seq in range(1, 101):
            await run.publish(seq, size=200)
        watched = bench.parts.live._open[run.run_id]
        async with asyncio.timeout(5):
            while watched.next < 100:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert sum(batch.size for batch in watched.window) <= 2_000
        assert await run.numbers(100) == list(range(1, 101))
        await run.publish(101)
        assert await run.numbers(101) == [101]


async def test_large_events_are_kept_for_nobody_when_there_are_many(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "ALL_WINDOWS_BYTES", 1)
    async with reader(bench) as first, reader(bench) as second:
        for run in (first, second):
            await run.publish(1, size=2_000_000)
            await run.publish(2, size=2_000_000)
            assert await run.numbers(2) == [1, 2]
        assert bench.parts.live.window_bytes < 3_000_000
    await bench.watched(0)
    await asyncio.wait(bench.parts.live._closing)
    assert bench.parts.live.window_bytes == 0


async def test_bus_that_was_away_is_no_gap(bench: LiveBench, nats: EmbeddedNats) -> None:
    async with reader(bench) as run:
        await run.publish(1)
        assert await run.numbers(1) == [1]
        bench.parts.live._open[run.run_id]._append = lambda came: None  # type: ignore[method-assign]
        await run.publish(2)
        await stored(bench.bus, run.run_id, 2)
        bench.parts.live._reconnected()
        assert await run.numbers(2) == [2]


async def test_end_of_a_run_whose_bus_stays_away(
    bench: LiveBench, nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWAY_S", "AGAIN_S"):
        monkeypatch.setattr(cursor, name, 0.1)
    async with reader(bench) as run:
        await bench.claim(run.run_id)
        await bench.settle(run.run_id, None)
        await nats.stop()
        steps = await run.steps(lambda steps: any(isinstance(step, Ended) for step in steps))
        assert [type(step) for step in steps][-2:] == [Gap, Ended]


async def test_message_that_is_none_of_ours_is_passed_over(bench: LiveBench) -> None:
    async with reader(bench) as run:
        await bench.bus.publish(run_events_subject(run.run_id), b"\xff{")
        await run.publish(1)
        assert await run.numbers(1) == [1]
        behind = await Cursor.open(bench.parts.live, run.run_id, BEGINNING)
        run.cursor.close()
        run.cursor = behind
        assert await run.numbers(1) == [1]


async def test_client_that_takes_nothing_is_cut_off(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "TAKEN_S", 0.3)
    monkeypatch.setattr(feeds, "RUN_BYTES", 64 << 20)
    path, run_id = await bench.run(stream_resumable=True)
    _, writing = await asyncio.open_connection("127.0.0.1", int(bench.url.rpartition(":")[2]))
    writing.write(f"GET {path}/stream HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await bench.watched(1)
    feed = await bench.claim(run_id)
    big = msgspec.Raw(json.dumps("x" * 20_000_000).encode())
    feed.emit(Emitted(run_id=str(run_id), seq=1, event="values", data=big))
    await bench.watched(0)
    writing.close()
    await bench.settle(run_id, feed)
    async with bench.stream(path + "/stream", headers={"Last-Event-ID": "-1"}) as told:
        assert names(await told.rest()) == ["metadata", "values", "end"]


# --- the feed -----------------------------------------------------------------------------------------


async def test_run_that_streams_much_takes_the_place_of_no_other(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "RUN_BYTES", 4 << 20)
    run_id, other = UUID(int=1), UUID(int=2)
    quiet = Feed(bench.bus, FeedSource(run_id=other, attempt=1, began_ms=BEGAN))
    await quiet.flushed()
    chatty, taken = Feed(bench.bus, FeedSource(run_id=run_id, attempt=1, began_ms=BEGAN)), 0

    def on_taken(size: int) -> None:
        nonlocal taken
        taken += size

    chatty.on_taken = on_taken
    for n in range(1, 41):
        data = msgspec.Raw(json.dumps("x" * 500_000).encode())
        chatty.emit(Emitted(run_id=str(run_id), seq=n, event="custom", data=data))
        await chatty.flushed()
    await stored(bench.bus, run_id, 41)
    assert taken == 40 * 500_002
    state = (await bench.bus.api(f"STREAM.INFO.{RUNEV.name}"))["state"]
    assert state["bytes"] < 8 << 20
    await stored(bench.bus, other, 1)


async def test_what_is_kept_of_runs_that_have_ended_is_bounded(bench: LiveBench) -> None:
    kept = Feeds(bench.bus)
    for n in range(60):
        run_id = UUID(int=n)
        feed = kept.open(FeedSource(run_id=run_id, attempt=1, began_ms=BEGAN))
        data = msgspec.Raw(json.dumps("x" * 1_000_000).encode())
        feed.emit(Emitted(run_id=str(run_id), seq=1, event="custom", data=data))
        await feed.flushed()
        kept.close(run_id, feed)
    assert 30 <= len(kept._ended) <= 33
    assert kept._ended_bytes == sum(feed.kept_bytes for feed in kept._ended.values()) <= feeds.KEPT_OF_ENDED


# --- pages --------------------------------------------------------------------------------------------


async def test_pages_read_a_subject_and_leave_nothing_behind(bus: NatsBus) -> None:
    subject = run_events_subject(UUID(int=1))
    large = b"z" * 1_300_000
    for n in range(1500):
        await bus.publish(subject, b"%d" % n)
        await bus.publish(run_events_subject(UUID(int=2)), b"other")
    for headers, part in parts_of(large):
        await bus.publish(subject, part, headers)
    await bus.client.flush()
    async with asyncio.timeout(10):
        while (await bus.api(f"STREAM.INFO.{RUNEV.name}"))["state"]["messages"] < 3003:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    reading, found, count = Pages(bus, RUNEV.name, subject), [], 0
    while (values := await reading.next()) is not None:
        found += values
        count += 1
    assert [value.data for value in found] == [*(b"%d" % n for n in range(1500)), large]
    assert found[7].begins == 15
    assert count >= 3
    reading.rewind(found[1400].begins - 1)
    again = await reading.next()
    assert again is not None
    assert again[0].data == b"1400"
    assert await Pages(bus, RUNEV.name, run_events_subject(UUID(int=3))).next() is None
    assert (await bus.api(f"CONSUMER.NAMES.{RUNEV.name}"))["consumers"] in (None, [])


async def test_pages_of_no_stream(bus: NatsBus) -> None:
    with pytest.raises(ConnectionError):
        await Pages(bus, "NOSUCH", "x").next()


# --- ids and names ------------------------------------------------------------------------------------


def test_marks() -> None:
    assert [frames.mark_of(text) for text in (None, "", "-1", "0", "-")] == [
        None,
        None,
        *[BEGINNING] * 3,
    ]
    assert frames.mark_of("100-2") == (100, 2)
    assert frames.mark_of("100") == BEGINNING


def test_node_names_cannot_break_a_frame() -> None:
    batch = LiveBatch(attempt=1, began_ms=1, events=[LiveEvent(1, "values|a\nevent: b", msgspec.Raw(b"1"))])
    step = Events(Batch(batch, 1, {}))
    assert frames.of_events(step, EventChoice()) == b"event: values|a event: b\r\ndata: 1\r\n\r\n"
