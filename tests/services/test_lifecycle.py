"""Loops of services: they end when they are told to, whatever their steps do with it."""

import asyncio

import pytest

from services.kit.lifecycle import Part, Supervised, Whole, health


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


async def test_whole_that_can_not_start_holds_nothing() -> None:
    told: list[str] = []
    whole = Whole("house", [Brittle("a", told), Brittle("b", told, at="start"), Brittle("c", told)])
    with pytest.raises(OSError, match="no"):
        await whole.start()
    assert told == ["start a", "start b", "stop b", "stop a"]
    assert not whole.started


async def test_part_that_can_not_stop_does_not_keep_the_others() -> None:
    told: list[str] = []
    whole = Whole("house", [Brittle("a", told), Brittle("b", told, at="stop")])
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
