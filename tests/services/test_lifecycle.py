"""Loops of services: they end when they are told to, whatever their steps do with it."""

import asyncio

from services.kit.lifecycle import Supervised


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
