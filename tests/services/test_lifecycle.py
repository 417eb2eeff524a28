"""Loops of services: they end when they are told to, whatever their steps do with it."""

import asyncio
import threading

import pytest

from services.kit import lifecycle
from services.kit.lifecycle import Background, Part, Supervised, SupervisedThread, Whole, health


async def test_loop_whose_step_loses_a_cancellation_ends_all_the_same() -> None:
    begun, lost = asyncio.Event(), 0

    async def step() -> None:
        nonlocal lost
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if lost:
                raise
            lost += 1  # as `asyncio.wait_for` does now and then

    loop = Supervised("test", step)
    await loop.start()
    await begun.wait()
    async with asyncio.timeout(30):
        await loop.stop()
    assert lost == 1


async def test_stopping_what_never_began_or_twice_is_harmless() -> None:
    loop = Supervised("test", asyncio.Event().wait)  # type: ignore[arg-type]
    await loop.stop()
    await loop.start()
    await loop.stop()
    await loop.stop()


async def test_loop_outlives_a_cancellation_that_nobody_asked_of_it() -> None:
    steps, gone = 0, asyncio.Event()

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
            lost = asyncio.get_running_loop().create_future()
            lost.cancel()  # as the bus does with what it can't answer any more
            await lost
        gone.set()
        await asyncio.Event().wait()

    loop = Supervised("test", step)
    await loop.start()
    async with asyncio.timeout(30):
        await gone.wait()
        await loop.stop()
    assert steps == 2


class Brittle:
    """A part that can't start, or can't stop, if it is told so."""

    def __init__(self, name: str, told: list[str], *, at: str = "") -> None:
        self.name, self._told, self._at = name, told, at
        self.parts: list[Part] = []
        self.started, self.failing = False, ""

    async def start(self) -> None:
        self._told.append(f"start {self.name}")
        if self._at == "start":
            raise OSError("no")
        self.started = True

    async def stop(self) -> None:
        self._told.append(f"stop {self.name}")
        self.started = False
        if self._at == "stop":
            raise OSError("no")
        if self._at == "stop, cancelled":
            raise asyncio.CancelledError


async def test_whole_that_can_not_start_holds_nothing() -> None:
    told: list[str] = []
    whole = Whole("house", [Brittle("a", told), Brittle("b", told, at="start"), Brittle("c", told)])
    with pytest.raises(OSError, match="no"):
        await whole.start()
    assert told == ["start a", "start b", "stop b", "stop a"]
    assert not whole.started


@pytest.mark.parametrize("at", ["stop", "stop, cancelled"])
async def test_part_that_can_not_stop_does_not_keep_the_others(at: str) -> None:
    told: list[str] = []
    whole = Whole("house", [Brittle("a", told), Brittle("b", told, at=at)])
    await whole.start()
    await whole.stop()
    assert told[2:] == ["stop b", "stop a"]


async def test_health_is_made_of_every_part_of_every_part() -> None:
    told: list[str] = []
    inner, other = Brittle("house.room", told), Brittle("shed", told)
    house = Whole("house", [inner])
    await house.start()
    inner.failing = "it rains in"
    assert health([house, other]) == {"house": "", "house.room": "it rains in", "shed": "not started"}


async def test_part_that_hangs_leaves_time_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "STOP_S", 0.2)
    told: list[str] = []
    hanging, whole = Brittle("b", told), Whole("house", [Brittle("a", told)])
    hanging.stop = asyncio.Event().wait  # type: ignore[method-assign, assignment]
    whole.parts.append(hanging)
    await whole.start()
    async with asyncio.timeout(10):
        await whole.stop()
    assert told[-1] == "stop a"


class Counting:
    """A thread's step that fails as often as it is told to."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.steps = list(errors), 0
        self.woken, self.reached = threading.Event(), threading.Event()
        self.closed = False
        self.thread = SupervisedThread("test.thread", self.step, self.woken.set, self.close)

    def step(self) -> None:
        self.steps += 1
        if self.errors:
            raise self.errors.pop(0)
        self.reached.set()
        self.woken.wait(10)

    def close(self) -> None:
        self.closed = True


async def test_thread_outlives_what_its_steps_raise() -> None:
    counting = Counting(KeyError("x"), AssertionError(), UnicodeEncodeError("utf-8", "", 0, 1, "no"))
    await counting.thread.start()
    assert await asyncio.to_thread(counting.reached.wait, 10)
    assert counting.steps == 4
    assert counting.thread.started
    await counting.thread.stop()
    await counting.thread.stop()
    assert counting.closed
    assert (counting.thread.started, counting.thread.failing) == (False, "")


async def test_thread_says_what_fails_while_it_does() -> None:
    counting = Counting(*[KeyError("x")] * 1000)
    await counting.thread.start()
    async with asyncio.timeout(10):
        while not counting.thread.failing:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert health([counting.thread]) == {"test.thread": "KeyError: 'x'"}
    await counting.thread.stop()


async def test_loop_or_thread_that_ends_by_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    dying = Counting(SystemExit())  # what no supervisor may swallow
    outer = Brittle("service", [])
    outer.parts.append(dying.thread)
    house = Whole("house", [outer])
    outer.start, outer.started = dying.thread.start, True  # type: ignore[method-assign]
    await house.start()
    async with asyncio.timeout(10):
        assert await house.ended() == "test.thread has ended: it does not say why"
    await house.stop()


async def test_part_that_has_ended_says_why() -> None:
    part = Brittle("nats", [])
    house = Whole("house", [part])
    await house.start()
    part.started, part.failing = False, "died 4 times in a minute"
    async with asyncio.timeout(10):
        assert await house.ended() == "nats has ended: died 4 times in a minute"


async def test_background_work_does_not_keep_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "STOP_S", 0.2)
    background = Background("test.background")
    await background.start()
    background.spawn(asyncio.Event().wait())  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        await background.stop()
